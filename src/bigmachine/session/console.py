"""Machines' output on the driver's standard error: whole lines, each with its machine's name in front.

What a machine prints before its services are initialised is its start's own business (each of n machines runs the
program's top level once more) and is held back: shown at debug level, or when five machines in a row failed to come
up, otherwise kept only for the error of a machine that did not [Go: machine.go, tail].
"""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger("bigmachine")
#: A line that grows beyond this is shown in pieces.
_LONGEST_LINE = 1024 * 1024
#: So many failed starts in a row, and the next ones are shown from their first line.
FAILURES_UNTIL_SHOWN = 5


class Console:
    """Splits what machines write into lines; used from one thread."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._parts: dict[tuple[str, str], bytearray] = {}
        self._held: set[str] = set()
        self._starting: set[str] = set()
        self._failures = 0

    def begin(self, name: str) -> None:
        """Hold back what a starting machine writes."""
        self._starting.add(name)
        if self._failures >= FAILURES_UNTIL_SHOWN:
            _log.warning("%d machines in a row failed to start; %s shows what it writes", self._failures, name)
        elif not _log.isEnabledFor(logging.DEBUG):
            self._held.add(name)

    def show(self, name: str) -> None:
        """The machine's services begin: show what comes from now on."""
        self._held.discard(name)

    def up(self, name: str) -> None:
        """The machine runs."""
        self.show(name)
        if name in self._starting:
            self._starting.remove(name)
            self._failures = 0

    def wrote(self, name: str, stream: str, data: bytes) -> None:
        """Take what a machine wrote."""
        if name in self._held:
            return
        part = self._parts.setdefault((name, stream), bytearray())
        part += data
        cut = part.rfind(b"\n") + 1
        if not cut and len(part) > _LONGEST_LINE:
            cut = len(part)
        if cut:
            whole = bytes(part[:cut])
            del part[:cut]
            self._lines(name, whole)

    def end(self, name: str, *, has_failed: bool) -> None:
        """The machine has stopped: show a last line without an end, too; count it if it did not even start."""
        for stream in ("stdout", "stderr"):
            part = self._parts.pop((name, stream), None)
            if part:
                self._lines(name, bytes(part))
        self._held.discard(name)
        if name in self._starting:
            self._starting.remove(name)
            self._failures += has_failed

    def _lines(self, name: str, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        lines = text.removesuffix("\n").split("\n")
        self._write("".join(f"{name}: {line}\n" for line in lines))
