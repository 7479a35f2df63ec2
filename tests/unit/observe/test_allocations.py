"""Memory as profiles: by type, and by who allocated it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from bigmachine.observe import allocations
from bigmachine.observe.heap import Census, TypeCount
from bigmachine.observe.profile import Frame

SOURCE = '''"""A module."""
X = 1


class C:
    y = 2

    def method(self):
        def inner():
            text = """
def not_a_function():
"""
            return [
                text
            ]
        return inner

    async def other(self): pass


if X:
    def late():
        return 1
'''


def test_lines_are_given_the_function_that_they_are_in(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(SOURCE)
    names = dict(enumerate(allocations.functions_of(str(file))))
    lines = SOURCE.splitlines()
    assert names[1] == names[2] == "<module>"
    assert names[lines.index("    y = 2") + 1] == "C"
    assert names[lines.index("def not_a_function():") + 1] == "C.method.<locals>.inner"
    assert names[lines.index("                text") + 1] == "C.method.<locals>.inner"
    assert names[lines.index("        return inner") + 1] == "C.method"
    assert names[lines.index("    async def other(self): pass") + 1] == "C.other"
    assert names[lines.index("        return 1") + 1] == "late"
    assert allocations.functions_of("<string>") == ()


def test_a_census_has_a_frame_a_type() -> None:
    profile = allocations.of_census(Census((TypeCount("list", 3, 300), TypeCount("a.B", 1, 9)), 0.1, is_complete=False))
    assert profile.samples == {((Frame("list"),), ()): [3, 300], ((Frame("a.B"),), ()): [1, 9]}
    assert "no time" in profile.comments[1]


def test_what_tracemalloc_noted_has_the_names_of_functions() -> None:
    with pytest.raises(ValueError, match="BIGMACHINE_TRACEMALLOC"):
        allocations.of_tracemalloc()
    tracemalloc.start(1)
    try:
        kept = _keep()
        profile = allocations.of_tracemalloc()
    finally:
        tracemalloc.stop()
    held = sum(values[1] for (stack, _), values in profile.samples.items() if stack[-1].function == "_keep")
    assert 1_000_000 <= held < 1_100_000
    assert len(kept) == 10


def _keep() -> list[bytearray]:
    return [bytearray(100_000) for _ in range(10)]


@pytest.mark.parametrize("value", ["yes", "-1", "1000"])
def test_a_bad_number_of_frames_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(allocations.TRACE, value)
    with pytest.raises(ValueError, match="number of frames from 1 to 100"):
        allocations.trace_if_asked()
    assert not tracemalloc.is_tracing()
