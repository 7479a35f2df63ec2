"""A census finds what fills the memory, wherever that is kept, and counts it about once."""

from __future__ import annotations

import bdb
import threading
from types import FrameType

import pytest

from bigmachine.observe.heap import Census, TypeCount, take_census


class Thing:
    """Small, and known to the collector."""

    __slots__ = ("inside",)

    def __init__(self, inside: object) -> None:
        self.inside = inside


class Hidden(bytearray):
    """Of a type of its own, so that a test finds just its own."""


class Odd:
    """Raises when it is asked for its size."""

    def __sizeof__(self) -> int:
        raise RuntimeError("no size")


def count_of(census: Census, kind: type) -> TypeCount:
    (row,) = [row for row in census.types if row.name == f"{kind.__module__}.{kind.__qualname__}"]
    return row


def test_objects_and_what_they_hold_are_counted_by_type() -> None:
    things = [Thing(Hidden(1000)) for _ in range(500)]
    census = take_census(20)
    assert census.is_complete
    assert count_of(census, Thing).count == len(things)
    assert count_of(census, Hidden).count == pytest.approx(500, rel=0.02)
    assert count_of(census, Hidden).size == pytest.approx(500 * 1057, rel=0.1)


@pytest.mark.parametrize("size", [1000, 1 << 20])
def test_what_many_refer_to_is_counted_once(size: int) -> None:
    shared = Hidden(size)
    things = [[shared] for _ in range(1000)]
    assert count_of(take_census(20), Hidden).count == 1
    del things


def test_what_only_a_running_function_has_is_found_and_not_kept() -> None:
    has_begun, may_end, census_taken = threading.Event(), threading.Event(), threading.Event()

    def hold() -> None:
        mine = Hidden(5 << 20)
        has_begun.set()
        census_taken.wait(20)
        del mine
        may_end.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert has_begun.wait(20)
        assert count_of(take_census(20), Hidden).size > 5 << 20
        census_taken.set()
        end = threading.Event()
        left = []
        for _ in range(200):
            left = [row for row in take_census(20).types if row.name.endswith(".Hidden")]
            if not left:
                break
            end.wait(0.01)
        assert left == []
    finally:
        census_taken.set()
        may_end.set()
        thread.join()


def test_a_dict_of_plain_values_is_looked_into() -> None:
    plain = [{number: complex(number, 1) for number in range(10_000)}]  # of which nobody else has many
    (row,) = [row for row in take_census(20).types if row.name == "complex"]
    assert row.count == pytest.approx(10_000, rel=0.02)
    del plain


def test_an_object_that_cannot_tell_its_size_does_no_harm() -> None:
    odd = [Odd()]
    assert count_of(take_census(20), Odd).size == 0
    del odd


def test_a_census_without_time_says_so() -> None:
    census = take_census(0)
    assert not census.is_complete
    assert "no time for all" in census.to_text()
    assert census.seconds < 1


def test_its_text_has_the_largest_first() -> None:
    census = Census((TypeCount("big", 1, 2048), TypeCount("small", 3, 10)), 0.5, is_complete=True)
    lines = census.to_text(1).splitlines()
    assert lines[0] == "# 4 objects, 0.0 MiB, counted in 0.50 s"
    assert lines[2].split() == ["2048", "1", "big"]
    assert len(lines) == 3


def test_a_function_that_a_debugger_has_stopped_keeps_its_variables() -> None:
    stopped, go = threading.Event(), threading.Event()
    seen: list[object] = []

    class Stops(bdb.Bdb):
        def user_line(self, frame: FrameType) -> None:
            if "second" in frame.f_locals and not stopped.is_set():
                frame.f_locals["second"] = "changed at the prompt"
                stopped.set()
                assert go.wait(10)

    def debugged() -> None:
        first = "as it was"
        second = "as it was"
        seen.extend((first, second))

    def run() -> None:
        try:
            Stops().runcall(debugged)
        except NameError as exc:  # its variables are gone
            seen.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    assert stopped.wait(10)
    take_census(5)
    go.set()
    thread.join(10)
    assert seen == ["as it was", "changed at the prompt"]
