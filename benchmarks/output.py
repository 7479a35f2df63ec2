"""Output of a machine on the driver: a burst of printed lines, and of logged records.

The driver's standard error is /dev/null, so that what is measured is the way there and not a terminal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

import measure
from measure import Options, Row, Stat

import bigmachine

_BURST = 64_000_000
_RECORDS = 20_000
_LINE = "x" * 99 + "\n"
_PRINT = f"import sys\nfor _ in range({_BURST // 100_000}): sys.stdout.write({_LINE!r} * 1000)"


class Talker:
    """Prints and logs."""

    def pin(self, core: int) -> None:
        measure.pin(core)

    def print(self) -> None:
        block = _LINE * 1000
        for _ in range(_BURST // len(block)):
            sys.stdout.write(block)
        sys.stdout.flush()

    def log(self) -> None:
        logger = logging.getLogger("talker")
        for number in range(_RECORDS):
            logger.warning("record %d of %s", number, "a machine")


class Counted(logging.StreamHandler[TextIO]):
    """Writes records and counts them."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self.count += 1


@contextlib.contextmanager
def nowhere() -> Iterator[None]:
    """Let standard error go nowhere."""
    stderr = sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as sys.stderr:
        yield
    sys.stderr = stderr


def through_a_pipe() -> None:
    """Take the same lines from a process of our own, and write them, with nothing in front."""
    command = [sys.executable, "-c", _PRINT]
    with open(os.devnull, "wb") as null, subprocess.Popen(command, stdout=subprocess.PIPE) as talker:
        assert talker.stdout is not None
        while piece := os.read(talker.stdout.fileno(), 65536):
            null.write(piece)


def through_logging(logger: logging.Logger) -> None:
    """Format and write the same records here."""
    for number in range(_RECORDS):
        logger.warning("record %d of %s", number, "a machine")


def until(is_reached: Callable[[], bool]) -> None:
    """Wait for what a call does not wait for: that its output is shown."""
    end = time.monotonic() + 60
    while not is_reached():
        assert time.monotonic() < end, "the output does not come"
        time.sleep(0.001)


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    (machine,) = session.start(1, services={"Talker": Talker()})
    machine.call(Talker.pin, measure.MACHINE)
    measure.pin(measure.DRIVER)
    worker = session._display._worker
    used: list[float] = []

    def burst() -> None:
        begin, expected = time.process_time(), worker._done + _BURST
        machine.call(Talker.print)
        until(lambda: worker._done >= expected)
        used.append(time.process_time() - begin)

    def records() -> None:
        expected = handler.count + _RECORDS
        machine.call(Talker.log)
        until(lambda: handler.count == expected)

    with nowhere():
        handler = Counted(sys.stderr)
        logger = logging.getLogger("talker")
        logger.addHandler(handler)
        n = options.pick(3, 9)
        taken = measure.take_turns(n, pipe=lambda: measure.timed(through_a_pipe), printed=lambda: measure.timed(burst))
        logged = measure.take_turns(
            n, local=lambda: measure.timed(lambda: through_logging(logger)), sent=lambda: measure.timed(records)
        )
    cpu = Stat.of(used[-n:]).per(_BURST)
    stats = {name: stat.per(_BURST) for name, stat in taken.items()}
    rates = {name: stat.per(_RECORDS) for name, stat in logged.items()}
    return [
        Row(
            "lines of 100 bytes printed on a machine",
            "B/s",
            stats["printed"],
            "read from a process's pipe",
            stats["pipe"],
        ),
        Row("the same, a second of the driver's CPU", "B/s", cpu),
        Row(
            "records logged on a machine",
            "/s",
            rates["sent"],
            "formatted and written here",
            rates["local"],
        ),
    ]


if __name__ == "__main__":
    measure.run_in_session(figures)
