"""The called side when a keyed call's input breaks off: it has no outcome of its own, and nobody waits for one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bigmachine.errors import NetworkError, is_remote
from bigmachine.rpc import Call
from tests.unit.rpc.ends import PATIENCE, Ends, memory, until


class Reader:
    def __init__(self) -> None:
        self.runs = 0
        self.go = threading.Event()
        self.read = threading.Semaphore(0)

    def total(self, numbers: Iterator[int]) -> int:
        self.runs += 1
        total = 0
        for number in numbers:
            total += number
            self.read.release()
        return total

    async def total_async(self, numbers: Any) -> int:
        self.runs += 1
        total = 0
        async for number in numbers:
            total += number
            self.read.release()
        return total

    def stubborn(self, numbers: Iterator[int]) -> int:
        """Go on for some time although the input has broken off, and come to a result or to the error."""
        self.runs += 1
        self.read.release()
        assert self.go.wait(PATIENCE)
        return sum(numbers)

    def content(self, numbers: Iterator[int]) -> str:
        self.runs += 1
        self.read.release()
        assert self.go.wait(PATIENCE)
        return "enough"

    def late_error(self, numbers: Iterator[int]) -> None:
        self.runs += 1
        list(numbers)
        self.read.release()
        assert self.go.wait(PATIENCE)
        raise LookupError("its own")


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def ends(reader: Reader) -> Iterator[Ends]:
    with memory({"S": reader}) as it:
        yield it
        reader.go.set()


def keyed(ends: Ends, method: str, stream: object) -> Call[Any]:
    return ends.link.submit(f"S.{method}", (stream,), {}, key=b"one")


def cut_off(ends: Ends, reader: Reader, method: str) -> None:
    """Begin a call whose stream does not end, and lose its connection."""
    more = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        more.wait(PATIENCE)

    call = keyed(ends, method, numbers())
    assert reader.read.acquire(timeout=PATIENCE)
    ends.cut()
    more.set()
    with pytest.raises(NetworkError):
        call.result(PATIENCE)
    until(lambda: not any(channel.runs for channel in ends.server.channels))


@pytest.mark.parametrize("method", ["total", "total_async"])
def test_a_call_whose_input_broke_off_runs_anew_with_a_fresh_stream(ends: Ends, reader: Reader, method: str) -> None:
    cut_off(ends, reader, method)
    until(lambda: not len(ends.server.ledger))
    assert keyed(ends, method, iter([1, 2])).result(PATIENCE) == 3
    assert reader.runs == 2


def test_an_attempt_that_comes_while_the_broken_call_runs_is_told_to_come_again(ends: Ends, reader: Reader) -> None:
    cut_off(ends, reader, "stubborn")
    with pytest.raises(NetworkError, match=r"S\.stubborn broke off") as caught:
        keyed(ends, "stubborn", iter([1, 2])).result(PATIENCE)
    assert caught.value.temporary
    assert not is_remote(caught.value)
    reader.go.set()
    until(lambda: not len(ends.server.ledger))
    assert keyed(ends, "stubborn", iter([1, 2])).result(PATIENCE) == 3


def test_an_attempt_that_waits_already_is_told_when_the_input_breaks_off(ends: Ends, reader: Reader) -> None:
    first = keyed(ends, "stubborn", (n for n in iter(int, 1)))
    assert reader.read.acquire(timeout=PATIENCE)
    other = ends.link.beside(ends.reactor)
    try:
        waits = other.submit("S.stubborn", (iter([1]),), {}, key=b"one")
        until(lambda: any(e.waiting for e in ends.server.ledger._entries.values()))
        ends.cut()
        with pytest.raises(NetworkError):
            first.result(PATIENCE)
        with pytest.raises(NetworkError, match="broke off"):
            waits.result(PATIENCE)
    finally:
        reader.go.set()
        other.close(NetworkError("the test is over"))
        until(lambda: other.main is None)


def test_a_result_counts_although_the_input_broke_off(ends: Ends, reader: Reader) -> None:
    cut_off(ends, reader, "content")
    reader.go.set()
    until(lambda: all(entry.is_settled for entry in ends.server.ledger._entries.values()))
    assert keyed(ends, "content", iter([1, 2])).result(PATIENCE) == "enough"
    assert reader.runs == 1


def test_an_error_after_all_input_has_come_is_an_outcome(ends: Ends, reader: Reader) -> None:
    first = keyed(ends, "late_error", iter([1, 2]))
    assert reader.read.acquire(timeout=PATIENCE)
    ends.cut()
    with pytest.raises(NetworkError):
        first.result(PATIENCE)
    again = keyed(ends, "late_error", iter([1, 2]))
    ends.on_link(lambda: None)
    reader.go.set()
    with pytest.raises(LookupError, match="its own"):
        again.result(PATIENCE)
    assert reader.runs == 1
