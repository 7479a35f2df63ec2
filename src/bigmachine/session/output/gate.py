"""What is not shown: the output of starts, and what is dropped where the user prefers that to waiting. Pure.

What a machine prints before its services are initialised is its start's own business (each of n machines runs the
program's top level once more) and is held back: shown at debug level, or when five machines in a row failed to come
up, otherwise kept only for the error of a machine that did not [Go: machine.go, tail].
"""

from __future__ import annotations

from typing import Final

#: So many failed starts in a row, and the next ones are shown from their first line.
FAILURES_UNTIL_SHOWN: Final = 5


class Gate:
    """Which machines are shown."""

    def __init__(self) -> None:
        self.failures = 0
        self._held: set[str] = set()
        self._starting: set[str] = set()

    def begin(self, name: str, *, is_debugged: bool) -> bool:
        """Note that a machine starts; True if it is shown because of the failures before it."""
        self._starting.add(name)
        if self.failures >= FAILURES_UNTIL_SHOWN:
            return True
        if not is_debugged:
            self._held.add(name)
        return False

    def show(self, name: str) -> None:
        """The machine's services begin: show what comes from now on."""
        self._held.discard(name)

    def up(self, name: str) -> None:
        """The machine runs."""
        self.show(name)
        if name in self._starting:
            self._starting.remove(name)
            self.failures = 0

    def end(self, name: str, *, has_failed: bool) -> None:
        """The machine has stopped; a failure counts if it did not even start."""
        self._held.discard(name)
        if name in self._starting:
            self._starting.remove(name)
            self.failures += has_failed

    def is_shown(self, name: str) -> bool:
        """Whether what it writes now is shown."""
        return name not in self._held


class Dropper:
    """Drops whole lines of one stream while there is no room, and counts them."""

    def __init__(self) -> None:
        self._dropped = 0
        self._is_within = False

    def feed(self, data: bytes, *, has_room: bool) -> tuple[int, bytes]:
        """Take data; give how many lines were dropped before what is left of it. No lines: nothing was."""
        if not has_room:
            self._dropped += data.count(b"\n")
            self._is_within = not data.endswith(b"\n")
            return 0, b""
        if self._is_within:
            _, found, data = data.partition(b"\n")
            if not found:
                return 0, b""
            self._dropped += 1
            self._is_within = False
        count, self._dropped = self._dropped, 0
        return count, data

    def end(self) -> int:
        """The stream has ended: how many lines are still to be told of."""
        count = self._dropped + self._is_within
        self._dropped, self._is_within = 0, False
        return count
