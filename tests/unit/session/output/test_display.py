"""From the bytes of agents to lines, drops and records at their destination."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bigmachine.agent.records import encode
from bigmachine.session.output import OutputLine
from bigmachine.session.output.destinations import ToFunction
from bigmachine.session.output.display import Display
from bigmachine.session.output.worker import CROWDED


class Shown:
    """A display, and the lines that came out of it."""

    def __init__(self, *, is_dropping: bool = False, shows_records: bool = True) -> None:
        self.lines: list[OutputLine] = []
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.display = Display(ToFunction(self.take), is_dropping=is_dropping, shows_records=shows_records)

    def take(self, line: OutputLine) -> None:
        assert self.goes_on.wait(10)
        self.lines.append(line)

    @property
    def texts(self) -> list[str]:
        assert self.display.wait(10)
        return [f"{line.machine} {line.stream} {line.text}" for line in self.lines]


@pytest.fixture
def shown() -> Iterator[Shown]:
    shown = Shown()
    yield shown
    shown.display.close(10, 10)


@contextmanager
def bare_logging() -> Iterator[None]:
    """Take the test runner's handlers from the root logger, as in a program that has not configured logging."""
    root = logging.getLogger()
    handlers, root.handlers[:] = root.handlers[:], []
    try:
        yield
    finally:
        root.handlers[:] = handlers


def record(name: str, level: int, text: str, **more: object) -> bytes:
    fields = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "msg": text, **more}
    return b"".join(encode(fields, 1, 1, 4096))


def test_lines_of_machines_and_streams_do_not_mix(shown: Shown) -> None:
    for name, stream, data in [
        *(("m1", "stdout", b"a"), ("m2", "stdout", b"b"), ("m1", "stderr", b"c")),
        *(("m1", "stdout", b"1\n"), ("m2", "stdout", b"2\n"), ("m1", "stderr", b"3\n")),
    ]:
        shown.display.wrote(name, stream, data)
    assert shown.texts == ["m1 stdout a1", "m2 stdout b2", "m1 stderr c3"]


def test_a_last_line_without_an_end_is_shown_when_the_machine_stops(shown: Shown) -> None:
    shown.display.wrote("m1", "stdout", b"out")
    shown.display.wrote("m1", "stderr", b"err")
    shown.display.end("m1", has_failed=False)
    assert shown.texts == ["m1 stdout out", "m1 stderr err"]
    assert not shown.display._lines


def test_a_start_is_held_back_and_its_services_are_shown(shown: Shown) -> None:
    shown.display.begin("m1")
    shown.display.wrote("m1", "stdout", b"importing\n")
    shown.display.wrote("m1", "log", record("svc", logging.ERROR, "importing"))
    shown.display.show("m1")
    shown.display.wrote("m1", "stdout", b"init\n")
    shown.display.up("m1")
    shown.display.wrote("m1", "stdout", b"call\n")
    assert shown.texts == ["m1 stdout init", "m1 stdout call"]


def test_at_debug_level_a_start_is_shown(shown: Shown, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "bigmachine")
    shown.display.begin("m1")
    shown.display.wrote("m1", "stdout", b"importing\n")
    assert shown.texts == ["m1 stdout importing"]


def test_after_five_failed_starts_the_next_is_shown_and_that_is_told(
    shown: Shown, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        shown.display.begin(f"x{number}")
        shown.display.wrote(f"x{number}", "stderr", b"Traceback\n")
        shown.display.end(f"x{number}", has_failed=True)
    assert shown.texts == []
    shown.display.begin("m6")
    shown.display.wrote("m6", "stderr", b"Traceback\n")
    assert shown.texts == ["m6 stderr Traceback"]
    assert "5 machines in a row failed to start; m6 shows what it writes" in caplog.text


def test_where_machines_wait_nothing_is_dropped(shown: Shown) -> None:
    shown.goes_on.clear()
    for _ in range(4):
        shown.display.wrote("m1", "stdout", b"x\n" * (CROWDED // 4))
    assert shown.display.is_crowded
    shown.goes_on.set()
    assert len(shown.texts) == CROWDED
    assert not shown.display.is_crowded


def test_where_lines_are_dropped_it_is_told_how_many_and_machines_never_wait() -> None:
    shown = Shown(is_dropping=True)
    shown.goes_on.clear()
    data = b"".join(b"%07d\n" % number for number in range(400_000))
    for start in range(0, len(data), 65_000):
        shown.display.wrote("m1", "stdout", data[start : start + 65_000])
        assert not shown.display.is_crowded
    shown.goes_on.set()
    assert shown.display.wait(10)
    shown.display.wrote("m1", "stdout", b"tail\nlast\n")
    shown.display.end("m1", has_failed=False)
    lines = [text.split(" ", 2)[2] for text in shown.texts]
    (told,) = [line for line in lines if "dropped" in line]
    assert told == f"... {400_000 - (len(lines) - 3)} lines of stdout dropped ..."
    assert lines == [*(f"{number:07d}" for number in range(len(lines) - 3)), told, "tail", "last"]
    shown.display.close(10, 10)


def test_a_record_goes_to_the_logger_of_its_name(shown: Shown, caplog: pytest.LogCaptureFixture) -> None:
    shown.display.wrote("m1", "log", record("svc.x", logging.ERROR, "no %d", extra={"request": 7}, exc_text="E: x"))
    assert shown.texts == []
    (taken,) = caplog.records
    assert (taken.name, taken.levelno, taken.levelname) == ("svc.x", logging.ERROR, "ERROR")
    assert taken.getMessage() == "m1: no %d"
    assert (taken.__dict__["machine"], taken.processName, taken.__dict__["request"]) == ("m1", "m1", 7)
    assert logging.Formatter().format(taken) == "m1: no %d\nE: x"


def test_the_drivers_levels_hold(shown: Shown, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "svc")
    caplog.handler.setLevel(logging.NOTSET)
    shown.display.wrote("m1", "log", record("svc.x", logging.WARNING, "careful"))
    shown.display.wrote("m1", "log", record("svc.x", logging.ERROR, "no"))
    assert shown.texts == []
    assert [taken.levelno for taken in caplog.records] == [logging.ERROR]


def test_without_logging_in_the_driver_a_record_is_a_line(shown: Shown) -> None:
    with bare_logging():
        shown.display.wrote("m1", "log", record("svc", logging.INFO, "two\nlines", exc_text="E: x"))
        assert shown.texts == ["m1 stderr INFO svc: two", "m1 stderr lines", "m1 stderr E: x"]


def test_where_nothing_is_to_be_shown_records_are_not_either(caplog: pytest.LogCaptureFixture) -> None:
    shown = Shown(shows_records=False)
    shown.display.wrote("m1", "log", record("svc", logging.ERROR, "no"))
    assert shown.texts == []
    assert not caplog.records
    shown.display.close(10, 10)


def test_a_programs_own_kind_of_record_is_kept(shown: Shown, caplog: pytest.LogCaptureFixture) -> None:
    usual = logging.getLogRecordFactory()

    class Kind(logging.LogRecord):
        mark = "ours"

    logging.setLogRecordFactory(Kind)
    try:
        shown.display.wrote("m1", "log", record("svc", logging.ERROR, "no"))
        assert shown.texts == []
    finally:
        logging.setLogRecordFactory(usual)
    assert [type(taken) for taken in caplog.records] == [Kind]
