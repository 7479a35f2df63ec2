"""The service "Agent": what the driver asks of a host."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, Final

from bigmachine.agent.supervisor import Supervisor
from bigmachine.agent.watch.following import follow
from bigmachine.errors import Cause, InvalidCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from bigmachine.agent.events import Event
    from bigmachine.agent.host import Host
    from bigmachine.agent.hosted import Hosted
    from bigmachine.agent.identity import OwnIdentity
    from bigmachine.agent.launch import LaunchSpec
    from bigmachine.agent.processes.reaper import Reaper
    from bigmachine.rpc import ServiceTable

#: So many machines can be asked why they ended, the latest; a session may start machines all day.
_REMEMBERED: Final = 1000


class Agent:
    """Starts machines on this host, ends them, and tells what happens to them. For the driver alone."""

    def __init__(self, host: Host, table: ServiceTable, reaper: Reaper, identity: OwnIdentity) -> None:
        self._host = host
        self._identity = identity
        self._table = table
        self._reaper = reaper
        self._launched: deque[Hosted] = deque()

    async def launch(self, spec: LaunchSpec) -> int:
        """Start a machine and give its process's pid; how it comes up, the events tell.

        From now on "Supervisor@<machine id>" can be called, and the lease runs.

        Raises:
            InvalidCall: if a machine of this id is there already.
            ProvisionError: if this host cannot start a process.
        """
        machine = await self._host.launch(spec)
        name = f"Supervisor@{machine.id}"
        self._table.remove(name)  # of one that had this id before
        self._table.register(name, Supervisor(machine, self._host, self._reaper))
        self._launched.append(machine)
        while len(self._launched) > _REMEMBERED and self._launched[0].certificate is not None:
            self._table.remove(f"Supervisor@{self._launched.popleft().id}")
        return machine.pid

    async def events(self, cursor: int = 0) -> AsyncGenerator[Event, None]:
        """Stream the events after `cursor`, those to come included.

        What is not acknowledged can be read again; when too much is not, the machines' output stops flowing.
        """
        async for event in self._host.feed.read(cursor):
            yield event

    async def ack(self, cursor: int) -> None:
        """Acknowledge the events up to `cursor`: they are dropped here."""
        self._host.feed.acknowledge(cursor)

    async def stop(self, machine_id: str, grace_s: float = 1.0, cause: str = Cause.SHUTDOWN.value) -> None:
        """End a machine, by SIGKILL once `grace_s` is over; returns when it is gone and its last event is out.

        Raises:
            InvalidCall: if `cause` is none that the driver may give.
        """
        if cause not in (Cause.SHUTDOWN, Cause.CANCELLED, Cause.KEEPALIVE_LOST):
            raise InvalidCall(f"cause={cause!r}: a driver stops a machine by 'shutdown', 'cancelled', 'keepalive_lost'")
        await self._host.stop(machine_id, grace_s, Cause(cause))

    async def certificate_request(self) -> bytes:
        """Make a key on this host, and give the request to certify it (PEM); for a host that has none of its own.

        Raises:
            InvalidCall: if it has.
        """
        return self._identity.request()

    async def adopt(self, certificate: bytes) -> None:
        """Answer by this certificate (PEM) from now on; connections that there are stay.

        Raises:
            InvalidCall: if it was not asked for.
            AuthenticationError: if it is not that of the key that was made here.
        """
        self._identity.adopt(certificate)

    def read(self, path: str) -> BinaryIO:
        """Stream a file of this host [Go: System.Read].

        Raises:
            OSError: if it cannot be read.
        """
        return open(path, "rb")

    async def tail(self, unit: str) -> AsyncGenerator[bytes, None]:
        """Stream what the journal of this host has of a unit of systemd, and will have [Go: System.Tail].

        Raises:
            BigmachineError: if it cannot be had.
        """
        command = ["journalctl", "--unit", unit, "--output=cat", "--lines=all", "--follow", "--no-pager", "--quiet"]
        async with contextlib.aclosing(follow(self._reaper, command)) as pieces:
            async for piece in pieces:
                yield piece

    async def end(self, grace_s: float = 1.0) -> None:
        """End all machines, and the agent once the driver has acknowledged the last event, or after 2 s."""
        await self._host.end(grace_s)


__all__ = ["Agent"]
