"""What commands print."""

from __future__ import annotations

import io
import json
import math
import sys

import pytest

from bigmachine.cli import printing


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 0 s"),
        (599, "9 min 59 s"),
        (601, "10 min"),
        (3600, "1 h 0 min"),
        (86_399, "23 h 59 min"),
        (200_000, "2 d 7 h"),
        (-5, "0 s"),
    ],
)
def test_times_have_two_parts_at_most(seconds: float, said: str) -> None:
    assert printing.ago(seconds) == said


def test_columns_are_aligned_and_numbers_to_the_right() -> None:
    assert printing.table([["a", "1", "x"], ["long", "100", ""]], ("N", "V", "T"), right=[1]) == [
        "N       V  T",
        "a       1  x",
        "long  100",
    ]
    assert printing.table([]) == []


def test_names_cannot_control_a_terminal() -> None:
    (line,) = printing.table([["\x1b[2Jm1", "\x9b31m\x07"]])
    assert not set(line) & {"\x1b", "\x9b", "\x07"}


def test_machines_are_in_the_order_of_their_numbers() -> None:
    assert sorted(["m10", "driver", "m2", "m1", "7"], key=printing.natural) == ["7", "driver", "m1", "m2", "m10"]


@pytest.mark.parametrize("say", [printing.say_json, printing.say_json_line])
def test_json_is_json_for_every_reader(say: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(say)
    say({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": -math.inf}, "e": "ä"})

    def refuse(text: str) -> None:
        raise AssertionError(text)

    told = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert told == {"a": None, "b": [None, 1.5], "c": {"d": None}, "e": "ä"}


def test_an_encoding_that_knows_few_characters_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, "ascii"))
    printing.say("wörter…")
    sys.stdout.flush()
    assert data.getvalue() == b"w\\xf6rter\\u2026\n"


@pytest.mark.parametrize(
    ("environ", "is_terminal", "is_coloured"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
    ],
)
def test_colours_are_for_terminals_that_can(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], is_terminal: bool, is_coloured: bool
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert printing.is_coloured(Stream()) is is_coloured
    assert printing.painted("x", "red", Stream()) == ("\x1b[31mx\x1b[0m" if is_coloured else "x")
