"""Streams: items or bytes that flow under one id, with back-pressure, either way.

The writer may have `WINDOW_ITEMS` items and `WINDOW_BYTES` bytes on the way; the reader returns credit as it
consumes (CREDIT), so a slow reader stops the producer and neither side holds more than a window. A reader that is
closed or dropped sends CLOSE, and the producer's generator is closed at once; a producer's error ends the stream
with END and the error, which the reader raises in its turn, after the items before it.

`Outgoing` produces, `Incoming` takes in, `Stream` and `ByteStream` are what a reader holds; the `StreamHost` here is
a link's or a channel's two tables of them.
"""

from __future__ import annotations

from pickle import loads
from typing import Any

from bigmachine.errors import InvalidCall
from bigmachine.rpc.codec import Codec, Encoded
from bigmachine.rpc.pool import Job
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.streams.incoming import Incoming
from bigmachine.rpc.streams.outgoing import Outgoing
from bigmachine.rpc.streams.readers import ByteStream, Stream
from bigmachine.rpc.streams.streamed import BYTES
from bigmachine.rpc.wire import CLOSE, CREDIT, CREDIT_PAYLOAD, END, ITEM, OVERSIZED, Buffer, small_frame


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

    def open_stream(self, ident: int, kind: str, what: str, seconds: float | None = None) -> Stream[Any] | ByteStream:
        """Make the reading end of a stream that the other side writes; `seconds`: what its call's deadline leaves."""
        incoming = Incoming(self, ident, what)
        if seconds is not None:
            incoming.expire_in(seconds)
        return ByteStream(incoming) if kind == BYTES else Stream(incoming)

    def stream_frame(
        self, kind: int, flags: int, ident: int, payload: Buffer, buffers: list[bytes | bytearray] | None
    ) -> None:
        """Take a frame that belongs to a stream; one that is closed on this side is dropped."""
        if kind == ITEM:
            if buffers is None and not flags and (incoming := self.incoming.get(ident)) is not None:
                # What most items are: the whole of `_item`, in the fewest steps.
                try:
                    item = loads(payload)
                except BaseException as exc:  # noqa: BLE001 (a user's constructor, on the event loop)
                    self._not_rebuilt(incoming, exc)
                else:
                    incoming.put(item, 16 + len(payload))
            else:
                self._item(flags, ident, payload, buffers)
        elif kind == END:
            if (incoming := self.incoming.get(ident)) is not None:
                incoming.end(self.codec.load_error(payload, flags) if len(payload) else None)
        elif (outgoing := self.outgoing.get(ident)) is not None:
            if kind == CREDIT:
                outgoing.credit(*CREDIT_PAYLOAD.unpack(payload))
            else:
                outgoing.close()
        elif kind == CREDIT:
            self.reader_is_there(ident)

    def reader_is_there(self, ident: int) -> None:
        """Take credit for a stream that is not under way: it may have been kept until there is a reader."""

    def _item(self, flags: int, ident: int, payload: Buffer, buffers: list[bytes | bytearray] | None) -> None:
        incoming = self.incoming.get(ident)
        if incoming is None:
            # Also of a stream that was never opened here, because the call it came with was refused.
            self.transmit(small_frame(CLOSE, 0, ident))
            return
        if flags & OVERSIZED:
            size = int(bytes(payload))
            self._break_off(incoming, self.codec.too_large(f"an item of the stream {incoming.what}", size))
            return
        size = 16 + len(payload) + (8 * len(buffers) + sum(map(len, buffers)) if buffers else 0)
        if not len(payload) and buffers:
            incoming.put(buffers[0], size)
            return
        try:
            item = self.codec.loads(payload, buffers)
        except BaseException as exc:  # noqa: BLE001 (a user's constructor, on the event loop)
            self._not_rebuilt(incoming, exc)
            return
        incoming.put(item, size)

    def _not_rebuilt(self, incoming: Incoming, exc: BaseException) -> None:
        what = f"an item of the stream {incoming.what} could not be rebuilt here"
        self._break_off(incoming, InvalidCall(f"{what}: {type(exc).__name__}: {exc}"))

    def _break_off(self, incoming: Incoming, error: InvalidCall) -> None:
        incoming.end(error)
        self.transmit(small_frame(CLOSE, 0, incoming.ident))

    def end_streams(self, error: BaseException) -> None:
        """End every stream: the connection is gone."""
        for incoming in list(self.incoming.values()):
            incoming.end(error)
        for outgoing in list(self.outgoing.values()):
            outgoing.close()
