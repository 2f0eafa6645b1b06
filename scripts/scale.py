#!/usr/bin/env python3
"""Computes the tables of docs/scale.md: what 10,000, 100,000 and 1,000,000
machines need of the hub, and what happens when a node or the whole site is lost.

    scripts/scale.py            prints the tables
    scripts/scale.py --update   writes them into docs/scale.md
    scripts/scale.py --check    exits 1 when docs/scale.md has others

The same seed gives the same output on every machine. Change a figure below and
run it with --update.
"""
import bisect
import collections
import math
import pathlib
import random
import re
import struct
import sys
import zlib

# Measured: the hub with scripts/build.sh on an AMD EPYC, Linux 6.18, two cores
# shared with other work, November 2026.
LINK_KB = 15.5  # memory (PSS) of an idle link, 10,000 links on one hub (testdata/bench, links)
LINK_US = 2.7  # CPU of an idle link in a second, the same 10,000 links: pings, heartbeats
HANDSHAKE_US = 138.0  # CPU of the hub for one upgrade and handshake, the same 10,000 links, 64 at once
EMPTY_MB = 11.0  # memory of a scheduler without links and daemons
BINDING_KB = 0.7  # memory of a bound library and its machine, 100,000 bindings
CALL_US = 170.0  # CPU of hub and daemon for one small call, one at a time (BENCHMARKS.md, stat c1)
TLS_US = {"nginx": 475.0, "HAProxy": 580.0}  # CPU of the proxy for one TLS handshake (ECDSA P-256) and upgrade
PROXY_KB = {"nginx": 45.0, "HAProxy": 19.0}  # memory of the proxy for one link
FRAME_US = 22.0  # CPU of either proxy for one small frame

# From the code; REFERENCE.md has them too.
PING_S, HEARTBEAT_S = 20, 30  # each side pings; the other side answers
FRAMES = 4 / PING_S + 1 / HEARTBEAT_S  # of an idle link in a second
HANDSHAKES = 1000  # that a node takes in a second, by default (--max-handshakes)
BURST_S = 10  # a node that was idle takes those of so many seconds at once (handshakeBurst)
MORE_HANDSHAKES = 5000  # a fifth of what four cores take, from HANDSHAKE_US
RECONNECT_MOST_S = 30.0
ATTEMPTS = 64  # --max-reconnect-attempts
MAX_BINDINGS = 100_000  # maxLibraries
POINTS = 160  # of a server on nginx's ring (hash … consistent)
SOURCE_PORTS = 60999 - 32768 + 1  # ip_local_port_range of Linux: connections of one address to one port

# Assumed.
PER_NODE = 20_000  # links of a node on average, before the spare one is added
CALLS_A_MINUTE = 1  # of each machine
NODE_CORES, PROXY_CORES = 4, 8
FLEETS = (10_000, 100_000, 1_000_000)
SEED = 14


def nodes_for(machines):
    """Enough for PER_NODE links each, and one to spare."""
    return math.ceil(machines / PER_NODE) + 1


def ring(nodes):
    """nginx's ring: POINTS points of each server, each the crc32 of the server's
    name, its port and the point before (ngx_http_upstream_hash_module.c)."""
    points = {}
    for node in nodes:
        previous = 0
        for _ in range(POINTS):
            previous = zlib.crc32(b"10.0.%d.%d\0" % divmod(node, 256) + b"5110" + struct.pack("<I", previous))
            points.setdefault(previous, node)
    places = sorted(points)
    return places, [points[place] for place in places]


def assign(keys, nodes):
    places, owners = ring(nodes)
    return [owners[bisect.bisect_left(places, key) % len(places)] for key in keys]


class Fleet:
    """The machines of a size, on their nodes, before and after the loss of the
    fullest node."""

    def __init__(self, machines, rng):
        self.machines, self.nodes = machines, nodes_for(machines)
        keys = [zlib.crc32(b"host-%08x" % rng.getrandbits(32)) for _ in range(machines)]
        before = assign(keys, range(self.nodes))
        count = collections.Counter(before)
        self.fullest, self.emptiest = max(count.values()), min(count[n] for n in range(self.nodes))
        lost = max(count, key=count.get)
        after = assign(keys, [n for n in range(self.nodes) if n != lost])
        self.moved = sum(a != b for a, b in zip(before, after))
        assert self.moved == self.fullest  # only those of the lost node move
        gained = collections.Counter(a for a, b in zip(after, before) if b == lost)
        self.gain = max(gained.values())
        self.fullest_after = max(collections.Counter(after).values())
        self.mean = machines / self.nodes
        self.mean_after = machines / (self.nodes - 1)


def delay(attempt, rng):
    """The wait before an attempt, as in backoff.go."""
    base = min(RECONNECT_MOST_S, 2.0**attempt)
    return base * (1 + rng.random()) / 2


def storm(links, outage, handshakes, rng):
    """Lets the links of one node reconnect. Nothing accepts them until outage, and
    then BURST_S * handshakes at once and handshakes in a second. Returns when each is back, in seconds after
    the outage, and the attempts in each second from the loss."""
    tick = 0.1
    due = collections.defaultdict(list)  # attempts by tick
    for _ in range(links):
        due[int(delay(1, rng) / tick)].append(1)
    back, attempts = [], collections.Counter()
    now, room = 0, BURST_S * handshakes
    while due:
        waiting = due.pop(now, [])
        attempts[int(now * tick)] += len(waiting)
        room = min(room + handshakes * tick, BURST_S * handshakes)
        for attempt in waiting:
            if room >= 1 and now * tick >= outage:
                room -= 1
                back.append(now * tick - outage)
            else:
                due[now + 1 + int(delay(attempt + 1, rng) / tick)].append(attempt + 1)
        now += 1
    return back, attempts


def number(value):
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def memory(kb):
    return f"{number(kb / 1e6)} GB" if kb >= 1e6 else f"{number(kb / 1e3)} MB"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def node_table(fleets):
    rows = []
    for f in fleets:
        links = f.fullest_after
        rows.append((
            f"{f.machines:,}", f.nodes, f"{f.fullest:,}", f"{links:,}",
            memory(EMPTY_MB * 1e3 + links * LINK_KB + min(f.machines, MAX_BINDINGS) * BINDING_KB), f"{links + 1000:,}",
            number(links * LINK_US / 1e6), number(links * CALLS_A_MINUTE / 60 * CALL_US / 1e6),
        ))
    return table(("machines", "nodes", "links, fullest node", "after the loss of it", "memory", "descriptors", "cores, idle links", "cores, calls"), rows)


def hash_table(fleets):
    rows = [(f.nodes, f"{f.mean:,.0f}", f"{f.fullest / f.mean:.2f}", f"{f.emptiest / f.mean:.2f}",
             f"{f.moved / f.machines:.1%}", f"{f.gain / f.moved:.0%}", f"{f.fullest_after / f.mean_after:.2f}") for f in fleets]
    return table(("nodes", "links, mean", "fullest to mean", "emptiest to mean", "moved by a loss", "of these to one node", "fullest to mean after"), rows)


def storm_table(fleets):
    rows = []
    for f in fleets:
        for what, links, outage, scale in (
            ("the fullest node", f.gain, 0, f.moved / f.gain),
            ("all nodes for 5 s", f.fullest, 5, f.machines / f.fullest),
            ("all nodes for 1 min", f.fullest, 60, f.machines / f.fullest),
            ("all nodes for 10 min", f.fullest, 600, f.machines / f.fullest),
        ):
            back, attempts = storm(links, outage, HANDSHAKES, random.Random(SEED))
            back.sort()
            sooner = max(storm(links, outage, MORE_HANDSHAKES, random.Random(SEED))[0])
            peak = max(attempts.values()) * scale
            returned = max((n for second, n in attempts.items() if second >= outage), default=0) * scale
            rows.append((f"{f.machines:,}", what, f"{links * scale:,.0f}", f"{sum(attempts.values()) / links:.1f}",
                         *(f"{back[min(int(len(back) * share), len(back) - 1)]:.1f} s" for share in (0.5, 0.99, 1)), f"{sooner:.1f} s",
                         f"{peak:,.0f}", number(peak * TLS_US["HAProxy"] / 1e6), f"{returned:,.0f}"))
    return table(("machines", "lost", "links", "attempts each", "half are back", "99 %", "all", f"all, at {MORE_HANDSHAKES:,} a second", "attempts in the worst second",
                  "proxy cores for it", "worst second after the return"), rows)


def proxy_table(fleets):
    rows = []
    for f in fleets:
        frames = f.machines * FRAMES
        rows.append((
            f"{f.machines:,}", f"{2 * f.machines:,}", memory(f.machines * PROXY_KB["nginx"]), memory(f.machines * PROXY_KB["HAProxy"]),
            f"{frames:,.0f}", number(frames * FRAME_US / 1e6), math.ceil(f.fullest_after / SOURCE_PORTS),
        ))
    return table(("machines", "connections", "memory, nginx", "memory, HAProxy", "frames/s, idle", "cores for them", "addresses for the ports"), rows)


def limit_table(fleets):
    largest = fleets[-1]
    uneven = max(f.fullest_after / f.mean_after for f in fleets)
    proxy_rate = PROXY_CORES / (TLS_US["HAProxy"] / 1e6)
    gives_up = sum((min(RECONNECT_MOST_S, 2.0**n) * 0.75) for n in range(1, ATTEMPTS))
    rows = [
        (f"{SOURCE_PORTS:,} links of one node through one address of a proxy", "a connection to a node needs a source port of its own, and Linux gives one address so many for one destination",
         f"at {SOURCE_PORTS / uneven:,.0f} links a node on average: the fullest has {uneven:.2f} times as many",
         "`net.ipv4.ip_local_port_range = 1024 65535` (64,512), more proxies, or more than one port or address for each node"),
        (f"{MAX_BINDINGS:,} bound libraries", f"a hub refuses the next PUT; each node holds all bindings, {BINDING_KB} kB each",
         f"{memory(largest.machines * BINDING_KB)} on each node at a million, if the limit were raised",
         "sites of at most 100,000 libraries, each with its own name and nodes"),
        (f"{10 * proxy_rate:,.0f} machines for each proxy of {PROXY_CORES} cores", f"after the loss of all nodes every machine dials within a second, and {PROXY_CORES} cores make {proxy_rate:,.0f} TLS handshakes a second",
         "daemons give up a dial after 10 s: what waits longer is work for nothing, and comes again",
         "several proxies behind DNS or a TCP balancer; a limit of new connections at the proxy, which spreads the rest by the daemons' delays"),
    ]
    text = table(("breaks at", "because", "then", "what to do"), rows)
    return text + f"\n\nA daemon ends with exit status 3 after {ATTEMPTS} failed attempts (`--max-reconnect-attempts`), on average {gives_up / 60:.0f} minutes after its link was\nlost. A service manager must start it again, as the units of `deploy/systemd` do."


def main():
    fleets = [Fleet(machines, random.Random(SEED)) for machines in FLEETS]
    blocks = {"nodes": node_table, "hash": hash_table, "storm": storm_table, "proxy": proxy_table, "limits": limit_table}
    made = {name: make(fleets) for name, make in blocks.items()}
    if len(sys.argv) == 1:
        print("\n\n".join(f"{name}\n\n{text}" for name, text in made.items()))
        return
    if sys.argv[1:] not in (["--update"], ["--check"]):
        sys.exit(__doc__)
    page = pathlib.Path(__file__).resolve().parent.parent / "docs" / "scale.md"
    have = page.read_text()
    want = have
    for name, text in made.items():
        want, found = re.subn(rf"(<!-- scale.py: {name} -->\n).*?(<!-- end -->)", lambda m: m[1] + text + "\n" + m[2], want, flags=re.S)
        if found != 1:
            sys.exit(f"{page}: found {found} places for the table {name}, want 1")
    if sys.argv[1] == "--update":
        page.write_text(want)
    elif have != want:
        sys.exit(f"{page}: the tables are not those of the script: run scripts/scale.py --update")


if __name__ == "__main__":
    main()
