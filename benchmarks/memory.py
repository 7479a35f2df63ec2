"""Memory of five idle machines with their driver, agent and zygote; and of one idle connection.

Counted as PSS (/proc/PID/smaps_rollup): pages that processes share count once in all.
"""

from __future__ import annotations

import gc
import os
import re
import tempfile
import time
from pathlib import Path

import measure
import psutil
from cryptography import x509
from measure import Goal, Options, Row, Stat
from program import FIVE_MACHINES, FORKSERVER, Program
from target import Target

import bigmachine
from bigmachine.rpc import Link, Reactor, TlsDialer
from bigmachine.trust import Identity, Peer, Role, client_context

_FLOOR = "driver, forkserver and five processes of multiprocessing"
_CONNECTIONS = 200
_SETTLED = 1.0


def pss(pid: int) -> int:
    """Return a process's share of memory, in bytes."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def five(command: tuple[str, ...]) -> tuple[float, str]:
    """Return the memory of a program's processes, idle, and how it divides."""
    program = Program(*command)
    time.sleep(_SETTLED)  # idle is what is measured
    parts = [(_name(process), pss(process.pid)) for process in program.processes()]
    program.end()
    listed = ", ".join(f"{name} {size / measure.MEBIBYTE:.1f}" for name, size in parts)
    return float(sum(size for _, size in parts)), f"MiB: {listed}"


def _name(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/comm").read_text().strip()
    except OSError:
        return "?"


def connections(session: bigmachine.Session) -> tuple[float, float]:
    """Return what an idle connection takes, at the caller and at the machine."""
    (machine,) = session.start(1, services={"Target": Target()})
    pid = machine.call(Target.pid)
    # A handle has one connection, so more of them are made as a handle makes it.
    reactor, dialer = Reactor.in_thread(), dialer_of(session, machine)
    links = [Link(reactor, dialer) for _ in range(_CONNECTIONS + 1)]
    links[0].call("Target.echo", 1)
    gc.collect()
    before = pss(os.getpid()), pss(pid)
    for link in links[1:]:
        link.call("Target.echo", 1)
    gc.collect()
    time.sleep(_SETTLED)
    after = pss(os.getpid()), pss(pid)
    for link in links:
        link.close(bigmachine.NetworkError("done"))
    ours, theirs = ((b - a) / _CONNECTIONS for a, b in zip(before, after, strict=True))
    return ours, theirs


def dialer_of(session: bigmachine.Session, machine: bigmachine.Machine) -> TlsDialer:
    """Make a way to a machine, as a client of the session."""
    with tempfile.TemporaryDirectory() as folder:
        files = session.write_credentials(folder)
        ca, certificate, key = (file.read_bytes() for file in (files.ca, files.certificate, files.key))
    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    me = Peer.parse_uri(uri)
    context = client_context(Identity(me.session, me.role, me.id, certificate, key, ca))
    where, _, machine_id = machine.address.partition("/")
    host, _, port = where.rpartition(":")
    return TlsDialer(host, int(port), machine_id, me.session, (Role.MACHINE,), context)


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    n = options.pick(2, 5)
    ours = [five(FIVE_MACHINES) for _ in range(n)]
    floor = [five(FORKSERVER) for _ in range(n)]
    stats = [Stat.of([size for size, _ in taken]) for taken in (ours, floor)]
    idle = [Stat.of([size]) for size in connections(session)]
    goal = Goal("median", 100 * 1024)
    note = f"of {_CONNECTIONS} connections"
    return [
        Row(
            "driver, agent, zygote, five idle machines",
            "B",
            stats[0],
            _FLOOR,
            stats[1],
            (Goal("median", 90 * measure.MEBIBYTE),),
            note=ours[-1][1],
        ),
        Row("an idle connection, at the caller", "B", idle[0], goals=(goal,), note=note),
        Row("an idle connection, at the machine", "B", idle[1], goals=(goal,), note=note),
    ]


if __name__ == "__main__":
    measure.run_in_session(figures)
