"""Runs a command as on an old kernel: system calls that came after Linux 4.19
answer ENOSYS.

  oldkernel.py COMMAND…
"""

import errno
import os
import sys

import seccomp

f = seccomp.SyscallFilter(seccomp.ALLOW)
# In the order of their versions, 5.1 to 6.6 (man 2 syscalls).
for name in (
    "io_uring_setup io_uring_enter io_uring_register pidfd_send_signal pidfd_open clone3 close_range openat2 pidfd_getfd "
    "faccessat2 epoll_pwait2 landlock_create_ruleset landlock_add_rule landlock_restrict_self process_madvise fchmodat2"
).split():
    number = seccomp.resolve_syscall(seccomp.Arch(), name)
    if number >= 0:
        f.add_rule(seccomp.ERRNO(errno.ENOSYS), number)
f.load()
os.execvp(sys.argv[1], sys.argv[1:])
