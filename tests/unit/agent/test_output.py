"""The last lines are the last lines, whatever a machine writes, and never take more than their bound."""

from __future__ import annotations

import random

import pytest

from bigmachine.agent.output import MAX_LINE, MAX_LINES, LastLines


def fed(*pieces: bytes, lines: int = MAX_LINES) -> tuple[str, ...]:
    ring = LastLines(lines)
    for piece in pieces:
        ring.feed("stdout", piece)
    return ring.lines()


def test_lines_cut_anywhere_are_put_together() -> None:
    assert fed(b"on", b"e\ntw", b"o\nth", b"ree") == ("one", "two", "three")


def test_only_the_last_lines_are_kept() -> None:
    assert fed(b"".join(b"%d\n" % i for i in range(10_000)), lines=3) == ("9997", "9998", "9999")


def test_the_beginning_of_a_line_before_a_burst_is_not_glued_to_a_later_one() -> None:
    assert fed(b"begun", b" and ended\n" + b"x\n" * 5, lines=3) == ("x", "x", "x")
    assert fed(b"begun", b" and ended\nx\n", lines=3) == ("begun and ended", "x")


def test_streams_do_not_mix_within_a_line() -> None:
    ring = LastLines()
    ring.feed("stdout", b"out")
    ring.feed("stderr", b"err\n")
    ring.feed("stdout", b"put\n")
    assert ring.lines() == ("err", "output")


@pytest.mark.parametrize(
    ("pieces", "line"),
    [
        ((b" 10 %\r 20 %\r 30 %\n",), " 30 %"),
        ((b"windows\r\n",), "windows"),
        ((b"windows\r", b"\n"), "windows"),
        ((b" 10 %\r", b" 20 %"), " 20 %"),
        ((b" 10 %\r 20 %\r",), " 20 %"),
    ],
)
def test_of_a_line_that_was_rewritten_the_last_version_counts(pieces: tuple[bytes, ...], line: str) -> None:
    assert fed(*pieces) == (line,)


def test_a_progress_bar_without_newlines_stays_small_and_shows_its_last_state() -> None:
    ring = LastLines()
    for i in range(100_000):
        ring.feed("stderr", b"\r%d of 100000" % i)
    assert ring.lines() == ("99999 of 100000",)


def test_a_long_line_is_cut_and_says_how_much_is_missing() -> None:
    (line,) = fed(b"x" * 70_000, b"y" * 70_000 + b"\n")
    assert line == "x" * MAX_LINE + f"... ({140_000 - MAX_LINE} bytes more)"


def test_a_return_after_a_long_line_begins_anew() -> None:
    assert fed(b"x" * 10_000 + b"\r", b"done\n") == ("done",)
    assert fed(b"x" * 10_000, b"yyy\rdone\n") == ("done",)


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert fed(b"\xff\xfe ok\n") == ("\ufffd\ufffd ok",)


def test_a_character_cut_in_two_is_put_together() -> None:
    text = "h\u00e4".encode()
    assert fed(text[:2], text[2:] + b"\n") == ("h\u00e4",)


def test_all_lines_together_are_bounded() -> None:
    ring = LastLines(lines=100, total=1000)
    for _ in range(100):
        ring.feed("stdout", b"z" * 99 + b"\n")
    assert sum(map(len, ring.lines())) <= 1000
    assert len(ring.lines()) == 10


def test_any_cutting_gives_the_same_lines() -> None:
    rng = random.Random(7)
    text = b"".join(rng.choice([b"alpha\n", b"\n", b"be\rta\n", b"\r\n", b"g" * 30 + b"\n", b"d"]) for _ in range(400))
    whole = fed(text)
    for _ in range(50):
        cuts = sorted(rng.randrange(len(text)) for _ in range(20))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert fed(*pieces) == whole
