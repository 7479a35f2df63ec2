"""One agent, as the driver sees it: its link, its stream of events, and the machines that it carries.

The events tell what only the agent can know: what a machine wrote, how far it is, and how it died. They are read from
a cursor, so nothing is lost when the connection breaks, and acknowledged, so that the agent need not keep them.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from bigmachine.agent import Dumped, Event, Halted, MemoryShort, Noticed, Output, PhaseChanged, Stopped
from bigmachine.errors import BigmachineError, Cause, DeathCertificate, MachineStopped, RemoteTraceback
from bigmachine.machine.life import Phase
from bigmachine.rpc import Link, PeerGone

_log = logging.getLogger("bigmachine")
#: An agent's word for a program that can be called, which a handle finds out by calling it.
_SERVES = "serving"
#: Acknowledge after so many bytes of events; and in any case when there is nothing more to read for a moment.
_ACK_BYTES = 256 * 1024
_ACK_PAUSE = 0.2
#: While the output is held up, look so often whether it goes on: an agent keeps a few megabytes, some 50 ms of a burst.
_CROWDED_PAUSE = 0.02
_FIRST_PAUSE = 0.005
#: So many launches are under way at a host at once: twice what its zygote forks together. All at once would have their
#: handshakes at once, too, behind which, on a crowded computer, keepalives wait for longer than a lease.
_AT_ONCE = 16
_PAUSE = 0.5


class Tenant(Protocol):
    """A machine on this host, for what the agent says of it."""

    def wrote(self, stream: str, data: bytes) -> None: ...

    def reached(self, phase: Phase) -> None: ...

    def short_of_memory(self, event: MemoryShort) -> None: ...

    def dumped(self, event: Dumped) -> None: ...

    def noticed(self, event: Noticed) -> None: ...

    def halted(self, event: Halted) -> None: ...

    def died(self, error: MachineStopped) -> None: ...


class Host:
    """The driver's side of one agent."""

    def __init__(self, agent_id: str, link: Link, is_crowded: Callable[[], bool]) -> None:
        self.agent_id = agent_id
        self._is_crowded = is_crowded
        self.link = link
        self.launching = asyncio.Semaphore(_AT_ONCE)
        self._tenants: dict[str, Tenant] = {}
        self._cursor = 0
        self._acknowledged = 0
        self._unacknowledged = 0
        self._reading: asyncio.Task[object] | None = None
        self._acking: asyncio.TimerHandle | None = None
        self._is_ending = False
        self._was_healthy = True

    # on the reactor's thread

    def admit(self, machine_id: str, tenant: Tenant) -> None:
        """Begin to listen for what happens to a machine."""
        self._tenants[machine_id] = tenant
        if self._reading is None:
            self._reading = self.link.reactor.spawn(self._read(), f"events of {self.agent_id}")

    def note_health(self, healthy: bool) -> None:
        """Note whether the host has memory to spare; a change for the worse is logged [Go: machine.go]."""
        if self._was_healthy and not healthy:
            _log.warning(
                "the host of agent %s (%s) is short of memory: fewer machines on it, or fewer calls at once, help",
                self.agent_id,
                self.link.name,
            )
        self._was_healthy = healthy

    def dismiss(self, machine_id: str) -> None:
        """Stop listening for a machine."""
        self._tenants.pop(machine_id, None)

    async def _read(self) -> None:
        failures = 0
        while not self._is_ending:
            cursor = self._cursor
            try:
                stream = await self.link.submit("Agent.events", (self._cursor,), {})
                await self._follow(stream)
            except PeerGone:
                self._lost(f"its agent {self.link.name} does not listen any more")
                return
            except BigmachineError as exc:
                if self._is_ending:
                    return
                _log.debug("the events of agent %s broke off: %s", self.agent_id, exc)
                if not exc.temporary:
                    self._lost(f"its agent gave up: {exc}")
                    return
            failures = 0 if self._cursor > cursor else failures + 1
            # Almost at once the first time: a dead agent refuses, and then who waits for its machines gets to know.
            await asyncio.sleep(min(_PAUSE, _FIRST_PAUSE * 2**failures))

    async def _follow(self, stream: AsyncIterator[Event]) -> None:
        async for event in stream:
            if event.seq <= self._cursor:
                continue
            self._cursor = event.seq
            self._take(event)
            self._unacknowledged += len(event.data) if isinstance(event, Output) else 256
            if self._unacknowledged >= _ACK_BYTES:
                self._acknowledge()
            elif self._acking is None:
                self._acking = self.link.reactor.loop.call_later(_ACK_PAUSE, self._acknowledge)

    def _acknowledge(self) -> None:
        if self._acking is not None:
            self._acking.cancel()
            self._acking = None
        self._unacknowledged = 0
        if self._is_crowded():  # not acknowledged, the agent keeps it, and reads no more of machines than it may keep
            self._acking = self.link.reactor.loop.call_later(_CROWDED_PAUSE, self._acknowledge)
            return
        if self._cursor > self._acknowledged and not self._is_ending:
            self._acknowledged = self._cursor
            self.link.submit("Agent.ack", (self._cursor,), {})

    def _take(self, event: Event) -> None:
        tenant = self._tenants.get(event.machine_id)
        if tenant is None:
            return
        if isinstance(event, Output):
            tenant.wrote(event.stream, event.data)
        elif isinstance(event, PhaseChanged):
            if event.phase == _SERVES:
                return
            try:
                tenant.reached(Phase(event.phase))
            except ValueError:
                _log.debug("agent %s reports the unknown phase %r", self.agent_id, event.phase)
        elif isinstance(event, MemoryShort):
            tenant.short_of_memory(event)
        elif isinstance(event, Dumped):
            tenant.dumped(event)
        elif isinstance(event, Noticed):
            tenant.noticed(event)
        elif isinstance(event, Halted):
            tenant.halted(event)
        else:
            tenant.died(stopped_by(event))

    def _lost(self, detail: str) -> None:
        for tenant in list(self._tenants.values()):
            tenant.died(MachineStopped(DeathCertificate(Cause.AGENT_LOST, detail=detail, stopped=time.time())))

    def close(self, error: BaseException) -> None:
        """Stop listening for good."""
        self._is_ending = True
        if self._acking is not None:
            self._acking.cancel()
        if self._reading is not None:
            self._reading.cancel()
        self.link.close(error)


def stopped_by(event: Stopped) -> MachineStopped:
    """Make the error that a machine's end means, with what was raised there as its cause."""
    error = MachineStopped(event.certificate)
    if event.exception is not None:
        try:
            error.__cause__ = pickle.loads(event.exception)
        except Exception as exc:  # noqa: BLE001 (any code may run in there; the text remains)
            _log.debug("the exception that ended %s cannot be rebuilt here: %s", event.machine_id, exc)
    if event.text:
        # By the name that stands before its lines of output, as in errors of calls.
        traceback = RemoteTraceback(event.text, event.machine_id.rpartition("-")[2])
        if error.__cause__ is None:
            error.__cause__ = traceback
        else:
            error.__cause__.__cause__ = traceback
    return error
