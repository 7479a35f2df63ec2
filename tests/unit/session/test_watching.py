"""What is told of much is little."""

from __future__ import annotations

from bigmachine.session.seeing.watching import Calls, Output


def test_of_many_lines_some_are_told_and_how_many_are_not() -> None:
    output = Output()
    for number in range(10):
        output.note("m1", "stdout", "".join(f"line {number}.{each}\n" for each in range(100)))
    lines, missed = output.take()
    assert len(lines) + missed == 1000
    assert len(lines) <= 100
    assert lines[-1][1:] == ("m1", "stdout", "line 9.99")
    assert output.take() == ([], 0)
    assert output.last_of("m1", 1) == "line 9.99"


def test_long_lines_are_cut() -> None:
    output = Output()
    output.note("m1", "stderr", f"{'x' * 100_000}\n")
    [(_, _, _, text)], _ = output.take()
    assert len(text) <= 200
    assert len(output.last_of("m1", 200)) <= 60
    assert output.last_of("m2", 200) == ""


def test_all_last_lines_together_are_bounded() -> None:
    output = Output()
    for number in range(200):
        output.note(f"m{number}", "stdout", f"{'y' * 300}\n")
    assert sum(len(output.last_of(f"m{number}", 200)) for number in range(200)) <= 12_000


def test_what_was_written_before_is_a_last_line_until_there_is_a_newer_one() -> None:
    output = Output()
    output.began_with("m1", ["first", "second"])
    assert output.last_of("m1", 1) == "second"
    output.note("m1", "stdout", "third\n")
    assert output.last_of("m1", 1) == "third"


def test_of_many_calls_some_are_told_the_last_among_them() -> None:
    calls = Calls()
    for number in range(5000):
        calls._note("m1", f"Work.{number}", 0.001, failed=False)
    told = calls.take()
    assert 0 < len(told) <= 300
    assert told[-1][1] == "Work.4999"
    assert calls.take() == []
