"""The rows at the bottom change and stay, and whatever else is printed scrolls above them: seen by a terminal."""

from __future__ import annotations

import pyte
import pytest

from bigmachine.session.output.region import Region, room

ROWS, COLUMNS = 12, 30


class Terminal:
    """A terminal with a region of our own at its bottom."""

    def __init__(self) -> None:
        self.screen = pyte.HistoryScreen(COLUMNS, ROWS, history=1000, ratio=0.5)
        self.stream = pyte.Stream(self.screen)
        self.region = Region()

    def draw(self, *lines: str) -> str:
        text = self.region.draw(lines, self.screen.lines, self.screen.columns)
        self.print(text)
        return text

    def print(self, text: str) -> None:
        self.stream.feed(text.replace("\n", "\r\n"))  # as the kernel does for a terminal (ONLCR)

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    @property
    def lines(self) -> list[str]:
        """All that was printed, without the rows at the bottom and empty lines."""
        past = ["".join(row[column].data for column in range(COLUMNS)).rstrip() for row in self.screen.history.top]
        return [line for line in [*past, *self.shown] if line]


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_lines_stand_at_the_bottom_and_the_rest_scrolls_above(terminal: Terminal) -> None:
    terminal.draw("one", "two")
    for number in range(50):
        terminal.print(f"line {number}\n")
        terminal.draw("one", f"two {number}")
    assert terminal.shown[-2:] == ["one", "two 49"]
    assert terminal.shown[:-2] == [*(f"line {number}" for number in range(41, 50)), ""]


@pytest.mark.parametrize("before", [0, 3, 9, 10, 11, 12, 40])
def test_nothing_that_was_printed_is_lost_when_rows_come_and_go(terminal: Terminal, before: int) -> None:
    printed = [f"line {number}" for number in range(before)]
    terminal.print("".join(f"{line}\n" for line in printed))
    for lines in (["a"], ["a", "b", "c"], ["b"], ["b", "c", "d", "e"], []):
        terminal.draw(*lines)
        assert terminal.shown[ROWS - len(lines) :] == lines
        for number in range(3):
            printed.append(f"{lines} {number}"[:COLUMNS])
            terminal.print(f"{printed[-1]}\n")
    assert terminal.lines == printed
    terminal.print("\n" * ROWS)  # the whole terminal scrolls again
    assert terminal.shown == [""] * ROWS


def test_half_a_line_of_the_driver_stays_where_it_is(terminal: Terminal) -> None:
    terminal.print("first\n" * 11 + "what next? ")
    terminal.draw("one")
    terminal.draw("one", "two")
    terminal.print("yes")
    terminal.draw()
    assert terminal.shown[terminal.screen.cursor.y] == "what next? yes"


def test_only_what_changed_is_drawn(terminal: Terminal) -> None:
    terminal.draw("one", "two")
    assert terminal.draw("one", "two") == ""
    assert "one" not in terminal.draw("one", "2")


def test_a_terminal_that_changes_its_size_gets_the_rows_anew(terminal: Terminal) -> None:
    terminal.print("line\n")
    terminal.draw("one", "two")
    for rows in (20, 9):
        terminal.screen.resize(rows, COLUMNS)
        terminal.draw("one", "two")
        assert terminal.shown[-2:] == ["one", "two"]
        assert terminal.shown.count("one") == 1
        assert rows < 20 or terminal.shown[0] == "line"  # shrunk, this terminal drops its first lines


@pytest.mark.parametrize(("rows", "expected"), [(4, 0), (6, 2), (24, 8), (100, 12)])
def test_rows_take_a_part_of_the_terminal(rows: int, expected: int) -> None:
    assert room(rows, 80) == expected
    assert room(rows, 10) == 0


def test_a_small_terminal_is_left_alone() -> None:
    assert Region().draw(["one"], 4, 80) == ""
