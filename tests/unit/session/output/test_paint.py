"""Names stand before lines, and a program's colours stay within its own lines."""

from __future__ import annotations

import pytest

from bigmachine.session.output.paint import Painter, fitted, plain, prefix

RED, BOLD, RESET = "\x1b[31m", "\x1b[1m", "\x1b[0m"


def paint(*blocks: str, is_terminal: bool = True) -> str:
    painter = Painter()
    return "".join(painter.paint("m: ", block, is_terminal=is_terminal) for block in blocks)


def test_each_line_has_the_name_in_front() -> None:
    assert paint("one\n\nthree\n") == "m: one\nm: \nm: three\n"


def test_neighbours_have_different_colours_and_red_is_nobodys() -> None:
    names = [prefix(f"m{number}", is_coloured=True) for number in range(1, 11)]
    assert len({name.split("m", 1)[0] for name in names}) == 10
    assert not any(name.startswith(("\x1b[31m", "\x1b[91m")) for name in names)
    assert prefix("m1", is_coloured=False) == "m1: "


def test_a_colour_that_is_not_reset_ends_with_its_line_and_goes_on_in_the_next() -> None:
    assert paint(f"{RED}one\ntwo\n", f"three{RESET}\nfour\n") == (
        f"m: {RED}one{RESET}\nm: {RED}two{RESET}\nm: {RED}three{RESET}\nm: four\n"
    )


def test_several_colours_add_up_and_a_reset_ends_them_all() -> None:
    assert paint(f"{RED}{BOLD}a\nb\x1b[m\nc\n") == f"m: {RED}{BOLD}a{RESET}\nm: {RED}{BOLD}b\x1b[m\nm: c\n"
    assert paint(f"{RED}a\x1b[0;1mb\nc\n").endswith(f"{RESET}\nm: \x1b[0;1mc{RESET}\n")


def test_a_program_that_never_resets_does_not_make_lines_grow() -> None:
    painter = Painter()
    lengths = {len(painter.paint("m: ", f"{RED}x\n", is_terminal=True)) for _ in range(100)}
    assert max(lengths) < 150


@pytest.mark.parametrize(
    "sequence",
    [
        "\x1b[2J",
        "\x1b[3A",
        "\x1b[K",
        "\x1b]0;title\x07",
        "\x1b]0;t\x1b\\",
        "\x1bc",
        "\x1b(B",
        "\x1b[?25l",
        "\x1b[3",
        "\x1b",
    ],
)
def test_on_a_terminal_what_moves_the_cursor_is_taken_out(sequence: str) -> None:
    assert paint(f"a{sequence}\n").startswith("m: a")
    assert sequence not in paint(f"a{sequence}\n")


@pytest.mark.parametrize("character", ["\0", "\a", "\b", "\v", "\f", "\x7f", "\x9b"])
def test_on_a_terminal_control_characters_are_taken_out_elsewhere_they_stay(character: str) -> None:
    assert paint(f"a{character}b\tc\n") == "m: ab\tc\n"
    assert paint(f"a{character}b\n", is_terminal=False) == f"m: a{character}b\n"


def test_plain_text_has_nothing_that_is_not_seen() -> None:
    assert plain(f"{RED}50 %{RESET}\x1b[K\t|\0|") == "50 % ||"


def test_a_text_is_cut_to_columns_of_which_wide_characters_take_two() -> None:
    assert fitted("abcdef", 3) == "abc"
    assert fitted("日本語", 5) == "日本"
    assert fitted("e\u0301e\u0301e\u0301", 2) == "e\u0301e\u0301"
    assert fitted("é", 5) == "é"
