"""What is streamed, how much of it may be on its way, and what carries it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Protocol

from bigmachine.frozen import frozen
from bigmachine.rpc.codec import Codec, Encoded
from bigmachine.rpc.pool import Job
from bigmachine.rpc.reactor import Reactor

if TYPE_CHECKING:
    from bigmachine.rpc.streams.incoming import Incoming
    from bigmachine.rpc.streams.outgoing import Outgoing

#: Enough for both sides to have something to do: with 256 they worked in turns.
WINDOW_ITEMS = 1024
WINDOW_BYTES = 4 * 2**20
#: Bytes of a file travel in pieces of this size.
PIECE = 512 * 1024

ITEMS = "items"
BYTES = "bytes"
#: Types that are never streams: a quick look at most arguments and results.
PLAIN = frozenset((int, float, str, bytes, bool, type(None), dict, list, tuple, set, bytearray, complex, frozenset))


def stream_kind(value: object) -> str | None:
    """Tell whether a value is to be streamed: ITEMS for an iterator, BYTES for a binary file, None for neither."""
    kind = type(value)
    if kind in PLAIN:
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


@frozen
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
