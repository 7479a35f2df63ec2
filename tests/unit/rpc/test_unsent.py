"""Streams among the arguments of a call that never leaves are closed, and no trace of them slows the link down."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bigmachine.errors import BigmachineError, DeadlineExceeded, InvalidCall, NetworkError
from bigmachine.rpc import Call, Link, Reactor, Server
from bigmachine.rpc.connection import Connection, Receiver
from tests.unit.rpc.ends import PATIENCE, Ends, memory, until


class Service:
    def echo(self, value: object = None) -> object:
        return value

    def read(self, file: Any) -> int:
        return len(file.read())


class Nowhere:
    """A dialer that finds nobody, at once or only when it is let go."""

    def __init__(self, server: Server) -> None:
        self.go = threading.Event()

    async def dial(self, reactor: Reactor, receiver: Receiver) -> Connection:
        if not self.go.is_set():
            await reactor.loop.run_in_executor(None, self.go.wait, PATIENCE)
        raise NetworkError("no route")


@pytest.fixture
def ends() -> Iterator[Ends]:
    with memory({"S": Service()}, dialer=Nowhere) as it:
        yield it
        go(it)


def go(ends: Ends) -> None:
    dialer = ends.link._dialer
    assert isinstance(dialer, Nowhere)
    dialer.go.set()


class Made:
    """Makes a file when asked for a stream, and knows it."""

    def __init__(self) -> None:
        self.files: list[io.BytesIO] = []

    def make(self) -> io.BytesIO:
        self.files.append(io.BytesIO(b"x"))
        return self.files[-1]

    def are_closed(self) -> bool:
        return bool(self.files) and all(file.closed for file in self.files)


def gone(ends: Ends, made: Made) -> None:
    until(made.are_closed)
    ends.on_link(lambda: None)
    assert not ends.link._feeds


def test_of_a_call_that_could_not_be_dialled(ends: Ends) -> None:
    made = Made()
    go(ends)
    with pytest.raises(NetworkError, match="no route"):
        ends.call("S.read", made.make)
    gone(ends, made)


def test_of_a_call_that_is_cancelled(ends: Ends) -> None:
    made = Made()
    assert ends.submit("S.read", made.make).cancel()
    gone(ends, made)


def test_of_a_call_that_meets_its_deadline(ends: Ends) -> None:
    made = Made()
    with pytest.raises(DeadlineExceeded):
        ends.call("S.read", made.make, timeout=0.01)
    gone(ends, made)


def test_of_a_call_whose_link_is_closed_before_or_after(ends: Ends) -> None:
    made = Made()
    before = ends.submit("S.read", made.make)
    ends.link.close(NetworkError("closed"))
    for call in (before, ends.submit("S.read", made.make)):
        with pytest.raises(NetworkError, match="closed"):
            call.result(PATIENCE)
    assert len(made.files) == 2
    gone(ends, made)


def test_of_a_call_another_argument_of_which_cannot_be_pickled(ends: Ends) -> None:
    made = Made()
    with pytest.raises(InvalidCall, match="cannot be pickled"):
        ends.submit("S.read", made.make, threading.Lock())
    gone(ends, made)


def test_of_a_call_that_somebody_held_up_while_the_connection_was_lost() -> None:
    made = Made()

    def swallow(link: Link, call: Call[Any], encoded: object) -> bool:
        return True

    with memory({"S": Service()}) as ends:
        ends.call("S.echo")
        ends.link.tamper_with(swallow)
        call = ends.submit("S.read", made.make)
        until(lambda: call.ident in ends.link.pending)
        ends.cut()
        with pytest.raises(NetworkError):
            call.result(PATIENCE)
        gone(ends, made)


def test_generators_are_closed_and_a_file_that_the_caller_opened_is_left_open(ends: Ends) -> None:
    go(ends)

    def numbers() -> Iterator[int]:
        yield 1

    async def letters() -> AsyncIterator[str]:
        yield "a"

    plain, other, file = numbers(), letters(), io.BytesIO(b"x")
    with pytest.raises(NetworkError):
        ends.call("S.echo", plain, other, file)
    until(lambda: next(plain, None) is None)
    ends.reactor.run(_exhausted(other), PATIENCE)
    assert not file.closed


async def _exhausted(source: AsyncIterator[str]) -> None:
    assert await anext(source, None) is None


def test_a_source_whose_closing_fails_is_logged_and_harms_nobody(ends: Ends) -> None:
    go(ends)

    class Broken:
        def __iter__(self) -> Broken:
            return self

        def __next__(self) -> int:
            return 1

        def close(self) -> None:
            raise LookupError("cannot be closed")

    class BrokenToo:
        def __aiter__(self) -> BrokenToo:
            return self

        async def __anext__(self) -> int:
            return 1

        async def aclose(self) -> None:
            raise LookupError("cannot be closed")

    with pytest.raises(BigmachineError, match="no route"):
        ends.call("S.echo", Broken(), BrokenToo())
    until(lambda: len(ends.complaints) == 2)
    assert all("closing a stream that was not sent failed" in text for text in ends.complaints)
    ends.complaints.clear()
