"""A link's further connection for lone calls of plain methods, which a thread of the peer's serves.

A plain method whose call the machine's event loop reads costs two hand-overs between threads, from the loop to a thread
and back. A thread that serves a connection (see `attendant`) does without, but one call at a time. So a link that makes
many calls one by one gets such a connection (`Solo`), and a call goes there if nothing else of its link is under way.
Its caller does not wait in a thread, as with `direct`: the connection is the event loop's, like the main one, and what
comes by it is the link's.

Rules. One call at a time, until its outcome has come, also if nobody wants that any more: the machine takes whatever
comes before as the end of the connection. Giving a call up goes by the main connection. What the machine's loop serves
better goes by the main connection from the second time on; a stream's items always do. Whoever loses the main
connection loses this one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import BigmachineError
from bigmachine.rpc.lanes import DIRECT
from bigmachine.rpc.losses import translate_loss
from bigmachine.rpc.wire import BY_LOOP, KEPT, PING, PONG, RESULT, STREAMED, Frame, WireError, small_frame

if TYPE_CHECKING:
    from bigmachine.rpc.calls import Call
    from bigmachine.rpc.connection import Connection, Receiver
    from bigmachine.rpc.link import Link
    from bigmachine.rpc.reactor import Reactor

_log = logging.getLogger("bigmachine.rpc")
#: A link with so many lone calls is likely to have many more: connecting costs some milliseconds, and a thread there.
_WORTH_IT: Final = 64
#: When so many lone calls in a row were the loop's, the connection is not worth its thread.
_NOT_WORTH_IT: Final = 256
#: What was not used for so many seconds may have been forgotten by something between, a NAT; it is dialled anew.
_IDLE: Final = 30.0
#: After an attempt there is no other for so many seconds.
_PAUSE: Final = 5.0
#: Seconds that the machine has to say that it knows the link.
_PATIENCE: Final = 10.0
#: A method that returns more than this goes by the loop, which has another connection for what is large.
_LARGE: Final = 2**20
#: Connects, with the hint that a thread of the peer's had better serve it.
Dial = Callable[["Reactor", "Receiver"], Awaitable["Connection"]]


class Solo:
    """One link's connection for lone calls; on its reactor's thread."""

    def __init__(self, link: Link, dial: Dial) -> None:
        self.codec = link.codec
        self._link = link
        self._dial = dial
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Any] | None = None
        self._answered: asyncio.Future[None] | None = None
        #: The call whose outcome is to come.
        self._under_way: Call[Any] | None = None
        self._used = 0.0
        self._not_before = 0.0
        # Lone calls: how many there were without a connection, and how many in a row for which it is of no use.
        self._missed = 0
        self._declined = 0
        #: Methods that the peer's loop serves better than a thread.
        self._by_loop: set[str] = set()

    def __str__(self) -> str:
        return str(self._link)

    def send(self, call: Call[Any], encoded: bytes) -> bool:
        """Send a lone call; False, with nothing done, if it has to go by the main connection."""
        connection = self._connection
        if call.method in self._by_loop:
            self._decline()
            return False
        if connection is None:
            self._consider()
            return False
        if self._under_way is not None:
            return False
        now = self._link.reactor.loop.time()
        if now - self._used > _IDLE:
            self.drop()
            return False
        self._used = now
        self._declined = 0
        self._under_way = call
        connection.send(encoded)
        return True

    def _decline(self) -> None:
        self._declined += 1
        if self._declined == _NOT_WORTH_IT and self._under_way is None:
            self.drop()

    def _consider(self) -> None:
        self._missed += 1
        if self._missed < _WORTH_IT or self._connecting is not None:
            return
        self._missed = 0
        link = self._link
        if link.main is not None and link.reactor.loop.time() >= self._not_before:
            self._connecting = link.reactor.spawn(self._connect(link.main), f"dial {link.name} for lone calls")

    async def _connect(self, main: Connection) -> None:
        link, loop = self._link, self._link.reactor.loop
        connection: Connection | None = None
        answered = self._answered = loop.create_future()
        try:
            connection = await self._dial(link.reactor, self)
            if link.main is main and connection.is_open:
                # Only when the machine has answered is it sure that it has accepted the connection as this link's.
                connection.send(link.greeting(DIRECT) + small_frame(PING, 0, 0))
                async with asyncio.timeout(_PATIENCE):
                    await answered
                self._used = loop.time()
                self._connection, connection = connection, None
        except (BigmachineError, TimeoutError) as exc:
            _log.debug("no connection to %s for lone calls: %r", link.name, exc)
        finally:
            if connection is not None:
                connection.abort()
            self._not_before = loop.time() + _PAUSE
            self._answered = self._connecting = None

    # what the connection has to say

    def frames(self, connection: Connection, frames: list[Frame]) -> None:
        """Take what comes from the peer."""
        for frame in frames:
            kind, flags, ident, payload, buffers = frame
            call = self._under_way
            if kind == PONG and self._answered is not None:
                if not self._answered.done():
                    self._answered.set_result(None)
            elif call is None or ident != call.ident:
                raise WireError(f"a frame of the kind {kind} came for no call that was made")
            else:
                self._under_way = None
                if flags & (BY_LOOP | STREAMED) or (buffers and sum(map(len, buffers)) > _LARGE):
                    self._by_loop.add(call.method)
                    frame = (kind, flags & ~BY_LOOP, ident, payload, buffers)  # noqa: PLW2901 (for the link)
                self._link.frames(connection, [frame])
                if kind == RESULT and flags & STREAMED and not flags & KEPT:
                    self._link.begin_reading(ident)

    def lost(self, connection: Connection, error: Exception | None) -> None:
        """It has ended."""
        if connection is not self._connection:
            if self._answered is not None and not self._answered.done():
                self._answered.set_exception(translate_loss(error, self._link.name))
            return
        self._connection = None
        call, self._under_way = self._under_way, None
        if call is not None:
            self._link.lost_alone(call, translate_loss(error, self._link.name))

    def drop(self) -> None:
        """End it; what becomes of a call under way is for the link to say."""
        if self._connecting is not None:
            self._connecting.cancel()
        connection, self._connection = self._connection, None
        self._under_way = None
        if connection is not None:
            connection.abort()
