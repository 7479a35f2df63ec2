"""What machines write is shown in whole lines with their names; a start's own output is kept back."""

from __future__ import annotations

import logging

import pytest

from bigmachine.session.console import FAILURES_UNTIL_SHOWN, Console


class Screen:
    """A console whose machine m1 is up, and what it has shown."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.console = Console(self.written.append)

    @property
    def text(self) -> str:
        return "".join(self.written)


@pytest.fixture
def screen() -> Screen:
    return Screen()


def fail_to_start(console: Console, times: int) -> None:
    for number in range(times):
        console.begin(f"x{number}")
        console.end(f"x{number}", has_failed=True)


def test_a_line_has_its_machines_name_in_front(screen: Screen) -> None:
    screen.console.wrote("m1", "stdout", b"hello\n")
    screen.console.wrote("m2", "stderr", b"world\n")
    assert screen.text == "m1: hello\nm2: world\n"


def test_a_line_is_shown_when_it_is_whole(screen: Screen) -> None:
    screen.console.wrote("m1", "stdout", b"hel")
    assert screen.text == ""
    screen.console.wrote("m1", "stdout", b"lo\nwor")
    assert screen.text == "m1: hello\n"
    screen.console.wrote("m1", "stdout", b"ld\n")
    assert screen.text == "m1: hello\nm1: world\n"


def test_lines_of_machines_and_streams_do_not_mix(screen: Screen) -> None:
    screen.console.wrote("m1", "stdout", b"a")
    screen.console.wrote("m2", "stdout", b"b")
    screen.console.wrote("m1", "stderr", b"c")
    screen.console.wrote("m1", "stdout", b"1\n")
    screen.console.wrote("m2", "stdout", b"2\n")
    screen.console.wrote("m1", "stderr", b"3\n")
    assert screen.text == "m1: a1\nm2: b2\nm1: c3\n"


def test_several_lines_are_written_at_once(screen: Screen) -> None:
    screen.console.wrote("m1", "stdout", b"one\n\nthree\n")
    assert screen.written == ["m1: one\nm1: \nm1: three\n"]


def test_a_last_line_without_an_end_is_shown_when_the_machine_stops(screen: Screen) -> None:
    screen.console.wrote("m1", "stdout", b"out")
    screen.console.wrote("m1", "stderr", b"err")
    screen.console.end("m1", has_failed=False)
    assert screen.text == "m1: out\nm1: err\n"
    screen.console.end("m1", has_failed=False)
    assert screen.text == "m1: out\nm1: err\n"


@pytest.mark.parametrize("piece", [1000, 65536])
def test_a_line_of_any_length_is_shown_and_what_follows_it_too(screen: Screen, piece: int) -> None:
    """The Go original lost everything after a line of 64 KiB."""
    long = b"x" * 3_000_000
    for start in range(0, len(long), piece):
        screen.console.wrote("m1", "stdout", long[start : start + piece])
    screen.console.wrote("m1", "stdout", b"\nafter\n")
    assert screen.text.count("x") == 3_000_000
    assert screen.text.endswith("m1: after\n")
    assert screen.console._parts == {("m1", "stdout"): b""}


def test_bytes_that_are_no_text_do_no_harm(screen: Screen) -> None:
    screen.console.wrote("m1", "stdout", b"\xff\xfe\n")
    assert screen.text == "m1: \ufffd\ufffd\n"


def test_a_character_that_comes_in_two_pieces_is_one(screen: Screen) -> None:
    data = "é\n".encode()
    screen.console.wrote("m1", "stdout", data[:1])
    screen.console.wrote("m1", "stdout", data[1:])
    assert screen.text == "m1: é\n"


# while a machine starts


def test_what_a_start_writes_is_not_shown_but_what_its_services_write_is(screen: Screen) -> None:
    screen.console.begin("m1")
    screen.console.wrote("m1", "stdout", b"importing\n")
    screen.console.show("m1")
    screen.console.wrote("m1", "stdout", b"init\n")
    screen.console.up("m1")
    screen.console.wrote("m1", "stdout", b"call\n")
    assert screen.text == "m1: init\nm1: call\n"


def test_of_a_failed_start_nothing_is_shown(screen: Screen) -> None:
    screen.console.begin("m1")
    screen.console.wrote("m1", "stderr", b"Traceback")
    screen.console.end("m1", has_failed=True)
    assert screen.text == ""
    assert not screen.console._held
    assert not screen.console._starting


def test_one_machines_start_does_not_hide_another_machine(screen: Screen) -> None:
    screen.console.begin("m2")
    screen.console.wrote("m1", "stdout", b"hello\n")
    assert screen.text == "m1: hello\n"


def test_at_debug_level_a_start_is_shown(screen: Screen, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "bigmachine")
    screen.console.begin("m1")
    screen.console.wrote("m1", "stdout", b"importing\n")
    assert screen.text == "m1: importing\n"


def test_after_five_failed_starts_in_a_row_the_next_is_shown(screen: Screen, caplog: pytest.LogCaptureFixture) -> None:
    assert FAILURES_UNTIL_SHOWN == 5
    fail_to_start(screen.console, 4)
    screen.console.begin("m1")
    screen.console.wrote("m1", "stdout", b"hidden\n")
    assert not caplog.records
    screen.console.end("m1", has_failed=True)
    screen.console.begin("m2")
    screen.console.wrote("m2", "stdout", b"shown\n")
    assert screen.text == "m2: shown\n"
    assert "5 machines in a row failed to start; m2 shows what it writes" in caplog.text


def test_a_machine_that_comes_up_ends_the_row(screen: Screen) -> None:
    fail_to_start(screen.console, 4)
    screen.console.begin("good")
    screen.console.up("good")
    fail_to_start(screen.console, 4)
    screen.console.begin("m1")
    screen.console.wrote("m1", "stdout", b"hidden\n")
    assert screen.text == ""


def test_a_machine_that_fails_in_its_init_is_one_of_the_row(screen: Screen) -> None:
    for number in range(5):
        screen.console.begin(f"x{number}")
        screen.console.show(f"x{number}")
        screen.console.end(f"x{number}", has_failed=True)
    screen.console.begin("m1")
    screen.console.wrote("m1", "stdout", b"shown\n")
    assert screen.text == "m1: shown\n"


@pytest.mark.parametrize("has_failed", [True, False])
def test_a_machine_that_ran_is_not_counted_when_it_stops(screen: Screen, has_failed: bool) -> None:
    for number in range(6):
        screen.console.begin(f"x{number}")
        screen.console.up(f"x{number}")
        screen.console.end(f"x{number}", has_failed=has_failed)
    assert screen.console._failures == 0


def test_a_start_that_was_called_off_is_not_counted(screen: Screen) -> None:
    for number in range(6):
        screen.console.begin(f"x{number}")
        screen.console.end(f"x{number}", has_failed=False)
    assert screen.console._failures == 0
