"""One image to many hosts: which of them gets it from whom.

Hosts that lack the same are put in line: each passes on what it takes in, frame by frame, so all of them have it hardly
later than the first. Long lines are cut into pieces that hang in a tree with two branches, or a slow host would hold up
too many. Pure but for waiting until those that start together have said what they lack.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from bigmachine.agent import Onward
from bigmachine.frozen import frozen

#: So many hosts stand in one line.
LINE: Final = 8
#: Less than this is sent to each host by itself.
WORTHWHILE: Final = 8 << 20
#: Those that start together say what they lack within about so many seconds.
GATHER: Final = 1.0
#: After a failure, hosts come together again within so many seconds.
AGAIN: Final = 0.3


@frozen
class Peer:
    """A host that other hosts can reach, and the interpreter that its image is for."""

    host: str
    port: int
    agent_id: str
    python: str


def arrange(peers: Sequence[Peer]) -> Onward:
    """Put hosts into a tree; the first of them gets the image from the driver.

    Raises:
        ValueError: if there is none.
    """
    if not peers:
        raise ValueError("an image goes to at least one host")
    first, rest = peers[0], peers[1:]
    if len(peers) <= LINE:
        onward: tuple[Onward, ...] = (arrange(rest),) if rest else ()
    else:
        middle = len(rest) // 2
        onward = (arrange(rest[:middle]), arrange(rest[middle:]))
    return Onward(first.host, first.port, first.agent_id, first.python, onward)


class Gathering:
    """Where hosts that lack the same of an image find each other; on one event loop.

    `expected` is how many hosts start together. Each calls `join` with what it lacks; the first of those that lack the
    same is given the others, who are told what became of them by `settle`.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._said = 0
        self._groups: dict[Hashable, list[tuple[Peer, asyncio.Future[str]]]] = {}
        self._is_full = asyncio.Event()

    def skip(self) -> None:
        """Say that a host lacks nothing, or failed: nobody need wait for it."""
        self._said += 1
        if self._said >= self._expected:
            self._is_full.set()

    async def join(
        self, peer: Peer, lacking: Hashable, *, again: bool = False
    ) -> tuple[list[Peer], Callable[[str, str], None]] | str:
        """Say what a host lacks; `again`: after an attempt that failed.

        The first of those that lack the same is given the others, to pass the image on to, and a function that tells
        each of them, by its agent, what went wrong ("" for nothing). The others are given what they are told.
        """
        group = self._groups.setdefault(lacking, [])
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        group.append((peer, told))
        is_first = len(group) == 1
        if not again:
            self.skip()
        if not is_first:
            return await told
        if again:
            await asyncio.sleep(AGAIN)
        else:
            with contextlib.suppress(TimeoutError):  # a host that comes later gathers with others of its kind
                async with asyncio.timeout(GATHER):
                    await self._is_full.wait()
        self._groups.pop(lacking, None)
        others = {each.agent_id: future for each, future in group[1:]}

        def settle(agent_id: str, why: str) -> None:
            future = others.get(agent_id)
            if future is not None and not future.done():
                future.set_result(why)

        return [each for each, _ in group[1:]], settle


__all__ = ["GATHER", "LINE", "WORTHWHILE", "Gathering", "Peer", "arrange"]
