"""What stage 0 and the agent of a host have said of their troubles, for whoever wants to read it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

#: So many lines are kept: an agent says little.
_KEPT: Final = 1000


class HostLog:
    """The last lines of one host's log. Written by one thread, read by others."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._count = 0
        self._is_over = False
        self._changed = threading.Condition()

    def add(self, line: str) -> None:
        """Note a line."""
        with self._changed:
            self._lines.append(line)
            self._count += 1
            self._changed.notify_all()

    def end(self) -> None:
        """Note that no more will come."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def last(self, count: int) -> list[str]:
        """Give the last lines."""
        with self._changed:
            return list(self._lines)[-count:]

    def follow(self) -> Iterator[str]:
        """Give the lines that are kept, and then each as it comes, until the host's end."""
        seen = 0
        while True:
            with self._changed:
                while self._count == seen and not self._is_over:
                    self._changed.wait()
                fresh = list(self._lines)[-(self._count - seen) :] if self._count > seen else []
                seen = self._count
                if not fresh:
                    return
            yield from fresh


__all__ = ["HostLog"]
