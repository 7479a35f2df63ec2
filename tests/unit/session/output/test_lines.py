"""Bytes become lines: whole ones, of any length, whatever they are, and cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.session.output.lines import Lines


def test_a_line_comes_when_it_is_whole() -> None:
    lines = Lines()
    assert lines.feed(b"hel") == ""
    assert lines.feed(b"lo\n\nwor") == "hello\n\n"
    assert lines.feed(b"ld\n") == "world\n"
    assert lines.end() == ""


def test_a_last_line_without_an_end_comes_at_the_end_and_once() -> None:
    lines = Lines()
    lines.feed(b"one\ntwo")
    assert lines.end() == "two\n"
    assert lines.end() == ""


@pytest.mark.parametrize("piece", [1000, 65536])
def test_a_line_of_any_length_comes_in_pieces_and_nothing_of_it_is_lost(piece: int) -> None:
    """The Go original lost everything after a line of 64 KiB."""
    lines = Lines()
    long = ("é" * 1_500_000).encode()
    shown = [lines.feed(long[start : start + piece]) for start in range(0, len(long), piece)]
    shown.append(lines.feed(b"\nafter\n"))
    text = "".join(shown)
    assert text.count("é") == 1_500_000
    assert "\ufffd" not in text
    assert text.endswith("\nafter\n")
    assert max(len(line.encode()) for line in text.split("\n")) <= 1024 * 1024 + piece
    assert not lines._part


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert Lines().feed(b"\xff\x00\xfe\n") == "\ufffd\0\ufffd\n"
    lines = Lines(longest=10)
    assert "".join(lines.feed(b"\x80" * 7) for _ in range(10)) + lines.end()


def test_a_character_that_comes_in_two_pieces_is_one() -> None:
    lines = Lines()
    assert lines.feed("é".encode()[:1]) == ""
    assert lines.feed("é".encode()[1:] + b"\n") == "é\n"


def test_of_a_line_that_is_rewritten_the_last_version_counts() -> None:
    lines = Lines()
    assert lines.feed(b"10 %\r20 %\r") == ""
    assert lines.is_live
    assert lines.live == "20 %"
    assert lines.feed(b"\r30 %") == ""
    assert lines.live == "30 %"
    assert lines.feed(b"\r100 %\nnext") == "100 %\n"
    assert not lines.is_live
    assert lines.live == ""
    assert lines.partial == "next"


def test_a_bar_that_moves_for_ever_is_kept_small() -> None:
    lines = Lines()
    for number in range(10_000):
        assert lines.feed(b"\r%6d" % number) == ""
    assert len(lines._part) < 20
    assert lines.end() == "  9999\n"


@pytest.mark.parametrize("data", [b"one\r\ntwo\r\n", b"one\r\r\ntwo\r\n"])
def test_a_return_in_front_of_a_newline_does_nothing(data: bytes) -> None:
    assert Lines().feed(data) == "one\ntwo\n"
    lines = Lines()
    assert "".join(lines.feed(data[i : i + 1]) for i in range(len(data))) == "one\ntwo\n"


@given(
    st.lists(st.text(alphabet=st.characters(blacklist_characters="\n\r", codec="utf-8"))),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_where_the_bytes_are_cut_does_not_matter(texts: list[str], sizes: list[int]) -> None:
    data = "".join(f"{text}\n" for text in texts).encode()
    lines, shown, at, turn = Lines(), "", 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        shown += lines.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert shown + lines.end() == data.decode()


@given(st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n"]), max_size=30), st.integers(1, 5))
def test_what_is_rewritten_is_the_same_however_it_is_cut(parts: list[bytes], size: int) -> None:
    data = b"".join(parts)
    whole, cut = Lines(), Lines()
    once = whole.feed(data) + whole.end()
    assert "".join(cut.feed(data[i : i + size]) for i in range(0, len(data), size)) + cut.end() == once
