"""What a program's failure looks like to its user: his own frames, and the exception itself where it can travel."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import pytest

from bigmachine.errors import Cause
from bigmachine.image import Entry
from bigmachine.image import run as run_entry
from bigmachine.program.failure import describe, failed, portable


class Demanding(Exception):
    """Pickles, and cannot be rebuilt."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


class Stubborn(Exception):
    def __reduce__(self) -> tuple[object, ...]:
        raise RuntimeError("no")


def failure_of(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    import sys

    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "argv", ["app.py"])
    script = tmp_path / "app.py"
    script.write_text(source)
    with pytest.raises((KeyError, SyntaxError)) as caught:
        run_entry(Entry("script", path=str(script)))
    text = describe(caught.value)
    assert "bigmachine" not in text.replace(str(tmp_path), "")
    caught.value.__notes__ = [text]
    return caught.value


def test_the_traceback_begins_at_the_programs_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = failure_of(tmp_path, "def f():\n    raise KeyError('gone')\n\nf()\n", monkeypatch)
    lines = error.__notes__[0].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert 'app.py", line 4, in <module>' in lines[1]
    assert lines[-1] == "KeyError: 'gone'"


def test_a_syntax_error_has_no_frames_but_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = failure_of(tmp_path, "x = (\n", monkeypatch).__notes__[0]
    assert 'app.py", line 1' in text
    assert "SyntaxError" in text


def test_an_ordinary_exception_travels() -> None:
    text = portable(KeyError("gone"))
    assert text is not None
    error = pickle.loads(base64.b64decode(text))
    assert type(error) is KeyError
    assert error.args == ("gone",)


@pytest.mark.parametrize("error", [Demanding("a", "b"), Stubborn("x")])
def test_an_exception_that_would_not_arrive_is_left_behind(error: Exception) -> None:
    assert portable(error) is None
    message = failed(Cause.BOOT_FAILED, "detail", error)
    assert message["exc"] is None
    assert type(error).__name__ in str(message["text"])


def test_the_message_says_what_the_agent_needs() -> None:
    message = failed(Cause.INIT_FAILED, "the init of 'PI' raised", ValueError("x"))
    assert message["k"] == "failed"
    assert message["cause"] == "init_failed"
    assert message["detail"] == "the init of 'PI' raised"
