"""One connection: bytes from and to a transport, frames from and to a `Receiver`.

Writes. A lone frame is written at once; while the reactor is corked, or if this tick already wrote, frames are
gathered and leave in one write (adaptive coalescing: deferring always would cost a lone call 5-7 us). Large frames
go into a queue that is written in chunks as the transport takes them, one chunk a tick, so that a loop that carries
bulk still serves everything else in between; small frames that come while one is under way wait behind it. What is
large is also read in pieces of that size. After each piece other threads have their turn (`turns`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, cast

from bigmachine.rpc.codec import Codec
from bigmachine.rpc.complaints import complain_of_frame
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.wire import Buffer, Decoder, Frame, WireError

#: What is large leaves in pieces of this size, other work in between. Measured, a small call while 64 MiB arrays are on
#: their way: 0.10-0.13 ms with 64 KiB, 0.35 ms with 256 KiB, which carries a tenth more.
CHUNK = 64 * 1024
_HIGH_WATER = 256 * 1024
#: What reads less at once does not keep others waiting.
_SMALL_READ = 4096
#: So many frames leave together at most: while the peer works on them, this side makes the next. With all of 64 calls
#: in one write the two sides work in turns, and a second core is of no use.
_GATHERED = 16


class Receiver(Protocol):
    """What stands behind a connection; its codec's limit is that of what is read, and its `str` names the peer."""

    codec: Codec

    def frames(self, connection: Connection, frames: list[Frame]) -> None: ...

    def lost(self, connection: Connection, error: Exception | None) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """A transport's protocol that speaks frames. All of it runs on the reactor's thread."""

    def __init__(self, reactor: Reactor, receiver: Receiver) -> None:
        self.reactor = reactor
        self.receiver = receiver
        self.bytes_in = 0
        self.bytes_out = 0
        #: Whether the peer takes what is sent; False while the transport is full.
        self.is_writable = True
        #: A server stops reading from a peer that does not read its replies.
        self.stops_reading_when_full = False
        self._decoder = Decoder(reactor.scratch, reactor.recycler.allocate, receiver.codec.limit)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._queue: deque[Buffer] = deque()
        self._is_hot = False  # this tick has already written
        self._is_pumping = False
        #: Why it ended, if it did not just end.
        self.error: Exception | None = None

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.reactor.connections.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        buffer = self._decoder.buffer()
        return buffer[:CHUNK] if len(buffer) > CHUNK else buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_in += nbytes
        reactor = self.reactor
        if reactor.polling.is_expecting:
            reactor.polling.came()
        outer, reactor.corked = reactor.corked, True
        try:
            frames = self._decoder.received(nbytes)
            if frames:
                self.receiver.frames(self, frames)
        except WireError as exc:
            self.abort(exc)
        except Exception as exc:  # noqa: BLE001 (a frame that does not hold what its kind says: the connection's end)
            self._misunderstood(exc)
        finally:
            if not outer:
                reactor.uncork()
                if nbytes > _SMALL_READ:
                    reactor.turns.carried(nbytes)

    def _misunderstood(self, exc: Exception) -> None:
        complain_of_frame(self.reactor.complaints, self.receiver, exc)
        self.abort(WireError(f"a frame could not be understood: {type(exc).__name__}: {exc}"))

    def eof_received(self) -> bool | None:
        return None  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.reactor.connections.discard(self)
        self._out.clear()
        self._queue.clear()
        self.error = self.error or exc
        self.receiver.lost(self, self.error)

    def pause_writing(self) -> None:
        self.is_writable = False
        if self.stops_reading_when_full and self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.is_writable = True
        if self.stops_reading_when_full and self._transport is not None:
            self._transport.resume_reading()
        if self._queue and not self._is_pumping:
            self._pump()

    # what the receiver calls

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    @property
    def is_carrying(self) -> bool:
        """Whether something large is under way, either way; from any thread, as it was a moment ago."""
        return bool(self._queue) or self._decoder.is_filling

    @property
    def is_queueing(self) -> bool:
        """Whether what is sent now waits on this side, behind something large."""
        return bool(self._queue) or not self.is_writable

    def extra(self, name: str) -> Any:
        """Return the transport's extra information of that name."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    def send(self, data: bytes) -> None:
        """Send one small frame."""
        out = self._out
        if self.reactor.corked:
            if not out:
                self.reactor.dirty.append(self)
        elif not self._is_hot:
            self._is_hot = True
            self.reactor.loop.call_soon(self._cool)
            self._write(data)
            return
        out.append(data)
        if len(out) >= _GATHERED:
            self.flush()

    def send_large(self, parts: Sequence[Buffer]) -> None:
        """Send a frame of several parts without copying them; they must not change until it is away."""
        if self._out:
            self.flush()
        queue = self._queue
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), CHUNK):
                queue.append(view[start : start + CHUNK])
        if not self._is_pumping and self.is_writable:
            self._pump()

    def flush(self) -> None:
        """Write what was gathered."""
        out = self._out
        if not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._write(data)

    def hold(self) -> None:
        """Have what is sent in this tick of the loop leave together, at its end."""
        if not self._is_hot:
            self._is_hot = True
            self.reactor.loop.call_soon(self._cool)

    def _cool(self) -> None:
        self._is_hot = False
        if self._out:
            self.flush()

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():  # the peer has closed it: that is heard of in a moment
            return
        if self._queue:
            self._queue.append(data)
        else:
            self.bytes_out += len(data)
            transport.write(data)

    def _pump(self) -> None:
        self._is_pumping = False
        transport = self._transport
        if transport is None or transport.is_closing() or not self._queue:
            return
        chunk = self._queue.popleft()
        self.bytes_out += len(chunk)
        transport.write(chunk)
        self.reactor.turns.carried(len(chunk))
        if self._queue and self.is_writable:
            self._is_pumping = True
            self.reactor.loop.call_soon(self._pump)

    def stop_reading(self) -> None:
        """Take nothing more (for fault injection: the connection is about to be cut)."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.pause_reading()

    def fall_silent(self) -> None:
        """Send nothing more (for fault injection: the connection is about to be cut)."""
        self.flush()
        # Replaced rather than asked: a check would cost each frame something.
        self._write = _drop  # type: ignore[method-assign, assignment]
        self.send_large = _drop  # type: ignore[method-assign, assignment]

    def close(self) -> None:
        """Close after what is gathered was written."""
        self.flush()
        # Closed once more, asyncio's own transport forgets its connection: an `abort` would do nothing any more.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def abort(self, error: Exception | None = None) -> None:
        """Close at once."""
        self.error = self.error or error
        if self._transport is not None:
            self._transport.abort()


def _drop(_: object) -> None:
    """Send nothing of it."""
