"""How much, how long and how often: what an HTTP client may cost. Pure; `now` is an argument.

A client has proved that it belongs to the session, so these bounds are against broken and hasty clients rather than
against strangers: nothing here may grow without end or stay for ever.
"""

from __future__ import annotations

from bigmachine.frozen import frozen


@frozen
class Limits:
    """The bounds of one connection."""

    #: Of a request's body.
    body: int = 64 * 2**20
    #: Of all bodies at once on a connection, which HTTP/2 could otherwise multiply by `streams`.
    bodies: int = 256 * 2**20
    #: Of a request's line and headers; nginx and Apache allow 8 KiB a line, HPACK libraries 64 KiB a block.
    head: int = 64 * 1024
    streams: int = 128
    #: A connection without a request is closed after this. More than the 60 s of most load balancers and pools.
    idle: float = 75.0
    #: A request must be complete within this plus its size at `receive_rate`: no drip of bytes holds a place.
    receive: float = 30.0
    receive_rate: int = 16 * 1024
    #: A client that takes nothing of its reply for so long is gone. Long, as it may be a person with a pager.
    stall: float = 300.0
    #: How long the rest of a refused request is read and dropped; closing at once could destroy the reply on its way
    #: (RFC 9112, 9.6).
    linger: float = 5.0
    #: Of what waits to be sent although nobody reads it: answers to pings and settings, which no window holds back.
    backlog: int = 8 * 2**20
    #: Resets of streams in a row, and a second: each makes us start and drop a call (CVE-2023-44487).
    resets: int = 1000
    reset_rate: float = 50.0

    def receive_by(self, started: float, received: int) -> float:
        """Return the instant by which a request that started to arrive at `started` must be complete."""
        return started + self.receive + received / self.receive_rate


DEFAULT_LIMITS = Limits()


class Bucket:
    """A token bucket: `size` at once, `rate` a second in the long run."""

    def __init__(self, size: int, rate: float, now: float) -> None:
        self._size = size
        self._rate = rate
        self._tokens = float(size)
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token; False if there is none."""
        self._tokens = min(self._size, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
