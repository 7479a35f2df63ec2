"""The two connections of a link: one for what is small, one for what is large.

A frame is never interleaved with another on one connection: small calls behind a 64 MiB array would wait for 35 to
100 ms. So large frames go by a second connection, and both sides tell by the link's token (HELLO) that the two belong
together. Frames of different calls need no order between the lanes; those of one stream stay on one lane.
"""

from __future__ import annotations

from bigmachine.rpc.codec import Encoded
from bigmachine.rpc.connection import Connection
from bigmachine.rpc.streams.streams import StreamHost

MAIN = 0
BULK = 1
#: The bytes of a link's token; those of the link that it is beside may follow (see `near`).
TOKEN_SIZE = 16
DIRECT = 2  # for a thread that reads it by itself: see `direct`


class Lanes(StreamHost):
    """Sends frames by the lane that fits them."""

    def __init__(self) -> None:
        super().__init__()
        self.main: Connection | None = None
        self.bulk: Connection | None = None

    @property
    def has_bulk(self) -> bool:
        return self.bulk is not None

    def transmit(self, encoded: Encoded, by_bulk: bool | None = None) -> None:
        """Send a frame; by the bulk lane if it is large, unless `by_bulk` decides. Dropped if the link is down."""
        if type(encoded) is bytes:
            connection = self.bulk if by_bulk else self.main
            if connection is not None:
                connection.send(encoded)
            return
        connection = self.main if by_bulk is False or self.bulk is None else self.bulk
        if connection is not None:
            connection.send_large(encoded)  # type: ignore[arg-type]  # not bytes, so a list

    def close_lanes(self) -> None:
        """Close both connections after what is gathered was written."""
        for connection in (self.main, self.bulk):
            if connection is not None:
                connection.close()
