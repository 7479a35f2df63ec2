"""Warnings that others can cause as often as they like: of each kind one in a while, with how many were left out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

#: Seconds between two warnings of a kind, unless they are given.
PAUSE: Final = 1.0


class Complaints:
    """Logs warnings sparingly. From any thread: at worst two of a kind are logged at once."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._next: dict[str, float] = {}  # by kind: when there may be another
        self._left_out: dict[str, int] = {}

    def warn(self, kind: str, text: str, *args: object, pause: float = PAUSE, error: Exception | None = None) -> None:
        """Log a warning, unless there was one of this `kind` within `pause` seconds.

        The traceback of `error` is logged with each, for whoever debugs.
        """
        if error is not None:
            self._log.debug("%s:", kind, exc_info=error)
        now = self._clock()
        if now < self._next.get(kind, now):
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return
        self._next[kind] = now + pause
        if left_out := self._left_out.pop(kind, 0):
            text, args = f"{text} (and %d more like it since the last time)", (*args, left_out)
        self._log.warning(text, *args)


def complain_of_frame(complaints: Complaints, peer: object, exc: Exception) -> None:
    """Log that a connection ends because of a frame that does not hold what its kind says; `peer` is shown by `str`."""
    complaints.warn(
        "a frame that could not be understood",
        "the connection of %s ends: one of its frames could not be understood: %s: %s (is the peer of another version "
        "of bigmachine?)",
        peer,
        type(exc).__name__,
        exc,
        error=exc,
    )
