"""One image to many hosts: which of them get it together, and which from whom.

Hosts that lack much of the same are put in line: each passes on what it takes in, frame by frame, so all of them have
it hardly later than the first. What goes into the line is what any of them lacks, and each passes on only what somebody
behind it does. Long lines are cut into pieces that hang in a tree with two branches, or a slow host would hold up too
many. Pure but for waiting until those that start together have said what they lack.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import field
from typing import Final

from bigmachine.agent import Onward
from bigmachine.frozen import frozen
from bigmachine.image.manifest import Layer
from bigmachine.image.plan import Wanted

#: So many hosts stand in one line.
LINE: Final = 8
#: Less than this is sent to each host by itself.
WORTHWHILE: Final = 8 << 20
#: A host joins others if it lacks this part of what they do: for less it would have to wait for too much.
_PART: Final = 1 / 4
#: Those that start together say what they lack within about so many seconds.
GATHER: Final = 1.0
#: After a failure, hosts come together again within so many seconds.
AGAIN: Final = 0.3


@frozen
class Peer:
    """A host that other hosts can reach, the interpreter that its image is for, and what it lacks of that image."""

    host: str
    port: int
    agent_id: str
    python: str
    wanted: Wanted = field(default=Wanted(is_built=False, root=""), repr=False)


def together(peers: Sequence[Peer], layers: Sequence[Layer]) -> list[list[Peer]]:
    """Put those together that lack much of the same; in each group the first is the one that lacks the most."""
    sizes = {layer.id: layer.size for layer in layers}
    groups: list[tuple[set[str], list[Peer]]] = []
    for peer in sorted(peers, key=lambda each: -_size(each.wanted.layers, sizes)):  # it is stable
        lacks = set(peer.wanted.layers)
        common = [_size(lacks & sent, sizes) for sent, _ in groups]
        best = max(range(len(groups)), key=lambda at: common[at], default=-1)
        if best >= 0 and common[best] >= max(WORTHWHILE, _PART * _size(groups[best][0], sizes)):
            groups[best][0].update(lacks)
            groups[best][1].append(peer)
        else:
            groups.append((lacks, [peer]))
    return [members for _, members in groups]


def _size(idents: Collection[str], sizes: Mapping[str, int]) -> int:
    return sum(sizes.get(ident, 0) for ident in idents)


def lacked(peers: Sequence[Peer], layers: Sequence[Layer]) -> Wanted:
    """Say what has to be sent so that each of these hosts gets all that it lacks."""
    wanted = [peer.wanted for peer in peers]
    lacking = {layer.id: [each for each in wanted if layer.id in each.layers] for layer in layers}
    needed = {
        file.sha256
        for layer in layers
        if layer.kind == "tree"
        for each in lacking[layer.id]
        for file in layer.files
        if file.sha256 not in each.here
    }
    arrived = {file for each in wanted for file in each.arrived}
    return Wanted(
        is_built=False,
        root=wanted[0].root,
        layers=tuple(layer.id for layer in layers if lacking[layer.id]),
        here=frozenset(sha for each in wanted for sha in each.here if sha not in needed),
        arrived=frozenset(file for file in arrived if all(file in each.arrived for each in lacking.get(file[0], ()))),
    )


def arrange(peers: Sequence[Peer], sent: Collection[str] = ()) -> Onward:
    """Put hosts into a tree; the first of them gets the layers `sent` from the driver.

    Raises:
        ValueError: if there is none.
    """
    if not peers:
        raise ValueError("an image goes to at least one host")
    first, rest = peers[0], peers[1:]
    here = set(sent) & {ident for peer in peers for ident in peer.wanted.layers}
    if len(peers) <= LINE:
        onward: tuple[Onward, ...] = (arrange(rest, here),) if rest else ()
    else:
        middle = len(rest) // 2
        onward = (arrange(rest[:middle], here), arrange(rest[middle:], here))
    skipped = tuple(sorted(set(sent) - here))
    return Onward(first.host, first.port, first.agent_id, first.python, onward, skipped)


@frozen
class Lead:
    """What the first host of a group is to be sent, and whom it passes that on to.

    `settle` tells another host of the group, by its agent, what became of it there ("" for nothing that went wrong).
    """

    wanted: Wanted
    onward: tuple[Onward, ...]
    others: tuple[str, ...]
    settle: Callable[[str, str], None] = field(repr=False)


class Gathering:
    """Where hosts that lack some of the same image find each other; on one event loop.

    `expected` is how many hosts start together. Each calls `join` with what it lacks; the first of those that get it
    together is told what to take in for all, and the others what became of them.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._said = 0
        self._waiting: dict[Hashable, list[tuple[Peer, asyncio.Future[Lead | str]]]] = {}
        self._is_full = asyncio.Event()

    def skip(self) -> None:
        """Say that a host lacks nothing, or failed: nobody need wait for it."""
        self._said += 1
        if self._said >= self._expected:
            self._is_full.set()

    async def join(self, peer: Peer, image: Hashable, layers: Sequence[Layer], *, again: bool = False) -> Lead | str:
        """Say what a host lacks of an image that consists of `layers`; `again`: after an attempt that failed.

        Gives what the host leads, or what went wrong on its way there from another host.
        """
        waiting = self._waiting.setdefault(image, [])
        told: asyncio.Future[Lead | str] = asyncio.get_running_loop().create_future()
        waiting.append((peer, told))
        if not again:
            self.skip()
        if len(waiting) == 1:
            try:
                await self._gather(again=again)
            finally:  # a host that comes later gathers with others of its kind
                del self._waiting[image]
                _divide(waiting, layers)
        return await told

    async def _gather(self, *, again: bool) -> None:
        if again:
            await asyncio.sleep(AGAIN)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER):
                await self._is_full.wait()


def _divide(waiting: Sequence[tuple[Peer, asyncio.Future[Lead | str]]], layers: Sequence[Layer]) -> None:
    futures = {peer.agent_id: future for peer, future in waiting}

    def settle(agent_id: str, why: str) -> None:
        future = futures.get(agent_id)
        if future is not None and not future.done():
            future.set_result(why)

    for group in together([peer for peer, _ in waiting], layers):
        wanted, first, others = lacked(group, layers), group[0], group[1:]
        onward = (arrange(others, wanted.layers),) if others else ()
        lead = Lead(wanted, onward, tuple(peer.agent_id for peer in others), settle)
        if not futures[first.agent_id].done():
            futures[first.agent_id].set_result(lead)


__all__ = ["GATHER", "LINE", "WORTHWHILE", "Gathering", "Lead", "Peer", "arrange", "lacked", "together"]
