"""Frames: how calls, results and streams lie in the bytes of a connection. Pure: no I/O, no clock.

A frame is

    header    16 bytes, little endian: payload length u32, number of buffers u16, kind u8, flags u8, id u64
    table     8 bytes a buffer: its length in the low 63 bits, `AS_BYTES` in the highest
    payload   a pickle (protocol 5), or what the kind says
    buffers   the pickle's out-of-band buffers, one after the other

Rules. A call's id is chosen by the caller and is unique in its link; its result, error, items and cancellation
carry the same id. Streams of arguments take ids from the same counter. A frame is never interleaved with another
on one connection, so what is large goes by a second one (`BULK` lane). A reader never needs more memory than the
frame says beforehand, and what is larger than `LARGE` is read into its final memory directly.

Whatever is not a frame is a `WireError`: the connection cannot be trusted to be in step any more and ends.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

VERSION = 1
HEADER = struct.Struct("<IHBBQ")
HEADER_SIZE = HEADER.size
_unpack = HEADER.unpack_from
#: A frame body above this is not gathered in the shared receive buffer but read into memory of its own.
LARGE = 64 * 1024
#: Targets smaller than this are filled by a copy from the receive buffer: a read of its own would cost more.
_DIRECT = 16 * 1024
#: What comes at once is copied up to this size: a piece of `bytes` is had in half the time of a view of as much.
_COPIED = 16 * 1024
MAX_BUFFERS = 0xFFFF
MAX_PAYLOAD = 0xFFFF_FFFF
#: In the table: the receiver is to make an immutable `bytes` of this buffer.
AS_BYTES = 1 << 63
#: The default limit of one frame (payload and buffers), on both sides.
DEFAULT_LIMIT = 16 * 2**30


class Kind(enum.IntEnum):
    """What a frame is for."""

    HELLO = 1  # caller to callee, first on each connection: version, link, lane
    CALL = 2
    RESULT = 3
    ERROR = 4
    CANCEL = 5  # the caller does not want the outcome of this id any more
    PING = 6
    PONG = 7
    ITEM = 8  # of a stream; either way
    END = 9  # the stream ended; with an error if there is a payload
    CREDIT = 10  # the reader has consumed so many bytes and items (two u32)
    CLOSE = 11  # the reader wants no more items of this stream


# Plain ints: comparing an IntEnum member costs four times as much, and this is done for each frame.
HELLO, CALL, RESULT, ERROR, CANCEL, PING, PONG, ITEM, END, CREDIT, CLOSE = (int(kind) for kind in Kind)
_LAST_KIND = CLOSE

# Flags
STREAMED = 1  # RESULT: the outcome is a stream, its items follow under the same id
OURS = 2  # ERROR, END: raised by the library for this call, not by the method
KEPT = 8  # RESULT with STREAMED: the stream comes by the link that this one is beside, once that has a reader for it
BY_LOOP = 4  # RESULT, ERROR by a connection that a thread serves: such calls had better go where the loop serves
OVERSIZED = 128  # made by a Decoder for a frame above the limit, never on the wire

CREDIT_PAYLOAD = struct.Struct("<II")

Buffer = bytes | bytearray | memoryview
#: kind, flags, id, payload, buffers
Frame = tuple[int, int, int, bytes | memoryview | bytearray, list[bytes | bytearray] | None]
#: Makes the final memory of a buffer: the object, and a writable view of it.
Allocate = Callable[[int, bool], tuple[bytes | bytearray, memoryview]]


class WireError(Exception):
    """What came is not a frame; the fault is the peer's."""


def small_frame(kind: int, flags: int, ident: int, payload: bytes = b"") -> bytes:
    """Encode a frame without buffers."""
    return HEADER.pack(len(payload), 0, kind, flags, ident) + payload


def head(kind: int, flags: int, ident: int, payload: bytes, lengths: Sequence[int]) -> bytes:
    """Encode what stands before the buffers of a frame; `lengths` are table entries."""
    table = struct.pack(f"<{len(lengths)}Q", *lengths)
    return HEADER.pack(len(payload), len(lengths), kind, flags, ident) + table + payload


def kind_of(encoded: bytes | list[Buffer]) -> int:
    """Return the kind of an encoded frame."""
    first = encoded if isinstance(encoded, bytes) else bytes(encoded[0])
    return first[6]


def size_of(encoded: bytes | list[Buffer]) -> int:
    """Return the bytes of an encoded frame."""
    return len(encoded) if isinstance(encoded, bytes) else sum(len(part) for part in encoded)


def readdress(encoded: bytes | list[Buffer], ident: int) -> bytes | list[Buffer]:
    """Return the same frame under another id."""
    first = encoded if isinstance(encoded, bytes) else bytes(encoded[0])
    size, number, kind, flags, _ = HEADER.unpack_from(first)
    first = HEADER.pack(size, number, kind, flags, ident) + first[HEADER_SIZE:]
    return first if isinstance(encoded, bytes) else [first, *encoded[1:]]


def allocate_bytearray(size: int, _as_bytes: bool) -> tuple[bytes | bytearray, memoryview]:
    """The plain way to make a buffer's memory; making it `bytes` is left to whoever unpickles."""
    memory = bytearray(size)
    return memory, memoryview(memory)


@dataclass(slots=True)
class _Partial:
    """A large frame that is being filled: `targets` are the views still to fill, in order."""

    kind: int
    flags: int
    ident: int
    payload: bytearray
    buffers: list[bytes | bytearray]
    targets: list[memoryview]
    at: int = 0

    def frame(self) -> Frame:
        return (self.kind, self.flags, self.ident, self.payload, self.buffers)


class Decoder:
    """Turns received bytes into frames.

    Use: let the network write into `buffer()`, then call `received(n)`, which returns the frames that are now
    complete. Payloads of small frames are views of the shared `scratch` and valid only until the next call.
    """

    __slots__ = ("_allocate", "_direct", "_limit", "_partial", "_rest", "_scratch", "_skip")

    def __init__(self, scratch: memoryview, allocate: Allocate = allocate_bytearray, limit: int = DEFAULT_LIMIT):
        self._scratch = scratch
        self._allocate = allocate
        self._limit = limit
        self._rest = b""  # the beginning of a small frame that is not complete
        self._partial: _Partial | None = None
        self._direct = False
        self._skip = 0  # bytes of an oversized frame still to come

    @property
    def is_clean(self) -> bool:
        """Whether the bytes so far end with a frame's end."""
        return not self._rest and self._partial is None and not self._skip

    @property
    def is_filling(self) -> bool:
        """Whether a large frame is under way."""
        return self._partial is not None

    def buffer(self) -> memoryview:
        """Where the next bytes should be written."""
        partial = self._partial
        if partial is not None and len(target := partial.targets[partial.at]) >= _DIRECT:
            self._direct = True
            return target
        self._direct = False
        return self._scratch

    def received(self, count: int) -> list[Frame]:  # noqa: C901, PLR0912 (hot: no call more)
        """Take `count` bytes that were written into `buffer()`.

        Raises: WireError, after which the decoder must not be used any more.
        """
        if self._direct:
            return self._advance(count)
        view: bytes | memoryview = self._scratch[:count]
        if self._rest:
            view = self._rest + view
            self._rest = b""
        elif count <= _COPIED:
            view = bytes(view)
        if len(view) > _COPIED:
            view = memoryview(view)
        frames: list[Frame] = []
        at = 0
        if self._partial is not None:
            at = self._fill(view, 0, frames)
        elif self._skip:
            at = min(self._skip, count)
            self._skip -= at
        end = len(view)
        last = end - HEADER_SIZE  # where a frame can begin at most
        while at <= last:
            size, number, kind, flags, ident = _unpack(view, at)
            if kind > _LAST_KIND or not kind:
                raise WireError(f"no frame has the kind {kind}")
            if flags and flags & OVERSIZED:
                raise WireError("a frame has the flag of those that the reader found too large")
            start = at + HEADER_SIZE
            if not number and size <= LARGE:
                after = start + size
                if after > end:
                    break
                frames.append((kind, flags, ident, view[start:after], None))
                at = after
                continue
            after = self._large(view, start, size, number, (kind, flags, ident), frames)
            if after is None:
                break
            at = after
        if at < end:
            self._rest = bytes(view[at:])
        return frames

    def _large(
        self,
        view: bytes | memoryview,
        start: int,
        size: int,
        number: int,
        key: tuple[int, int, int],
        frames: list[Frame],
    ) -> int | None:
        """Take a frame with buffers or a large payload; None if too little of it is there to begin."""
        body = start + 8 * number
        if body > len(view):
            return None
        table = struct.unpack_from(f"<{number}Q", view, start)
        lengths = [entry & ~AS_BYTES for entry in table]
        total = size + sum(lengths)
        if total > self._limit:
            return self._oversized(view, body, total, key, frames)
        if body + total > len(view) and total <= LARGE:
            return None
        kind, flags, ident = key
        payload, writable = self._allocate(size, False)
        assert isinstance(payload, bytearray)
        targets = [writable] if size else []
        buffers: list[bytes | bytearray] = []
        for entry, length in zip(table, lengths, strict=True):
            memory, writable = self._allocate(length, bool(entry & AS_BYTES))
            buffers.append(memory)
            if length:
                targets.append(writable)
        partial = _Partial(kind, flags, ident, payload, buffers, targets)
        if not targets:
            frames.append(partial.frame())
            return body
        self._partial = partial
        return self._fill(view, body, frames)

    def _oversized(
        self, view: bytes | memoryview, body: int, total: int, key: tuple[int, int, int], frames: list[Frame]
    ) -> int:
        kind, flags, ident = key
        frames.append((kind, flags | OVERSIZED, ident, bytearray(str(total).encode()), None))
        have = min(total, len(view) - body)
        self._skip = total - have
        return body + have

    def _fill(self, view: bytes | memoryview, at: int, frames: list[Frame]) -> int:
        """Copy what `view` holds from `at` on into the partial frame; return where its part ends."""
        partial = self._partial
        assert partial is not None
        end = len(view)
        targets = partial.targets
        while at < end:
            target = targets[partial.at]
            count = min(len(target), end - at)
            target[:count] = view[at : at + count]
            at += count
            if count < len(target):
                targets[partial.at] = target[count:]
                return at
            partial.at += 1
            if partial.at == len(targets):
                frames.append(partial.frame())
                self._partial = None
                return at
        return at

    def _advance(self, count: int) -> list[Frame]:
        partial = self._partial
        assert partial is not None
        target = partial.targets[partial.at]
        if count < len(target):
            partial.targets[partial.at] = target[count:]
            return []
        partial.at += 1
        if partial.at < len(partial.targets):
            return []
        self._partial = None
        return [partial.frame()]
