"""The writing end of a stream: takes items from an iterator, or bytes from a file, as the reader has credit for them.

A plain iterator is asked for its next item in a thread, which goes back to the pool while there is no credit; an
asynchronous one is read by a task. Everything else here is on the reactor's thread.
"""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bigmachine.rpc.buffers import FreeList
from bigmachine.rpc.codec import Encoded
from bigmachine.rpc.context import CallInfo, set_current, set_deadline
from bigmachine.rpc.streamed import BYTES, PIECE, WINDOW_BYTES, WINDOW_ITEMS, Carrier
from bigmachine.rpc.wire import AS_BYTES, END, ITEM, head, size_of, small_frame

_log = logging.getLogger("bigmachine.rpc")
#: Files whose `readinto` is known; a class of somebody else's may have overridden `read` alone.
_FILES = frozenset((io.BytesIO, io.FileIO, io.BufferedReader, io.BufferedRandom, io.BufferedRWPair))


class Outgoing:
    """The writing end: takes items from an iterator or a file as the reader has credit for them."""

    def __init__(
        self,
        carrier: Carrier,
        ident: int,
        source: Any,
        kind: str,
        what: str,
        *,
        is_bulk: bool | None = None,
        closes: bool = True,
        info: CallInfo | None = None,
    ) -> None:
        self.carrier = carrier
        #: Whether its frames go by the bulk lane; all of them, for they must stay in order.
        self.is_bulk = kind == BYTES and carrier.has_bulk if is_bulk is None else is_bulk
        self._closes = closes
        self._memory = FreeList(2 * WINDOW_BYTES)
        self._info = info
        self.ident = ident
        self.what = what
        self._source = source
        self._kind = kind
        # What may be sent is written by the reactor's thread alone, what was sent by the producer's alone: one number
        # changed by both would lose a change now and then, and the stream would stand still for ever.
        self._granted_items = WINDOW_ITEMS
        self._granted_bytes = WINDOW_BYTES
        self._sent_items = 0
        self._sent_bytes = 0
        self._is_parked = False
        self._is_closed = False
        self._task: asyncio.Task[Any] | None = None
        self._credit: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin to produce."""
        self.carrier.outgoing[self.ident] = self
        # A stream that is both is read on the loop only if it has no other way: its `next` could block.
        if hasattr(type(self._source), "__anext__") and not hasattr(type(self._source), "__next__"):
            self._task = self.carrier.reactor.spawn(self._produce(), f"stream {self.what}")
        else:
            self.carrier.run_in_thread(self)

    # a plain iterator or file, in a thread

    def run(self) -> None:
        """Produce until the credit is used up or the source ends; in a thread."""
        post = self.carrier.reactor.post
        if self._info is not None:
            set_current(self._info)
            set_deadline(self._info.deadline)
        try:
            has_ended = self._send_bytes(post) if self._kind == BYTES else self._send_items(post)
        except BaseException as exc:  # noqa: BLE001 (the producer's edge: it goes to the reader)
            post(self._end, exc)
        else:
            # Not told from the credit left: that may have grown since it stopped the loop.
            post(self._end, None) if has_ended else post(self._park)

    def _send_bytes(self, post: Callable[..., None]) -> bool:
        source = self._source
        read_into = _read_into(source)
        while self._may_send():
            if read_into is not None:
                # Into memory that earlier pieces have left: fresh memory for each would cost half the throughput.
                memory = self._memory.take(PIECE)
                piece: bytes | memoryview = memoryview(memory)[: read_into(memory) or 0]
                del memory
            else:
                piece = source.read(PIECE)
            if not piece:
                return True
            post(self._send, self._count(_piece(self.ident, piece)))
            del piece
        return False

    def _send_items(self, post: Callable[..., None]) -> bool:
        codec, ident, what = self.carrier.codec, self.ident, self.what
        step = self._source.__next__
        while self._may_send():
            try:
                item = step()
            except StopIteration:
                return True
            post(self._send, self._count(codec.result(ITEM, 0, ident, item, what)))
        return False

    def _has_credit(self) -> bool:
        return self._granted_items > self._sent_items and self._granted_bytes > self._sent_bytes

    def _may_send(self) -> bool:
        return self._has_credit() and not self._is_closed

    def _count(self, encoded: Encoded) -> Encoded:
        self._sent_items += 1
        self._sent_bytes += size_of(encoded)
        return encoded

    def _park(self) -> None:
        if self._is_closed:
            self._finish_source()
        elif self._has_credit():
            self.carrier.run_in_thread(self)
        else:
            self._is_parked = True

    # an async iterator, on the loop

    async def _produce(self) -> None:
        codec = self.carrier.codec
        if self._info is not None:
            set_current(self._info)
            set_deadline(self._info.deadline)
        try:
            async for item in self._source:
                encoded = self._count(codec.result(ITEM, 0, self.ident, item, self.what))
                self._send(encoded)
                while not self._has_credit():
                    self._credit = self.carrier.reactor.loop.create_future()
                    await self._credit
        except asyncio.CancelledError:
            await self._close_async()
            raise
        except BaseException as exc:  # noqa: BLE001 (the producer's edge: it goes to the reader)
            self._end(exc)
            await self._close_async()  # it may be our own, of an item that cannot be pickled
        else:
            self._end(None)

    async def _close_async(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is not None:
            try:
                await close()
            except Exception:  # noqa: BLE001 (the user's code; nobody waits for it)
                _log.exception("closing the stream %s failed", self.what)

    # on the reactor's thread

    def _send(self, encoded: Encoded) -> None:
        if not self._is_closed:
            self.carrier.transmit(encoded, self.is_bulk)

    def credit(self, size: int, count: int) -> None:
        """The reader has consumed so much."""
        self._granted_bytes += size
        self._granted_items += count
        if self._is_parked:
            self._is_parked = False
            self._park()
        if self._credit is not None and not self._credit.done():
            self._credit.set_result(None)

    def _end(self, exc: BaseException | None) -> None:
        if self._is_closed:
            self._finish_source()
            return
        if isinstance(exc, StopIteration | StopAsyncIteration):
            # As in a generator (PEP 479): the reader's loop would take it for the end.
            exc = RuntimeError(f"the source of the stream {self.what} raised {type(exc).__name__}")
        if exc is None:
            self.carrier.transmit(small_frame(END, 0, self.ident), self.is_bulk)
        else:
            self.carrier.transmit(self.carrier.codec.error(self.ident, exc, kind=END), self.is_bulk)
        self._retire()
        self._finish_source()

    def close(self) -> None:
        """Stop producing: the reader is gone."""
        if self._is_closed:
            return
        was_parked = self._is_parked
        self._retire()
        if self._task is not None:
            self._task.cancel()
        elif was_parked:
            self._finish_source()  # otherwise the thread that is in it does so when it comes back

    def _retire(self) -> None:
        self._is_closed = True
        self.carrier.outgoing.pop(self.ident, None)

    def _finish_source(self) -> None:
        # Closing a generator runs its `finally` blocks: the user's code, so not here.
        close = getattr(self._source, "close", None)
        if close is not None and self._task is None and self._closes:
            self.carrier.run_in_thread(_Closing(close, self.what, self._info))


def _read_into(source: Any) -> Callable[[bytearray], int | None] | None:
    """Return how a file's bytes are put into given memory; None for what only promises `read`."""
    if type(source) not in _FILES:
        return None
    # The form with a 1 gives what is there now: what somebody has written is not to wait for more.
    return getattr(source, "readinto1", None) or source.readinto  # type: ignore[no-any-return]  # of an own type


def _piece(ident: int, piece: bytes | memoryview) -> Encoded:
    first = head(ITEM, 0, ident, b"", (len(piece) | AS_BYTES,))
    return [first, piece] if len(piece) >= 4096 else first + bytes(piece)


@dataclass(slots=True)
class _Closing:
    close: Callable[[], object]
    what: str
    info: CallInfo | None

    def run(self) -> None:
        # Not those of the thread's last job. The deadline may have passed, and cleaning up may need calls.
        set_current(self.info)
        set_deadline(None)
        try:
            self.close()
        except Exception:  # noqa: BLE001 (the user's code; nobody waits for it)
            _log.exception("closing the stream %s failed", self.what)
