"""The System whose machines are inside this process, and what a test does with them."""

from __future__ import annotations

import functools
import os
import random
import secrets
import signal
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from typing import BinaryIO, Protocol

from bigmachine.agent import LaunchSpec, Stopped
from bigmachine.errors import Cause, DeathCertificate, InvalidCall, ProvisionError
from bigmachine.rpc import Dialer, Server, ServiceTable
from bigmachine.system import HasMachineId, Keepalive, Launched, System, Ticket, agent_id_of
from bigmachine.systems.inprocess.agent import Agent, Gone, Supervisor, authorize
from bigmachine.systems.inprocess.feed import EventFeed
from bigmachine.systems.inprocess.machine import InprocessMachine, Way
from bigmachine.trust import Peer, Role

#: For so many machines that have ended it is known why; older ones are unknown.
_REMEMBERED = 1000


class HasAddress(Protocol):
    """A machine's handle, or an `InprocessMachine`."""

    @property
    def address(self) -> str: ...


class InprocessSystem(System):
    """Provides machines inside this process, to one session."""

    name = "inprocess"

    def __init__(self, maxprocs: int = 1, keepalive: Keepalive | None = None) -> None:
        self.maxprocs = maxprocs
        self.keepalive = keepalive or Keepalive(interval=2.0, timeout=10.0, lease=10.0)
        self.feed = EventFeed()
        self._agent_id = f"i{secrets.token_hex(3)}"
        self._machines: dict[str, InprocessMachine] = {}
        self._changed = threading.Condition()
        self._ticket: Ticket | None = None
        self._is_shut_down = False
        self._gone: deque[str] = deque()
        self._table = ServiceTable()
        self._server: Server | None = None

    # the System

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        if n < 1:
            raise ProvisionError(f"{n} machines were asked for: it has to be at least one")
        with self._changed:
            if self._is_shut_down:
                raise ProvisionError("this inprocess system was shut down; make a new one")
            if self._ticket is None:
                self._ticket = ticket
                self._table.register("Agent", Agent(self))
                self._server = Server(self._table, authorize=authorize, reactor=ticket.reactor)
        dialer = functools.partial(self._way, Peer(ticket.session, Role.DRIVER, "driver"))
        place = Launched(self._agent_id, hostname=socket.gethostname(), maxprocs=self.maxprocs, dialer=dialer)
        return [place] * n

    def _way(self, caller: Peer, ident: str, role: Role) -> Dialer:
        return Way(self._find, ident, caller)

    def _find(self, ident: str) -> Server | None:
        if ident == self._agent_id:
            return self._server
        machine = self._machines.get(ident)
        return None if machine is None else machine.server

    def read(self, machine: HasMachineId, path: str) -> BinaryIO:
        if agent_id_of(machine) != self._agent_id:
            raise InvalidCall(f"the machine {machine.machine_id!r} is none of this inprocess system's")
        return open(path, "rb")

    def shutdown(self, timeout: float) -> None:
        with self._changed:
            self._is_shut_down = True
            ticket, left = self._ticket, list(self._machines.values())
        if ticket is not None and left:
            for machine in left:
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
        """Kill a machine as `kill -9` would, or any one; False if there is none, or it is not alive.

        It is not among `machines()` any more when this returns; its handle is told a moment later.
        """
        with self._changed:
            chosen = [m for m in self._machines.values() if machine is None or m.address == machine.address]
            if not chosen or self._ticket is None:
                return False
            victim = random.choice(chosen)  # noqa: S311 (a test's dice)
            del self._machines[victim.machine_id]
            self._changed.notify_all()
        self._ticket.reactor.post(self._bury, victim, Cause.SIGNAL, "it was killed by a test", None)
        return True

    # on the reactor's thread

    def add(self, spec: LaunchSpec) -> None:
        """Make a machine."""
        assert self._ticket is not None
        caller = Peer(self._ticket.session, Role.MACHINE, spec.machine_id)
        way = functools.partial(self._way, caller)
        machine = InprocessMachine(spec, f"{self.name}:0/{spec.machine_id}", self._ticket, way, self.end)
        machine.renew(self.keepalive.lease)
        self._table.register(f"Supervisor@{spec.machine_id}", Supervisor(self, machine))
        with self._changed:
            self._machines[spec.machine_id] = machine
            self._changed.notify_all()

    def end(self, machine: InprocessMachine, cause: Cause, detail: str, error: BaseException | None = None) -> None:
        """End a machine, unless it has ended already."""
        with self._changed:
            if self._machines.pop(machine.machine_id, None) is None:
                return
            self._changed.notify_all()
        self._bury(machine, cause, detail, error)

    def _bury(self, machine: InprocessMachine, cause: Cause, detail: str, error: BaseException | None) -> None:
        certificate = DeathCertificate(
            cause,
            machine.spec.name,
            detail,
            signal=signal.SIGKILL if cause == Cause.SIGNAL else None,
            pid=os.getpid(),
            started=machine.started,
            stopped=time.time(),
        )
        self._table.remove(f"Supervisor@{machine.machine_id}")
        self._table.register(f"Supervisor@{machine.machine_id}", Gone(certificate))
        self._gone.append(machine.machine_id)
        if len(self._gone) > _REMEMBERED:
            self._table.remove(f"Supervisor@{self._gone.popleft()}")
        machine.close()
        text = "" if error is None else "".join(traceback.format_exception(error))
        self.feed.put(lambda seq: Stopped(seq, machine.machine_id, time.time(), certificate, None, text))
