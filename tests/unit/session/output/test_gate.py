"""A start's own output is held back, until starts fail in a row; dropped lines are whole, and counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.session.output.gate import FAILURES_UNTIL_SHOWN, Dropper, Gate


def begin(gate: Gate, name: str) -> bool:
    return gate.begin(name, is_debugged=False)


def fail_to_start(gate: Gate, times: int) -> None:
    for number in range(times):
        begin(gate, f"x{number}")
        gate.end(f"x{number}", has_failed=True)


def test_what_a_start_writes_is_not_shown_but_what_its_services_write_is() -> None:
    gate = Gate()
    begin(gate, "m1")
    assert not gate.is_shown("m1")
    assert gate.is_shown("m2")
    gate.show("m1")
    assert gate.is_shown("m1")
    gate.up("m1")
    assert gate.is_shown("m1")


def test_of_a_failed_start_nothing_is_kept() -> None:
    gate = Gate()
    begin(gate, "m1")
    gate.end("m1", has_failed=True)
    assert not gate._held
    assert not gate._starting


def test_at_debug_level_a_start_is_shown() -> None:
    gate = Gate()
    assert not gate.begin("m1", is_debugged=True)
    assert gate.is_shown("m1")


def test_after_five_failed_starts_in_a_row_the_next_is_shown() -> None:
    assert FAILURES_UNTIL_SHOWN == 5
    gate = Gate()
    fail_to_start(gate, 4)
    assert not begin(gate, "m1")
    assert not gate.is_shown("m1")
    gate.end("m1", has_failed=True)
    assert begin(gate, "m2")
    assert gate.is_shown("m2")


def test_a_machine_that_comes_up_ends_the_row() -> None:
    gate = Gate()
    fail_to_start(gate, 4)
    begin(gate, "good")
    gate.up("good")
    fail_to_start(gate, 4)
    assert not begin(gate, "m1")


def test_a_machine_that_fails_in_its_init_is_one_of_the_row() -> None:
    gate = Gate()
    for number in range(5):
        begin(gate, f"x{number}")
        gate.show(f"x{number}")
        gate.end(f"x{number}", has_failed=True)
    assert begin(gate, "m1")


@pytest.mark.parametrize("has_failed", [True, False])
def test_a_machine_that_ran_is_not_counted_when_it_stops(has_failed: bool) -> None:
    gate = Gate()
    for number in range(6):
        begin(gate, f"x{number}")
        gate.up(f"x{number}")
        gate.end(f"x{number}", has_failed=has_failed)
    assert gate.failures == 0


def test_a_start_that_was_called_off_is_not_counted() -> None:
    gate = Gate()
    for number in range(6):
        begin(gate, f"x{number}")
        gate.end(f"x{number}", has_failed=False)
    assert gate.failures == 0


def test_while_there_is_room_nothing_is_dropped() -> None:
    dropper = Dropper()
    assert dropper.feed(b"one\ntw", has_room=True) == (0, b"one\ntw")
    assert dropper.end() == 0


def test_a_line_that_was_cut_by_dropping_is_dropped_whole() -> None:
    dropper = Dropper()
    assert dropper.feed(b"one\ntw", has_room=True) == (0, b"one\ntw")
    assert dropper.feed(b"o\nthree\nfo", has_room=False) == (0, b"")
    assert dropper.feed(b"u", has_room=True) == (0, b"")
    assert dropper.feed(b"r\nfive\n", has_room=True) == (3, b"five\n")
    assert dropper.feed(b"six\n", has_room=True) == (0, b"six\n")


def test_what_was_dropped_last_is_told_at_the_end() -> None:
    dropper = Dropper()
    dropper.feed(b"one\ntwo\nthree", has_room=False)
    assert dropper.end() == 3
    assert dropper.end() == 0


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans())))
def test_shown_and_dropped_lines_are_all_there_are(steps: list[tuple[int, bool]]) -> None:
    data = b"".join(b"%d\n" % number for number in range(400))
    dropper, shown, dropped, at = Dropper(), b"", 0, 0
    for size, has_room in steps:
        count, left = dropper.feed(data[at : at + size], has_room=has_room)
        at += size
        if count:
            shown = shown[: shown.rfind(b"\n") + 1]  # as the display does: it is the beginning of a dropped line
            dropped += count
        shown += left
    count, left = dropper.feed(data[at:], has_room=True)
    if count:
        shown = shown[: shown.rfind(b"\n") + 1]
    shown, dropped = shown + left, dropped + count
    lines = shown.splitlines()
    assert set(lines) <= set(data.splitlines())
    assert len(lines) + dropped == 400
