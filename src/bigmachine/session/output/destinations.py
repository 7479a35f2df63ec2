"""Where machines' lines can go: standard error, a file for each machine, a function, nowhere.

All of it runs on the output's own thread.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Protocol

from bigmachine.frozen import frozen
from bigmachine.session.output.paint import Painter, fitted, plain, prefix
from bigmachine.session.output.region import Region, room

_log = logging.getLogger("bigmachine")
#: On a terminal progress moves so often; elsewhere a bar that moves says so in a line from time to time.
_FRAME = 0.1
_STATE = 10.0


@frozen
class OutputLine:
    """A line that a machine wrote. `stream` is "stdout" or "stderr"; `text` is without the newline."""

    machine: str
    stream: str
    text: str


class Destination(Protocol):
    """Takes lines of machines."""

    def write(self, machine: str, stream: str, block: str) -> None:
        """Take whole lines, each with its newline."""

    def rewrite(self, machine: str, stream: str, text: str) -> None:
        """The line that has not ended says this now; empty: nothing."""

    def end(self, machine: str) -> None:
        """The machine has ended."""

    def flush(self) -> float | None:
        """Show what came; give the seconds until this wants to be called again."""

    def close(self) -> None:
        """Let go of everything."""


class Nowhere:
    """Drops everything."""

    def write(self, machine: str, stream: str, block: str) -> None:
        pass

    def rewrite(self, machine: str, stream: str, text: str) -> None:
        pass

    def end(self, machine: str) -> None:
        pass

    def flush(self) -> float | None:
        return None

    def close(self) -> None:
        pass


class ToFunction(Nowhere):
    """Calls a function with each line. What it raises is logged once, and it is called on."""

    def __init__(self, function: Callable[[OutputLine], object]) -> None:
        self._function = function
        self._has_failed = False

    def write(self, machine: str, stream: str, block: str) -> None:
        for text in block[:-1].split("\n"):
            try:
                self._function(OutputLine(machine, stream, text))
            except Exception:  # noqa: BLE001 (it is the user's, and may raise anything)
                if not self._has_failed:
                    self._has_failed = True
                    _log.exception(
                        "the function for machines' output failed at %r of %s; it is called for further lines, and "
                        "further failures are not told",
                        text[:200],
                        machine,
                    )


class ToFiles(Nowhere):
    """Appends each machine's lines to a file of its own, NAME.log in a folder; only this user may read them."""

    def __init__(self, folder: str, session: str) -> None:
        self._folder = os.path.expanduser(folder)
        self._session = session
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._files: dict[str, int] = {}
        self._failed: set[str] = set()

    def write(self, machine: str, stream: str, block: str) -> None:
        try:
            self._append(machine, block)
        except OSError as error:
            if machine not in self._failed:
                self._failed.add(machine)
                _log.error("output of %s is lost: its file in %s cannot be written: %s", machine, self._folder, error)

    def _append(self, machine: str, block: str) -> None:
        file = self._files.get(machine)
        if file is None:
            name = f"{self._session}-{machine}" if self._session else machine
            safe = re.sub(r"[^\w.-]", "_", name).lstrip(".")[:200]
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            file = self._files[machine] = os.open(os.path.join(self._folder, f"{safe}.log"), flags, 0o600)
        data = memoryview(block.encode("utf-8", "replace"))
        while data:
            data = data[os.write(file, data) :]

    def end(self, machine: str) -> None:
        self._failed.discard(machine)
        file = self._files.pop(machine, None)
        if file is not None:
            os.close(file)

    def close(self) -> None:
        for machine in list(self._files):
            self.end(machine)


#: How far a starting machine is, where streams have their names: for terminals alone.
STARTING = "starting"


class ToStderr:
    """Writes to standard error, each line with its machine's name in front.

    On a terminal names have colours, and lines that are rewritten stand at the bottom. Elsewhere such a line is
    written when it ends, and from time to time while it changes.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._texts: list[str] = []
        self._painters: dict[tuple[str, str], Painter] = {}
        self._fronts: dict[str, str] = {}
        self._changing: dict[tuple[str, str], str] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._region = Region()
        self._drawn = 0.0
        self._is_stale = False
        self._terminal: int | None = None
        self._look()

    def write(self, machine: str, stream: str, block: str) -> None:
        painter = self._painters.setdefault((machine, stream), Painter())
        self._texts.append(painter.paint(self._front(machine), block, is_terminal=self._terminal is not None))

    def rewrite(self, machine: str, stream: str, text: str) -> None:
        key = (machine, stream)
        if not text.strip():
            self._told.pop(key, None)
            self._is_stale = self._changing.pop(key, None) is not None or self._is_stale
        elif self._terminal is not None:
            if self._changing.get(key) != text:
                self._changing[key] = text
                self._is_stale = True
        elif stream != STARTING and self._now() - self._told.setdefault(key, self._now()) >= _STATE:
            self._told[key] = self._now()
            self.write(machine, stream, f"{text}\n")

    def end(self, machine: str) -> None:
        for stream in ("stdout", "stderr", STARTING):
            self.rewrite(machine, stream, "")
            self._painters.pop((machine, stream), None)
        self._fronts.pop(machine, None)

    def flush(self) -> float | None:
        text = "".join(self._texts)
        self._texts.clear()
        pause = None
        if self._is_stale and self._terminal is not None:
            pause = max(0.0, self._drawn + _FRAME - self._now())
            if not pause or not self._changing:
                text += self._draw(self._terminal)
                pause = None
        if text:
            _to_stderr(text)
        self._look()
        return pause

    def close(self) -> None:
        self._changing.clear()
        self._is_stale = True
        self.flush()

    def _front(self, machine: str) -> str:
        front = self._fronts.get(machine)
        if front is None:
            is_coloured = self._terminal is not None and not os.environ.get("NO_COLOR")
            front = self._fronts[machine] = prefix(machine, is_coloured=is_coloured)
        return front

    def _look(self) -> None:
        """See whether standard error is a terminal now: programs and test runners replace it."""
        terminal = _terminal()
        if terminal != self._terminal:
            self._terminal = terminal
            self._fronts.clear()
            self._region = Region()

    def _draw(self, terminal: int) -> str:
        self._drawn = self._now()
        self._is_stale = False
        try:
            columns, rows = os.get_terminal_size(terminal)
        except OSError:
            return ""
        most = room(rows, columns)
        shown = sorted(self._changing.items(), key=lambda item: (len(item[0][0]), item[0]))  # m2 before m10
        more = len(shown) - most
        lines = [self._row(machine, text, columns) for (machine, _), text in shown[: most - (more > 0)]]
        if more > 0:
            lines.append(f"... and {more + 1} more that change")
        return self._region.draw(lines, rows, columns)

    def _row(self, machine: str, text: str, columns: int) -> str:
        # The last column stays empty: some terminals wrap as soon as it is written.
        return self._front(machine) + fitted(plain(text), columns - len(machine) - 3)


def _terminal() -> int | None:
    """Give the descriptor of standard error if it is a terminal that can do more than print."""
    stream = sys.stderr
    try:
        if stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb"):
            return stream.fileno()
    except (OSError, ValueError):
        pass
    return None


def _to_stderr(text: str) -> None:
    stream = sys.stderr
    if stream is None:
        return
    try:
        try:
            stream.write(text)
        except UnicodeEncodeError:  # a replaced stream may have another encoding, and be strict about it
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        _log.debug("standard error is closed; machines' output is not shown any more")
