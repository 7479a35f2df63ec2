"""An inprocess System whose agent can be made to fail in ways that a real one does only on bad days."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bigmachine.agent import Event, KeepaliveReply, LaunchSpec, MachineInfo, Output, PhaseChanged
from bigmachine.rpc import Dialer, PeerGone, Reactor
from bigmachine.rpc.connection import Connection, Receiver
from bigmachine.system import Keepalive, Launched, Ticket
from bigmachine.systems.inprocess import InprocessSystem
from bigmachine.systems.inprocess.agent import Agent, Supervisor
from bigmachine.trust import Peer, Role

Hook = Callable[..., Any]


class OddSystem(InprocessSystem):
    """`on_launch`, `on_keepalive`, `on_info` and `on_shutdown` are awaited before the agent does what it should."""

    def __init__(self, keepalive: Keepalive | None = None) -> None:
        super().__init__(keepalive=keepalive)
        self.on_launch: Hook | None = None
        self.on_keepalive: Hook | None = None
        self.on_info: Hook | None = None
        self.on_shutdown: Hook | None = None
        #: What happens to whoever dials, by a name or by the agent's id.
        self.unreachable: dict[str, Exception] = {}
        self.dials: list[str] = []
        self.readers: list[int] = []  # the cursors from which events were read
        self.healthy = True
        self.repeats = False  # whether it gives events again that it gave before

    @property
    def agent_id(self) -> str:
        return self._agent_id

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        places = super().launch(n, ticket)
        self._table.remove("Agent")
        self._table.register("Agent", _OddAgent(self))
        return places

    def add(self, spec: LaunchSpec) -> None:
        super().add(spec)
        name = f"Supervisor@{spec.machine_id}"
        self._table.remove(name)
        self._table.register(name, _OddSupervisor(self, self._machines[spec.machine_id]))

    def _way(self, caller: Peer, ident: str, role: Role) -> Dialer:
        return _Watched(self, ident, super()._way(caller, ident, role))

    def go_away(self) -> None:
        """Let the agent die with its machines: every connection breaks, nobody listens."""
        assert self._server is not None
        assert self._ticket is not None
        for ident in (self._agent_id, *self._machines):
            self.unreachable[ident] = PeerGone(f"{ident} refused the connection: nothing listens there any more")
        for server in (self._server, *(machine.server for machine in self.machines())):
            for channel in list(server.channels):
                if channel.main is not None:
                    self._ticket.reactor.post(channel.main.abort)

    def break_events(self) -> None:
        """Break the connection to the agent; it can be dialled again."""
        assert self._server is not None
        assert self._ticket is not None
        for channel in list(self._server.channels):
            if channel.main is not None:
                self._ticket.reactor.post(channel.main.abort)

    def write(self, machine_id: str, data: bytes, stream: str = "stdout") -> None:
        """Let a machine have written something."""
        self._put(lambda seq: Output(seq, machine_id, 0.0, stream, data))  # type: ignore[arg-type]  # one of two

    def phase(self, machine_id: str, phase: str) -> None:
        """Let a machine have got further."""
        self._put(lambda seq: PhaseChanged(seq, machine_id, 0.0, phase))

    def _put(self, make: Callable[[int], Event]) -> None:
        assert self._ticket is not None
        self._ticket.reactor.post(self.feed.put, make)


class _Watched:
    def __init__(self, system: OddSystem, ident: str, way: Dialer) -> None:
        self._system = system
        self._ident = ident
        self._way = way

    async def dial(self, reactor: Reactor, receiver: Receiver) -> Connection:
        self._system.dials.append(self._ident)
        if (error := self._system.unreachable.get(self._ident)) is not None:
            raise error
        return await self._way.dial(reactor, receiver)


class _OddAgent(Agent):
    def __init__(self, system: OddSystem) -> None:
        super().__init__(system)
        self._system = system

    async def launch(self, spec: LaunchSpec) -> int:
        if self._system.on_launch is not None:
            await self._system.on_launch()
        return await super().launch(spec)

    async def events(self, cursor: int = 0) -> Any:
        self._system.readers.append(cursor)
        async for event in self._system.feed.read(0 if self._system.repeats else cursor):
            yield event


class _OddSupervisor(Supervisor):
    def __init__(self, system: OddSystem, machine: Any) -> None:
        super().__init__(system, machine)
        self._system = system

    async def keepalive(self, lease_s: float) -> KeepaliveReply:
        if self._system.on_keepalive is not None:
            await self._system.on_keepalive()
        reply = await super().keepalive(lease_s)
        return replace(reply, healthy=self._system.healthy)

    async def info(self) -> MachineInfo:
        if self._system.on_info is not None:
            await self._system.on_info()
        return await super().info()

    async def shutdown(self, grace_s: float = 0.0) -> None:
        if self._system.on_shutdown is not None:
            await self._system.on_shutdown()
        await super().shutdown(grace_s)


async def never() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


def fail_with(*errors: Exception) -> Hook:
    """Make a hook that raises these errors, one a call, and then nothing."""
    left = list(errors)

    async def hook() -> None:
        if left:
            raise left.pop(0)

    return hook
