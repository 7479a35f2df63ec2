"""Machines' output on the driver's standard error: whole lines, each with its machine's name in front.

What a machine prints before its services are initialised is its start's own business (each of n machines runs the
program's top level once more) and is held back: shown at debug level, or when five machines in a row failed to come
up, otherwise kept only for the error of a machine that did not [Go: machine.go, tail].
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

_log = logging.getLogger("bigmachine")
#: A line that grows beyond this is shown in pieces.
_LONGEST_LINE = 1024 * 1024
_HELD = 1024 * 1024
#: So many failed starts in a row, and the next ones are shown from their first line.
FAILURES_UNTIL_SHOWN = 5


class Console:
    """Splits what machines write into lines; used from one thread."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write or _to_stderr
        self._parts: dict[tuple[str, str], bytearray] = {}
        self._held: dict[str, list[bytes]] = {}
        self._failures = 0

    def begin(self, name: str) -> None:
        """Hold back what a starting machine writes."""
        if self._failures >= FAILURES_UNTIL_SHOWN:
            _log.warning("%d consecutive boot failures; the output of %s is shown as it starts", self._failures, name)
        elif not _log.isEnabledFor(logging.DEBUG):
            self._held[name] = []

    def show(self, name: str) -> None:
        """The machine is up: show what comes from now on."""
        self._failures = 0
        self._held.pop(name, None)

    def failed(self, name: str) -> None:
        """The machine did not come up."""
        self._failures += 1
        self._held.pop(name, None)

    def wrote(self, name: str, stream: str, data: bytes) -> None:
        """Take what a machine wrote."""
        if (held := self._held.get(name)) is not None:
            if sum(map(len, held)) < _HELD:
                held.append(data)
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

    def end(self, name: str) -> None:
        """The machine has stopped: show a last line without an end, too."""
        for stream in ("stdout", "stderr"):
            part = self._parts.pop((name, stream), None)
            if part:
                self._lines(name, bytes(part))

    def _lines(self, name: str, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        lines = text.removesuffix("\n").split("\n")
        self._write("".join(f"{name}: {line}\n" for line in lines))


def _to_stderr(text: str) -> None:
    # Looked up each time: programs and test runners replace it.
    stream = sys.stderr
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        _log.debug("standard error is closed; machines' output is not shown any more")
