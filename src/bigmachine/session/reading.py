"""Files and journals of hosts, by way of their agents: what a session lends to Systems that have no better way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from bigmachine.errors import InvalidCall

if TYPE_CHECKING:
    from bigmachine.machine import Host

#: For an agent to open a file of its host, or to begin with its journal.
_OPENING: Final = 30.0


def reading(
    hosts: Mapping[str, Host],
) -> tuple[Callable[[str, str], BinaryIO], Callable[[str, str], Iterator[bytes]]]:
    """Give `Ticket.read` and `Ticket.follow` for the agents in `hosts`."""

    def ask(agent_id: str, method: str, what: str) -> object:
        host = hosts.get(agent_id)
        if host is None:
            raise InvalidCall(f"the agent {agent_id!r} is none of this session's")
        return host.link.submit(f"Agent.{method}", (what,), {}).result(_OPENING)

    return (
        lambda agent_id, path: cast("BinaryIO", ask(agent_id, "read", path)),
        lambda agent_id, unit: cast("Iterator[bytes]", ask(agent_id, "tail", unit)),
    )


__all__ = ["reading"]
