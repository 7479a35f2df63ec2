"""The writing end of a stream: takes items from an iterator, or bytes from a file, as the reader has credit for them.

A plain iterator is asked for its next item in a thread, which goes back to the pool if credit does not come soon; an
asynchronous one is read by a task. Everything else here is on the reactor's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any

from bigmachine.rpc.buffers import FreeList
from bigmachine.rpc.codec import Encoded
from bigmachine.rpc.context import CallInfo, set_current, set_deadline
from bigmachine.rpc.streams.streamed import BYTES, PIECE, WINDOW_BYTES, WINDOW_ITEMS, Carrier
from bigmachine.rpc.wire import AS_BYTES, END, ITEM, head, size_of, small_frame

_log = logging.getLogger("bigmachine.rpc")
#: So long a thread waits for credit before it goes back to the pool. A reader that keeps up has it come within
#: milliseconds; the next thread would have the items' memory from another of malloc's arenas, each of which grows to
#: a window: 1 GiB in items of 1 MiB took 64 MiB of memory.
_PATIENCE = 0.02
#: Files whose `readinto` is known; a class of somebody else's may have overridden `read` alone.
_FILES = frozenset((io.FileIO, io.BufferedReader, io.BufferedRandom, io.BufferedRWPair))


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
        context: Context | None = None,
        fed_to: int = 0,
        done: Callable[[], None] | None = None,
    ) -> None:
        self.carrier = carrier
        #: Whether its frames go by the bulk lane; all of them, for they must stay in order.
        self.is_bulk = carrier.has_bulk if is_bulk is None else is_bulk
        #: The call whose argument it is.
        self.fed_to = fed_to
        self._done = done  # called once, when nothing of the source runs any more
        self._closes = closes
        self._memory = FreeList(2 * WINDOW_BYTES)
        self._info = info
        # Of its own, whichever threads take it on: a generator may set and reset what it likes between its items. An
        # argument's is a copy of the caller's.
        self._context = Context() if context is None else context
        if info is not None:
            self._context.run(_enter, info, info.deadline)
        self.ident = ident
        self.what = what
        self._source = source
        self._is_async = hasattr(type(source), "__anext__") and not hasattr(type(source), "__next__")
        self._kind = kind
        # What may be sent is written by the reactor's thread alone, what was sent by the producer's alone: one number
        # changed by both would lose a change now and then, and the stream would stand still for ever.
        self._granted_items = WINDOW_ITEMS
        self._granted_bytes = WINDOW_BYTES
        self._sent_items = 0
        self._sent_bytes = 0
        self._is_parked = False
        self._is_closed = False
        self._is_waiting = False  # in the thread, on the lock
        self._has_news = threading.Lock()
        self._made: deque[Encoded] = deque()  # by the thread; the reactor's has been told of it if `_is_told`
        self._is_told = False
        self._task: asyncio.Task[Any] | None = None
        self._credit: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin to produce."""
        self.carrier.outgoing[self.ident] = self
        # A stream that is both is read on the loop only if it has no other way: its `next` could block.
        if self._is_async:
            self._task = self.carrier.reactor.spawn(self._produce(), f"stream {self.what}", self._context)
            self._task.add_done_callback(self._task_done)
        else:
            self.carrier.run_in_thread(self)

    # a plain iterator or file, in a thread

    def run(self) -> None:
        """Produce until the credit is used up or the source ends; in a thread."""
        post = self.carrier.reactor.post
        send = self._send_bytes if self._kind == BYTES else self._send_items
        try:
            while not (has_ended := self._context.run(send, post)) and self._wait_for_credit():
                pass
        except BaseException as exc:  # noqa: BLE001 (the producer's edge: it goes to the reader)
            post(self._end, exc)
        else:
            # Posted when the context is left, for another thread may enter it then. Not told from the credit left: that
            # may have grown since it stopped the loop.
            post(self._end, None) if has_ended else post(self._park)

    def _send_bytes(self, post: Callable[..., None]) -> bool:
        read = self._reader_of(self._source)
        while self._may_send():
            piece = read(PIECE)
            if not piece:
                return True
            post(self._send, self._count(_piece(self.ident, piece)))
            del piece
        return False

    def _reader_of(self, source: Any) -> Callable[[int], bytes | memoryview]:
        """Return how a file gives what is there now, copied as little as can be."""
        if type(source) is io.BytesIO:
            return partial(_lent, source)
        read_into = _read_into(source)
        if read_into is None:
            return _read(source)

        def read(size: int) -> memoryview:
            # Into memory that earlier pieces have left: fresh memory for each would cost half the throughput.
            _, memory = self._memory.take(size)
            return memory[: read_into(memory) or 0]

        return read

    def _send_items(self, post: Callable[..., None]) -> bool:
        encode, ident, what = self.carrier.codec.result, self.ident, self.what
        step = self._source.__next__
        made = self._made
        # Counted here, and not by calls: they would be a third of what an item costs.
        while self._granted_items > self._sent_items and self._granted_bytes > self._sent_bytes and not self._is_closed:
            try:
                item = step()
            except StopIteration:
                return True
            encoded = encode(ITEM, 0, ident, item, what)
            self._sent_items += 1
            self._sent_bytes += len(encoded) if type(encoded) is bytes else size_of(encoded)
            made.append(encoded)
            if not self._is_told:
                self._is_told = True
                post(self._send_made)
        return False

    def _wait_for_credit(self) -> bool:
        """Wait a moment; tell whether there is more to be sent now."""
        self._is_waiting = True
        try:
            self._has_news.acquire(blocking=False)
            # Looked at after the flag is set: credit that comes from here on opens the lock.
            if not self._has_credit() and not self._is_closed:
                self._has_news.acquire(timeout=_PATIENCE)
        finally:
            self._is_waiting = False
        return self._may_send()

    def _tell_waiting(self) -> None:
        if self._is_waiting:
            with contextlib.suppress(RuntimeError):  # it is open
                self._has_news.release()

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
        try:
            async for item in self._source:
                encoded = self._count(codec.result(ITEM, 0, self.ident, item, self.what))
                self._send(encoded)
                while not self._has_credit():
                    self._credit = self.carrier.reactor.loop.create_future()
                    await self._credit
        except asyncio.CancelledError:
            # Not raised again: the task would keep it, with its traceback and so the source and what that reads.
            await self._close_async()
            self._end(CancelledError("the stream was given up"))  # if it is not closed: the loop ends
        except BaseException as exc:  # noqa: BLE001 (the producer's edge: it goes to the reader)
            self._end(exc)
            await self._close_async()  # it may be our own, of an item that cannot be pickled
        else:
            self._end(None)

    async def _close_async(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is not None:
            self._begin_clean_up()
            try:
                await close()
            except Exception:  # noqa: BLE001 (the user's code; nobody waits for it)
                _log.exception("closing the stream %s failed", self.what)

    # on the reactor's thread

    def _send_made(self) -> None:
        """Send what the thread has made: all that is small in one piece."""
        # Cleared before the first is taken: what is made later is either taken below, or told of again.
        self._is_told = False
        made = self._made
        small: list[bytes] = []
        while made:
            encoded = made.popleft()
            if type(encoded) is bytes:
                small.append(encoded)
                continue
            if small:
                self._send(b"".join(small))
                small.clear()
            self._send(encoded)
        if small:
            self._send(b"".join(small))

    def _send(self, encoded: Encoded) -> None:
        if not self._is_closed:
            self.carrier.transmit(encoded, self.is_bulk)

    def credit(self, size: int, count: int) -> None:
        """The reader has consumed so much."""
        self._granted_bytes += size
        self._granted_items += count
        self._tell_waiting()
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

    def give_up(self) -> None:
        """Stop producing: the call that it belongs to is not wanted any more, which its reader is told."""
        if not self._is_closed:
            given_up = CancelledError(f"the call that the stream {self.what} belongs to was given up")
            self.carrier.transmit(self.carrier.codec.error(self.ident, given_up, kind=END), self.is_bulk)
            self.close()

    def close(self) -> None:
        """Stop producing: the reader is gone."""
        if self._is_closed:
            return
        was_parked = self._is_parked
        self._retire()
        if self._info is not None:
            self._info.cancel()
        if self._task is not None:
            self._task.cancel()
        elif was_parked:
            self._finish_source()  # otherwise the thread that is in it does so when it comes back

    def _retire(self) -> None:
        self._is_closed = True
        self._tell_waiting()
        self.carrier.outgoing.pop(self.ident, None)

    def _finish_source(self) -> None:
        if self._is_async:
            return  # its task does it
        # Closing a generator runs its `finally` blocks: the user's code, so not here.
        close = getattr(self._source, "close", None)
        if close is not None and self._closes:
            self.carrier.run_in_thread(_Closing(self, close))
        else:
            self._finish()

    def _task_done(self, _task: asyncio.Task[Any]) -> None:
        self._task = None
        self._finish()

    def _finish(self) -> None:
        done, self._done = self._done, None
        self._source = None
        if done is not None:
            done()

    def close_source(self, close: Callable[[], object]) -> None:
        """Close the source, as its own code would see it; in a thread."""
        try:
            self._context.run(self._close_source, close)
        except Exception:  # noqa: BLE001 (the user's code; nobody waits for it)
            _log.exception("closing the stream %s failed", self.what)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.carrier.reactor.post(self._finish)

    def _close_source(self, close: Callable[[], object]) -> None:
        self._begin_clean_up()
        close()

    def _begin_clean_up(self) -> None:
        # The deadline may have passed, and cleaning up may need calls.
        set_deadline(None)
        if self._info is not None:
            self._info.cancelled()  # being closed tells it so: what it waits for from here on is its clean-up


def _enter(info: CallInfo, deadline: float | None) -> None:
    set_current(info)
    set_deadline(deadline)


def _read(source: Any) -> Callable[[int], bytes]:
    """Return how a file gives what is there now, or, where it cannot tell, as much as is asked for."""
    read1 = getattr(source, "read1", None)
    if read1 is None or _depth(type(source), "read1") > _depth(type(source), "read"):
        return source.read  # type: ignore[no-any-return]  # whoever overrides `read` alone means that

    def read(size: int) -> bytes:
        try:
            return read1(size)  # type: ignore[no-any-return]  # a binary file's
        except io.UnsupportedOperation:
            return source.read(size)  # type: ignore[no-any-return]  # a binary file's

    return read


def _depth(kind: type, name: str) -> int:
    """Tell how far up its bases a class has an attribute; -1 if it has it from elsewhere."""
    return next((depth for depth, base in enumerate(kind.__mro__) if name in vars(base)), -1)


def _lent(source: io.BytesIO, size: int) -> memoryview:
    """Read on without a copy: the file shares its contents until somebody writes to it, who then gets others."""
    at = source.tell()
    piece = memoryview(source.getvalue())[at : at + size]
    source.seek(at + len(piece))
    return piece


def _read_into(source: Any) -> Callable[[memoryview], int | None] | None:
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
    outgoing: Outgoing
    close: Callable[[], object]

    def run(self) -> None:
        self.outgoing.close_source(self.close)
