"""A connection on the caller's own event loop: an awaited call then needs no other thread.

A call from a foreign event loop costs two hand-overs between threads, to the reactor's loop and back. A loop that
makes many calls therefore gets a connection of its own (`Near`) beside the link (`far`). That pays on every event loop:
on asyncio's own without aiofastnet, the slowest, a lone call takes 125 us instead of 161.

But the caller may just as well submit a call and then block its loop (a notebook's cell does, `[c.result() for c in
calls]`), and on its own connection nothing would move while it does. So `submit` only offers a call, and it is sent
by whoever claims it first: `await`, by the near connection; anything else that looks at the call, by the far link; and
if nobody looks at it at all, the reactor's guard, by the far link, after one to two of its pauses.

For the same reason a stream that such a call returns comes by the far link (the peer keeps it until that has a reader):
whoever has it may read it with `for` on this loop, which then does nothing else, or go on when the loop is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio.events import _get_running_loop
from collections.abc import AsyncGenerator
from contextvars import Context
from threading import get_ident
from typing import TYPE_CHECKING, Any

from bigmachine.errors import BigmachineError, NetworkError
from bigmachine.rpc.reactor import Reactor

if TYPE_CHECKING:
    from bigmachine.rpc.calls import Call
    from bigmachine.rpc.codec import Encoded
    from bigmachine.rpc.link import Link

_log = logging.getLogger("bigmachine.rpc")
#: A loop that has made so many calls is likely to make many more: opening a connection costs 2 to 3 ms.
_WORTH_IT = 64
_GUARD = 0.002
#: The guard's pause where all calls are awaited: it grows to this, for each look takes the interpreter from the caller.
_LONGEST_GUARD = 0.016
_IDLE_CHECKS = 50


class Near:
    """One foreign event loop's connection to the far link's peer; it is opened once it is worth it."""

    def __init__(self, far: Link, loop: asyncio.AbstractEventLoop) -> None:
        self.far = far
        self.loop = loop
        #: Where the loop has run last.
        self.thread_id = 0
        self.link: Link | None = None
        self._calls = 0
        self._opening: asyncio.Task[Any] | None = None
        self._closer: AsyncGenerator[None] | None = None
        #: What nobody has sent yet, by its id, the oldest first: each call, encoded, and its time-out.
        self.offers: dict[int, tuple[Call[Any], Encoded, float | None]] = {}
        self.is_guarded = False

    # on the foreign loop

    def want(self) -> None:
        """Note a call that could not be offered: many are worth a connection."""
        self._calls += 1
        is_worth_it = self._calls >= _WORTH_IT and self.far.is_ready
        if is_worth_it and self._opening is None and _get_running_loop() is self.loop:
            self._calls = 0
            name = f"own connection to {self.far.name}"
            # It outlives this call, so it does not take its deadline along.
            self._opening = self.loop.create_task(self._open(), name=name, context=Context())

    def guard(self) -> None:
        """Have it looked after what is offered from now on."""
        self.is_guarded = True
        self.far.reactor.post(self._guard, 0, 0, _GUARD)

    def send_here(self, call: Call[Any]) -> Reactor | None:
        """Send an offered call that is awaited, and return who carries it; None if it has to be another one."""
        link: Link = self.link  # type: ignore[assignment]  # there is one: the call was offered
        reactor = link.reactor
        if get_ident() != reactor.thread_id or not self.loop.is_running() or not link.is_ready:
            return None
        call.near = None
        offer = self.offers.pop(call.ident, None)  # one operation: only one thread gets it
        if offer is None:
            return None
        call.carrier = link
        _, encoded, timeout = offer
        pending = link.pending
        if pending and timeout is None and type(encoded) is bytes and call.unclaimed:
            # As `begin` does it, in fewer steps: where some calls are under way there are many.
            call.size = len(encoded)
            pending[call.ident] = call
            link.main.send(encoded)  # type: ignore[union-attr]  # there is one, if the link is ready
        else:
            link.begin(call, encoded, timeout)
        return reactor

    # from any thread

    def send_far(self, call: Call[Any]) -> None:
        """Have an offered call sent by the far link, unless somebody else has sent it."""
        call.near = None
        offer = self.offers.pop(call.ident, None)  # as above
        if offer is not None:
            self.far.reactor.post(self.far.begin, *offer)

    async def _open(self) -> None:
        try:
            if self.link is None:
                self.link = self.far.beside(Reactor(self.loop))
                # A loop that ends runs its asynchronous generators to their end: the one moment to close in order.
                self._closer = self._close_with_loop()
                await anext(self._closer)
            await self.link.connect()
        except BigmachineError as exc:
            _log.debug("no own connection to %s: %s", self.far.name, exc)
        finally:
            self._opening = None

    async def _close_with_loop(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            if self.link is not None:
                self.link.close(NetworkError("the event loop of this call has ended"))
                self.link.drop()
                await asyncio.sleep(0)  # the transports' own last callbacks
                await asyncio.sleep(0)

    # on the far link's loop

    def _guard(self, seen: int, idle: int, pause: float) -> None:
        """Send what was not claimed since it was seen at the last look; `seen`: the last one that was."""
        offered = list(self.offers.values())
        forgotten = [call for call, _, _ in offered if call.ident <= seen]
        for call in forgotten:
            self.send_far(call)
        pause = _GUARD if forgotten else min(2 * pause, _LONGEST_GUARD)
        idle = 0 if offered else idle + 1
        if offered:
            seen = offered[-1][0].ident
        if idle < _IDLE_CHECKS:
            self.far.reactor.loop.call_later(pause, self._guard, seen, idle, pause)
        else:
            self.is_guarded = False
            if self.offers:  # offered between the look and the flag
                self.is_guarded = True
                self.far.reactor.loop.call_later(_GUARD, self._guard, seen, 0, _GUARD)

    def greet_again(self) -> None:
        """Have the peer told that the far link has another connection."""
        if self.link is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.link.reactor.post(self.link.greet_again)

    def close(self, error: BaseException) -> None:
        """End it with the far link; from any thread."""
        for call, _, _ in list(self.offers.values()):
            self.send_far(call)
        if self.link is not None and not self.loop.is_closed():
            self.link.close(error)
