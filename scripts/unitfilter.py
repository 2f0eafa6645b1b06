"""Runs a command under the SystemCallFilter= of a unit, as systemd would, and
where the kernel has it (Linux 6.3) under MemoryDenyWriteExecute= too.

  unitfilter.py UNIT COMMAND…
"""
import ctypes
import errno
import os
import re
import subprocess
import sys

import seccomp

unit, command = open(sys.argv[1]).read(), sys.argv[2:]


def calls(group):
    names = set()
    for line in subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager", group], check=True, capture_output=True, text=True).stdout.splitlines()[1:]:
        name = line.strip()
        if name.startswith("@"):
            names |= calls(name)
        elif name and not name.startswith("#"):
            names.add(name)
    return names


allowed = set()
for line in re.findall(r"^SystemCallFilter=(.*)$", unit, re.M):
    groups = set().union(*(calls(g) for g in line.lstrip("~").split()))
    allowed = allowed - groups if line.startswith("~") else allowed | groups
f = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
for name in allowed | {"execve", "exit", "exit_group", "getrlimit", "rt_sigreturn", "sigreturn", "clock_gettime", "time"}:
    try:
        f.add_rule(seccomp.ALLOW, name)
    except (RuntimeError, ValueError):
        pass  # not of this architecture
if "MemoryDenyWriteExecute=yes" in unit:
    ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE; an error means that the kernel has none
f.load()
os.execvp(command[0], command)
