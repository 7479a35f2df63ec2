"""Streams: items or bytes that flow under one id, with back-pressure, either way.

The writer may have `WINDOW_ITEMS` items and `WINDOW_BYTES` bytes on the way; the reader returns credit as it
consumes (CREDIT), so a slow reader stops the producer and neither side holds more than a window. A reader that is
closed or dropped sends CLOSE, and the producer's generator is closed at once; a producer's error ends the stream
with END and the error, which the reader raises in its turn, after the items before it.

`Outgoing` produces, `Incoming` takes in; a `StreamHost` is a link's or a channel's two tables of them. Everything in
this file happens on the reactor's thread but for the reading side's `pull` and a plain iterator's `next`.
"""

from __future__ import annotations

import asyncio
import io
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

from bigmachine.errors import BigmachineError, DeadlineExceeded, InvalidCall
from bigmachine.rpc.codec import Codec, Encoded
from bigmachine.rpc.context import CallInfo, remaining, set_current, set_deadline
from bigmachine.rpc.pool import Job
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.wire import (
    AS_BYTES,
    CLOSE,
    CREDIT,
    CREDIT_PAYLOAD,
    END,
    ITEM,
    OVERSIZED,
    Buffer,
    head,
    size_of,
    small_frame,
)

_log = logging.getLogger("bigmachine.rpc")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

WINDOW_ITEMS = 256
WINDOW_BYTES = 4 * 2**20
#: Bytes of a file travel in pieces of this size.
PIECE = 256 * 1024

ITEMS = "items"
BYTES = "bytes"
_PLAIN = frozenset((int, float, str, bytes, bool, type(None), dict, list, tuple, set, bytearray, complex, frozenset))


def stream_kind(value: object) -> str | None:
    """Tell whether a value is to be streamed: ITEMS for an iterator, BYTES for a binary file, None for neither."""
    kind = type(value)
    if kind in _PLAIN:
        return None
    if hasattr(kind, "__next__") and not isinstance(value, io.IOBase):
        return ITEMS
    if hasattr(kind, "__anext__"):
        return ITEMS
    if isinstance(value, io.TextIOBase) or not hasattr(value, "read"):
        return None
    if isinstance(value, io.RawIOBase | io.BufferedIOBase) or "b" in str(getattr(value, "mode", "")):
        return BYTES
    return None


@dataclass(frozen=True, slots=True)
class StreamRef:
    """Stands in a call's arguments for a stream that follows."""

    ident: int
    kind: str


class Carrier(Protocol):
    """What carries streams: a link or a server's channel."""

    reactor: Reactor
    codec: Codec
    outgoing: dict[int, Outgoing]
    incoming: dict[int, Incoming]

    @property
    def has_bulk(self) -> bool: ...

    def transmit(self, encoded: Encoded, by_bulk: bool | None = None) -> None: ...

    def run_in_thread(self, job: Job) -> None: ...


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
        read = self._source.read
        while self._may_send():
            piece = read(PIECE)
            if not piece:
                return True
            post(self._send, self._count(_piece(self.ident, piece)))
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


def _piece(ident: int, piece: bytes) -> Encoded:
    first = head(ITEM, 0, ident, b"", (len(piece) | AS_BYTES,))
    return [first, piece] if len(piece) >= 4096 else first + piece


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


class Incoming:
    """The reading end: holds what has arrived, wakes whoever waits for it, returns credit."""

    def __init__(self, carrier: Carrier, ident: int, what: str) -> None:
        self.carrier = carrier
        self.ident = ident
        self.what = what
        self._items: deque[tuple[Any, int]] = deque()
        self._error: BaseException | None = None
        self._has_ended = False
        self._is_closed = False
        self._consumed_bytes = 0
        self._consumed_items = 0
        # How to wake each reader that waits: nearly always one, but threads may share a stream.
        self._waiting: deque[Callable[[], object]] = deque()
        carrier.incoming[ident] = self

    # on the reactor's thread

    def put(self, item: Any, size: int) -> None:
        self._items.append((item, size))
        self._wake()

    def end(self, error: BaseException | None) -> None:
        if self._has_ended:
            return
        self.carrier.incoming.pop(self.ident, None)
        self._error = error
        self._has_ended = True
        self._wake()

    def _wake(self) -> None:
        waiting = self._waiting
        while waiting:
            try:
                wake = waiting.popleft()
            except IndexError:  # `close` in another thread took it
                return
            wake()

    # the reader's side

    def pull(self) -> Any:
        """Return the next item; wait for it, until the deadline that is set.

        Raises: StopIteration at the end, the producer's error, DeadlineExceeded.
        """
        while True:
            if self._items and (taken := self._take()) is not None:
                return taken[0]
            self._check_end()
            if self.carrier.reactor.is_here:
                raise BigmachineError(
                    f"reading the stream {self.what} here would block the event loop: use 'async for'"
                )
            left = remaining()
            if left is not None and left <= 0:
                raise DeadlineExceeded(f"the stream {self.what} had no further item before the deadline")
            lock = threading.Lock()
            lock.acquire()
            self._waiting.append(lock.release)
            if not self._is_due():
                lock.acquire(timeout=-1 if left is None else left)

    async def pull_async(self) -> Any:
        """Return the next item; wait for it, until the deadline that is set.

        Raises: StopAsyncIteration at the end, the producer's error, DeadlineExceeded.
        """
        while True:
            if self._items and (taken := self._take()) is not None:
                return taken[0]
            try:
                self._check_end()
            except StopIteration:
                raise StopAsyncIteration from None
            left = remaining()
            if left is not None and left <= 0:
                raise DeadlineExceeded(f"the stream {self.what} had no further item before the deadline")
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            self._waiting.append(partial(self.carrier.reactor.wake, loop, future))
            if not self._is_due():
                await asyncio.wait((future,), timeout=left) if left is not None else await future

    def _is_due(self) -> bool:
        return bool(self._items) or self._has_ended or self._is_closed

    def _check_end(self) -> None:
        if self._is_closed:
            raise StopIteration
        if self._has_ended:
            error, self._error = self._error, None
            if error is not None:
                raise error
            raise StopIteration

    def _take(self) -> tuple[Any, int] | None:
        try:
            taken = self._items.popleft()
        except IndexError:  # another reader, or `close`, was faster
            return None
        self._consumed_bytes += taken[1]
        self._consumed_items += 1
        if self._consumed_items >= WINDOW_ITEMS // 4 or self._consumed_bytes >= WINDOW_BYTES // 4:
            self._give_credit()
        return taken

    def _give_credit(self) -> None:
        size, self._consumed_bytes = self._consumed_bytes, 0
        count, self._consumed_items = self._consumed_items, 0
        while not self._has_ended and (size or count):
            now = min(size, 0xFFFF_FFFF)  # one item can have more than a u32 holds
            self._post(self.carrier.transmit, small_frame(CREDIT, 0, self.ident, CREDIT_PAYLOAD.pack(now, count)))
            size, count = size - now, 0

    def close(self) -> None:
        """Tell the producer to stop; safe to call twice and from a finaliser."""
        if self._is_closed:
            return
        self._is_closed = True
        self._items.clear()
        if not self._has_ended:
            self._post(self._send_close)
        self._wake()

    def _send_close(self) -> None:
        if self.carrier.incoming.pop(self.ident, None) is not None:
            self.carrier.transmit(small_frame(CLOSE, 0, self.ident))

    def _post(self, function: Callable[..., object], *args: object) -> None:
        try:
            self.carrier.reactor.post(function, *args)
        except RuntimeError:
            _log.debug("the link of the stream %s is closed", self.what)


class Stream(Generic[T]):
    """Items that a method yields, as they come: iterable, and async-iterable from any event loop.

    The producer is never more than a window ahead. Closing the stream, or dropping the last reference to it, stops
    the producer. An error of the producer is raised after the items that came before it.
    """

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        return cast(T, self._incoming.pull())

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        return cast(T, await self._incoming.pull_async())

    def close(self) -> None:
        """Stop the producer."""
        self._incoming.close()

    async def aclose(self) -> None:
        """Stop the producer."""
        self._incoming.close()

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._incoming.close()

    def __repr__(self) -> str:
        return f"<Stream {self._incoming.what} #{self._incoming.ident}>"


class ByteStream(io.RawIOBase):
    """Bytes that a method's file object gives, as a readable binary file."""

    def __init__(self, incoming: Incoming) -> None:
        super().__init__()
        self._incoming = incoming
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes, fewer only when no more are there yet; all of them if it is negative."""
        if size is None or size < 0:
            return self.readall()
        if size == 0 or not self._fill():
            return b""
        piece, self._left = self._left[:size], self._left[size:]
        whole = piece.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(piece) else bytes(piece)

    def readall(self) -> bytes:
        pieces = []
        while self._fill():
            pieces.append(self._left)
            self._left = memoryview(b"")
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        if not len(into) or not self._fill():
            return 0
        count = min(len(into), len(self._left))
        into[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def _fill(self) -> bool:
        if self.closed:
            raise ValueError("the stream is closed")
        while not self._left:
            try:
                self._left = memoryview(self._incoming.pull())
            except StopIteration:
                return False
        return True

    def close(self) -> None:
        """Stop the producer."""
        if not self.closed:
            self._incoming.close()
        super().close()


class StreamHost:
    """The stream half of a link or channel: its two tables and the frames that go to them."""

    reactor: Reactor
    codec: Codec

    def __init__(self) -> None:
        self.outgoing: dict[int, Outgoing] = {}
        self.incoming: dict[int, Incoming] = {}

    @property
    def has_bulk(self) -> bool:
        """Whether there is a second connection for what is large."""
        raise NotImplementedError  # a link's and a channel's own

    def transmit(self, encoded: Encoded, by_bulk: bool | None = None) -> None:
        """Send a frame; by the bulk lane if it is large, unless `by_bulk` decides."""
        raise NotImplementedError  # a link's and a channel's own

    def run_in_thread(self, job: Job) -> None:
        raise NotImplementedError  # a link's and a channel's own

    def open_stream(self, ident: int, kind: str, what: str) -> Stream[Any] | ByteStream:
        """Make the reading end of a stream that the other side writes."""
        incoming = Incoming(self, ident, what)
        return ByteStream(incoming) if kind == BYTES else Stream(incoming)

    def stream_frame(
        self, kind: int, flags: int, ident: int, payload: Buffer, buffers: list[bytes | bytearray] | None
    ) -> None:
        """Take a frame that belongs to a stream; one that is closed on this side is dropped."""
        if kind == ITEM:
            self._item(flags, ident, payload, buffers)
        elif kind == END:
            if (incoming := self.incoming.get(ident)) is not None:
                incoming.end(self.codec.load_error(payload, flags) if len(payload) else None)
        elif (outgoing := self.outgoing.get(ident)) is not None:
            if kind == CREDIT:
                outgoing.credit(*CREDIT_PAYLOAD.unpack(payload))
            else:
                outgoing.close()

    def _item(self, flags: int, ident: int, payload: Buffer, buffers: list[bytes | bytearray] | None) -> None:
        incoming = self.incoming.get(ident)
        if incoming is None:
            # Also of a stream that was never opened here, because the call it came with was refused.
            self.transmit(small_frame(CLOSE, 0, ident))
            return
        if flags & OVERSIZED:
            size = int(bytes(payload))
            text = f"an item of the stream {incoming.what} has {size:,} bytes, above the limit of {self.codec.limit:,}"
            self._break_off(incoming, InvalidCall(text))
            return
        size = 16 + len(payload) + (8 * len(buffers) + sum(map(len, buffers)) if buffers else 0)
        if not len(payload) and buffers:
            incoming.put(buffers[0], size)
            return
        try:
            item = self.codec.loads(payload, buffers)
        except BaseException as exc:  # noqa: BLE001 (a user's constructor, on the event loop)
            what = f"an item of the stream {incoming.what} could not be rebuilt here"
            self._break_off(incoming, InvalidCall(f"{what}: {type(exc).__name__}: {exc}"))
            return
        incoming.put(item, size)

    def _break_off(self, incoming: Incoming, error: InvalidCall) -> None:
        incoming.end(error)
        self.transmit(small_frame(CLOSE, 0, incoming.ident))

    def end_streams(self, error: BaseException) -> None:
        """End every stream: the connection is gone."""
        for incoming in list(self.incoming.values()):
            incoming.end(error)
        for outgoing in list(self.outgoing.values()):
            outgoing.close()


__all__ = [
    "BYTES",
    "ITEMS",
    "ByteStream",
    "Incoming",
    "Outgoing",
    "Stream",
    "StreamHost",
    "StreamRef",
    "stream_kind",
]
