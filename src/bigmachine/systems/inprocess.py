"""Machines inside the driver's own process: no sockets, no processes, for users' unit tests [Go: testsystem].

Everything above the transport is real: calls are frames, values are pickled, leases run, a killed machine's calls
fail as those of a killed process do. Not shared with real machines: output (it is this process's), and that the
module state of the program is the driver's own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from bigmachine.agent import Event, KeepaliveReply, LaunchSpec, MachineInfo, Stopped
from bigmachine.errors import Cause, DeathCertificate, MachineStopped, ProvisionError
from bigmachine.observe import DiskInfo, LoadInfo, MemInfo, disk_info, load_info, mem_info
from bigmachine.rpc import Dialer, Reactor, Server, ServiceTable
from bigmachine.rpc.memory import MemoryDialer
from bigmachine.rpc.registrar import Registrar
from bigmachine.system import Keepalive, Launched, System, Ticket
from bigmachine.trust import Peer, Role

_log = logging.getLogger("bigmachine")


class HasAddress(Protocol):
    """A machine's handle, or an `InprocessMachine`."""

    @property
    def address(self) -> str: ...


class InprocessMachine:
    """One machine of an `InprocessSystem`, seen from inside: a test can look at its services."""

    def __init__(self, system: InprocessSystem, spec: LaunchSpec, ticket: Ticket) -> None:
        self.machine_id = spec.machine_id
        self.address = f"{system.name}:0/{spec.machine_id}"
        self.spec = spec
        self.services = ServiceTable()
        self.started = time.time()
        self._system = system
        self._reactor = ticket.reactor
        self._timer: asyncio.TimerHandle | None = None
        session = ticket.guest(spec.machine_id)
        self.server = Server(self.services, session=session, reactor=ticket.reactor)
        self.services.register("Supervisor", Registrar(self.services, session))
        self.renew(system.keepalive.first_contact)

    def service(self, name: str) -> object | None:
        """Return the service object of that name, or None."""
        return self.services.get(name)

    def renew(self, lease: float) -> None:
        """Let it live for so many seconds more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._reactor.loop.call_later(lease, self._expire, lease)

    def _expire(self, lease: float) -> None:
        self._system.end(self, Cause.LEASE_EXPIRED, f"nobody renewed its lease of {lease:g} s")

    async def close(self) -> None:
        """Drop every connection and stop the threads."""
        if self._timer is not None:
            self._timer.cancel()
        for channel in list(self.server.channels):
            for connection in (channel.main, channel.bulk):
                if connection is not None:
                    connection.abort()
        await self.server.close()

    def __repr__(self) -> str:
        return f"<InprocessMachine {self.address}>"


class _Supervisor:
    """The agent's view of one machine, as on a host."""

    def __init__(self, system: InprocessSystem, machine: InprocessMachine) -> None:
        self._system = system
        self._machine = machine

    async def ping(self, data: object = None) -> object:
        return data

    async def info(self) -> MachineInfo:
        spec = self._machine.spec
        return MachineInfo(
            hostname=socket.gethostname(),
            platform=f"{sys.platform}-{platform.machine()}",
            python=platform.python_version(),
            maxprocs=spec.maxprocs,
            pid=os.getpid(),
            entry="a machine inside the driver's process",
        )

    async def keepalive(self, lease_s: float) -> KeepaliveReply:
        self._machine.renew(lease_s)
        return KeepaliveReply(next_s=lease_s, healthy=True)

    async def getpid(self) -> int:
        return os.getpid()

    async def mem_info(self) -> MemInfo:
        return mem_info()

    async def disk_info(self) -> DiskInfo:
        return disk_info()

    async def load_info(self) -> LoadInfo:
        return load_info()

    async def shutdown(self, grace_s: float = 0.0) -> None:
        self._system.end(self._machine, Cause.SHUTDOWN, "it was asked to end")


class _Agent:
    """What the session calls at an agent, for machines of this process."""

    def __init__(self, system: InprocessSystem) -> None:
        self._system = system

    async def launch(self, spec: LaunchSpec) -> None:
        self._system.add(spec)

    async def events(self, cursor: int = 0) -> AsyncIterator[Event]:
        async for event in self._system.events(cursor):
            yield event

    async def ack(self, cursor: int) -> None:
        """Nothing to free: there is no output."""


class InprocessSystem(System):
    """Provides machines inside this process."""

    name = "inprocess"

    def __init__(self, maxprocs: int = 1, keepalive: Keepalive | None = None) -> None:
        self.maxprocs = maxprocs
        self.keepalive = keepalive or Keepalive(interval=2.0, timeout=10.0, lease=10.0)
        self._agent_id = f"i{secrets.token_hex(3)}"
        self._machines: dict[str, InprocessMachine] = {}
        self._changed = threading.Condition()
        self._ticket: Ticket | None = None
        self._table = ServiceTable()
        self._server: Server | None = None
        self._events: list[Event] = []
        self._news: asyncio.Event | None = None

    # the System

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        if n < 1:
            raise ProvisionError(f"{n} machines were asked for: it has to be at least one")
        if self._ticket is None:
            self._ticket = ticket
            self._news = asyncio.Event()
            self._table.register("Agent", _Agent(self))
            self._server = Server(self._table, reactor=ticket.reactor)
        place = Launched(self._agent_id, hostname=socket.gethostname(), maxprocs=self.maxprocs, dialer=self.dialer)
        return [place] * n

    def dialer(self, ident: str, role: Role) -> Dialer:
        """Make a way to the agent or to a machine."""
        assert self._ticket is not None
        caller = Peer(self._ticket.session, Role.DRIVER, "driver")
        return _Finding(self, ident, caller)

    def server_of(self, ident: str) -> Server | None:
        """Return who answers under this id; None if nobody does any more."""
        if ident == self._agent_id:
            return self._server
        machine = self._machines.get(ident)
        return machine.server if machine is not None else None

    def shutdown(self, timeout: float) -> None:
        ticket = self._ticket
        if ticket is not None:
            for machine in self.machines():
                ticket.reactor.post(self.end, machine, Cause.SHUTDOWN, "the system was shut down")

    # for tests

    def machines(self) -> list[InprocessMachine]:
        """Return the machines that are alive, in the order of their start."""
        with self._changed:
            return list(self._machines.values())

    def wait(self, n: int, timeout: float = 60.0) -> list[InprocessMachine]:
        """Wait until there are at least `n` machines; return them.

        Raises: TimeoutError.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._machines) >= n, timeout):
                raise TimeoutError(f"{len(self._machines)} machines after {timeout:g} s, waiting for {n}")
            return list(self._machines.values())

    def kill(self, machine: HasAddress | None = None) -> bool:
        """Kill a machine as `kill -9` would, or any one; False if there is none, or it is not alive."""
        with self._changed:
            alive = list(self._machines.values())
        chosen = [m for m in alive if machine is None or m.address == machine.address]
        if not chosen or self._ticket is None:
            return False
        victim = random.choice(chosen)  # noqa: S311 (a test's dice)
        self._ticket.reactor.post(self.end, victim, Cause.SIGNAL, "it was killed by a test")
        return True

    # on the reactor's thread

    def add(self, spec: LaunchSpec) -> None:
        """Make a machine."""
        assert self._ticket is not None
        machine = InprocessMachine(self, spec, self._ticket)
        self._table.register(f"Supervisor@{spec.machine_id}", _Supervisor(self, machine))
        with self._changed:
            self._machines[spec.machine_id] = machine
            self._changed.notify_all()

    def end(self, machine: InprocessMachine, cause: Cause, detail: str) -> None:
        """End a machine."""
        with self._changed:
            if self._machines.pop(machine.machine_id, None) is None:
                return
            self._changed.notify_all()
        certificate = DeathCertificate(
            cause,
            machine.spec.name,
            detail,
            signal=signal.SIGKILL if cause == Cause.SIGNAL else None,
            pid=os.getpid(),
            started=machine.started,
            stopped=time.time(),
        )
        assert self._ticket is not None
        assert self._news is not None
        self._table.remove(f"Supervisor@{machine.machine_id}")
        self._table.register(f"Supervisor@{machine.machine_id}", _Gone(certificate))
        self._ticket.reactor.spawn(machine.close(), f"close {machine.address}")
        self._events.append(
            Stopped(len(self._events) + 1, machine.machine_id, time.time(), certificate, exception=None, text="")
        )
        self._news.set()

    async def events(self, cursor: int) -> AsyncIterator[Event]:
        """Give every event after `cursor`, and those to come."""
        assert self._news is not None
        while True:
            while cursor < len(self._events):
                cursor += 1
                yield self._events[cursor - 1]
            self._news.clear()
            await self._news.wait()


class _Gone:
    """Answers for a machine that has ended."""

    def __init__(self, certificate: DeathCertificate) -> None:
        self._certificate = certificate

    async def ping(self, data: object = None) -> object:
        raise MachineStopped(self._certificate)

    async def keepalive(self, lease_s: float) -> KeepaliveReply:
        raise MachineStopped(self._certificate)

    async def shutdown(self, grace_s: float = 0.0) -> None:
        """It has ended already."""


class _Finding(MemoryDialer):
    """A `MemoryDialer` that looks up who answers when it dials."""

    def __init__(self, system: InprocessSystem, ident: str, peer: Peer) -> None:
        super().__init__(None, peer, ident)
        self._system = system
        self._ident = ident

    async def dial(self, reactor: Reactor, receiver):  # type: ignore[no-untyped-def]  # as MemoryDialer's
        self.server = self._system.server_of(self._ident)
        return await super().dial(reactor, receiver)
