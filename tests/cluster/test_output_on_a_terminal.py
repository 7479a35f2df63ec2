"""On a terminal machines have colours, and their progress bars stand at the bottom, out of each other's way."""

from __future__ import annotations

import re

import pyte
import pytest

from tests.cluster.programs import StartProgram, WriteProgram
from tests.cluster.terminal import run_in_terminal

BARS = """
import os, sys, time, bigmachine

class Service:
    def work(self, steps):
        for step in range(steps + 1):
            sys.stderr.write(f"\\r{step * 100 // steps:3d} %|{'#' * step}")
            sys.stderr.flush()
            if step % 5 == 0:
                print("\\x1b[31mstep", step)
            time.sleep(0.02)
        sys.stderr.write("\\n")

with bigmachine.start("local") as session:
    machines = session.start(3, services=[Service()])
    calls = [machine.submit(Service.work, 20) for machine in machines]
    for number in range(10):
        print("driver", number)
        time.sleep(0.03)
    for call in calls:
        call.result()
print("yes")
"""


def on_screen(shown: str, rows: int = 50) -> tuple[list[str], list[list[str]]]:
    """Let a terminal show it; give what it shows at the end, and at each time its bottom rows had been drawn."""
    screen = pyte.Screen(120, rows)
    stream = pyte.Stream(screen)
    bottoms = []
    for piece in re.split(r"(?<=\x1b8)", shown.replace("\n", "\r\n")):
        stream.feed(piece)
        bottoms.append([line.rstrip() for line in screen.display[-3:]])
    return [line.rstrip() for line in screen.display], bottoms


def test_bars_of_several_machines_and_lines_of_all_do_not_touch_each_other(
    start_program: StartProgram, write: WriteProgram
) -> None:
    shown = run_in_terminal(start_program, write("bars.py", BARS))
    lines, bottoms = on_screen(shown)
    # At the end every line stands there whole, and of each bar its last state.
    for machine in ("m1", "m2", "m3"):
        assert [line for line in lines if line.startswith(f"{machine}: step")] == [
            f"{machine}: step {step}" for step in (0, 5, 10, 15, 20)
        ]
        assert lines.count(f"{machine}: 100 %|{'#' * 20}") == 1
    assert [line for line in lines if line.startswith("driver")] == [f"driver {number}" for number in range(10)]
    allowed = r"(m\d: (step \d+|100 %\|#{20})|driver \d|yes|)"
    assert [line for line in lines if not re.fullmatch(allowed, line)] == []
    # Meanwhile all three stood at the bottom, and moved there.
    at_bottom = [rows for rows in bottoms if all(re.fullmatch(r"m\d: +\d+ %\|#*", row) for row in rows)]
    assert len({tuple(rows) for rows in at_bottom}) >= 3


def test_names_are_coloured_and_a_programs_colours_end_with_its_lines(
    start_program: StartProgram, write: WriteProgram
) -> None:
    shown = run_in_terminal(start_program, write("bars.py", BARS))
    names = set(re.findall(r"\x1b\[(\d+)m(m\d):\x1b\[0m ", shown))
    assert len(names) == len({colour for colour, _ in names}) == 3
    assert re.search(r"\x1b\[31mstep 0\x1b\[0m\n", shown)
    assert shown.rstrip().endswith("yes")


@pytest.mark.parametrize(
    ("settings", "has_names", "has_rows"), [({"NO_COLOR": "1"}, False, True), ({"TERM": "dumb"}, False, False)]
)
def test_who_wants_no_colours_or_has_a_dumb_terminal_gets_none(
    start_program: StartProgram, write: WriteProgram, settings: dict[str, str], has_names: bool, has_rows: bool
) -> None:
    shown = run_in_terminal(start_program, write("bars.py", BARS), environ=settings)
    assert bool(re.search(r"\x1b\[\d+mm\d", shown)) == has_names
    assert ("\x1b7" in shown) == has_rows
    lines, _ = on_screen(shown)
    assert len([line for line in lines if re.fullmatch(r"m\d: 100 %\|#{20}", line)]) == 3


def test_where_there_is_no_terminal_a_bar_is_a_line_when_it_ends(
    start_program: StartProgram, write: WriteProgram
) -> None:
    err = start_program(write("bars.py", BARS)).wait().err
    assert "\x1b7" not in err
    assert "\r" not in err
    assert sorted(re.findall(r"^m\d: +\d+ %.*$", err, re.MULTILINE)) == [
        f"m{number}: 100 %|{'#' * 20}" for number in (1, 2, 3)
    ]
