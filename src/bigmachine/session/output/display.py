"""Machines' output on the driver, from the bytes that agents pass on to its destination.

The event loop's thread only decides whether something is shown at all and passes it on; the lines are made and
written by the output's own thread (`worker`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from bigmachine.agent.records import RecordReader, as_text, decode
from bigmachine.session.output import records
from bigmachine.session.output.destinations import STARTING, Destination
from bigmachine.session.output.gate import Dropper, Gate
from bigmachine.session.output.lines import Lines
from bigmachine.session.output.recent import Piece, Recent
from bigmachine.session.output.worker import Worker

_log = logging.getLogger("bigmachine")
#: Is given what a machine wrote, besides its destination: its name, the stream ("stdout", "stderr", "log") and
#: whole lines. On the output's thread; must be quick.
Listener = Callable[[str, str, str], object]
_STREAMS = ("stdout", "stderr")
#: A few bytes that a job without data holds.
_SMALL = 256


class Display:
    """What machines write and log, shown. `is_dropping`: rather than let machines wait, drop lines and say how many.

    `shows_records`: what machines log goes to the driver's logging.
    """

    def __init__(self, destination: Destination, *, is_dropping: bool = False, shows_records: bool = True) -> None:
        self._destination = destination
        self._is_dropping = is_dropping
        self._shows_records = shows_records
        self._gate = Gate()
        self._worker = Worker(destination.flush)
        self._droppers: dict[tuple[str, str], Dropper] = {}  # of the event loop's thread
        self._lines: dict[tuple[str, str], Lines] = {}  # of the output's thread, as the next
        self._records: dict[str, RecordReader] = {}
        self._listeners: tuple[Listener, ...] = ()
        self._recent = Recent()
        self._hearing = threading.Lock()  # held for a moment, so that who joins hears each piece once

    # on the event loop's thread

    @property
    def is_crowded(self) -> bool:
        """Whether no more output should come for now."""
        return self._worker.is_crowded and not self._is_dropping

    def begin(self, name: str) -> None:
        """Hold back what a starting machine writes."""
        if self._gate.begin(name, is_debugged=_log.isEnabledFor(logging.DEBUG)):
            _log.warning("%d machines in a row failed to start; %s shows what it writes", self._gate.failures, name)

    def starting(self, name: str, text: str) -> None:
        """Say on a terminal how far a starting machine is; nothing: it needs not be said any more."""
        self._worker.post(_SMALL, partial(self._destination.rewrite, name, STARTING, text))

    def show(self, name: str) -> None:
        """The machine's services begin: show what comes from now on."""
        self._gate.show(name)

    def up(self, name: str) -> None:
        """The machine runs."""
        self._gate.up(name)
        self.starting(name, "")

    def wrote(self, name: str, stream: str, data: bytes) -> None:
        """Take what a machine wrote."""
        if not self._gate.is_shown(name) or (stream == "log" and not self._shows_records):
            return
        if self._is_dropping:
            dropper = self._droppers.setdefault((name, stream), Dropper())
            count, data = dropper.feed(data, has_room=not self._worker.is_crowded)
            if count:
                self._worker.post(_SMALL, partial(self._tell_dropped, name, stream, count))
        if data:
            take = self._take_records if stream == "log" else self._take
            self._worker.post(len(data), partial(take, name, stream, data))

    def end(self, name: str, *, has_failed: bool) -> None:
        """The machine has stopped: show a last line without an end, too."""
        self._gate.end(name, has_failed=has_failed)
        for stream in (*_STREAMS, "log"):
            dropper = self._droppers.pop((name, stream), None)
            if dropper is not None and (count := dropper.end()):
                self._worker.post(_SMALL, partial(self._tell_dropped, name, stream, count))
        self._worker.post(_SMALL, partial(self._finish, name))

    def do(self, job: Callable[[], object]) -> None:
        """Have something done by the output's thread after what was shown before."""
        self._worker.post(_SMALL, partial(self._do, job))

    # from any thread

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Let `listener` hear what machines write from now on; what this returns ends that."""
        self._listeners = (*self._listeners, listener)

        def leave() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

        return leave

    def recall(self, listener: Listener) -> tuple[list[Piece], Callable[[], None]]:
        """Give what machines wrote last, and let `listener` hear what follows, as `listen` does."""
        with self._hearing:
            return self._recent.pieces(), self.listen(listener)

    def wait(self, timeout: float) -> bool:
        """Wait until all is shown that came before; False if that takes more than `timeout` seconds."""
        return self._worker.wait(timeout)

    def close(self, stall: float, timeout: float) -> None:
        """Show what waits, for at most `timeout` seconds and while it moves, see `Worker.close`."""
        self._worker.post(_SMALL, self._destination.close)
        self._worker.close(stall, timeout)

    # on the output's thread

    def _take(self, name: str, stream: str, data: bytes) -> None:
        lines = self._lines.get((name, stream))
        if lines is None:
            lines = self._lines[name, stream] = Lines()
        was_live = lines.is_live
        block = lines.feed(data)
        if block:
            self._write(name, stream, block)
        if was_live or lines.is_live:
            self._destination.rewrite(name, stream, lines.live)

    def _write(self, name: str, stream: str, block: str) -> None:
        self._destination.write(name, stream, block)
        self._tell(name, stream, block)

    def _tell(self, name: str, stream: str, block: str) -> None:
        with self._hearing:
            self._recent.add(Piece(time.time(), name, stream, block))
            listeners = self._listeners
        for listener in listeners:
            listener(name, stream, block)

    def _take_records(self, name: str, stream: str, data: bytes) -> None:
        reader = self._records.get(name)
        if reader is None:
            reader = self._records[name] = RecordReader()
        for record in reader.feed(data):
            fields = decode(record)
            self._tell(name, stream, f"{as_text(fields)}\n")
            logger = records.logger_for(fields)
            if logger is None:
                self._destination.write(name, "stderr", f"{as_text(fields)}\n")
            else:
                self._destination.flush()  # or what was printed before it would come after it
                records.log(logger, name, fields)

    def _do(self, job: Callable[[], object]) -> None:
        self._destination.flush()
        job()

    def _tell_dropped(self, name: str, stream: str, count: int) -> None:
        lines = self._lines.get((name, stream))
        if lines is not None:
            lines.skip()  # it is the beginning of a line that was dropped
        self._destination.write(name, "stderr", f"... {count} lines of {stream} dropped ...\n")

    def _finish(self, name: str) -> None:
        for stream in _STREAMS:
            lines = self._lines.pop((name, stream), None)
            if lines is not None and (block := lines.end()):
                self._write(name, stream, block)
        self._records.pop(name, None)
        self._destination.end(name)
