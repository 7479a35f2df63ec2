"""A stream is part of its call: at the call's deadline it ends, wherever it is read, and so does its producer."""

from __future__ import annotations

import asyncio
import io
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any

import pytest

from bigmachine.errors import DeadlineExceeded
from bigmachine.rpc import deadline
from bigmachine.rpc.waiting import direct
from tests.unit.rpc.ends import PATIENCE, Ends, tls, until, until_async

ENOUGH = 64


class Source:
    """Gives one item and then none, and tells that it was closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.over = threading.Event()

    def echo(self, value: object = None) -> object:
        return value

    def plain(self) -> Iterator[bytes]:
        try:
            yield b"x"
            while not self.over.wait(0.01):
                yield b""
        finally:
            self.closed.set()

    async def asynchronous(self) -> AsyncIterator[bytes]:
        try:
            yield b"x"
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    def file(self) -> IO[bytes]:
        return _Dripping(self)

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def endless(self) -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            self.closed.set()


class _Dripping(io.RawIOBase, IO[bytes]):
    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def read(self, size: int | None = -1) -> bytes:
        return b"" if self._source.over.wait(0.01) else b"x"

    def close(self) -> None:
        self._source.closed.set()
        super().close()


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def ends(source: Source) -> Iterator[Ends]:
    with tls({"S": source}) as it:
        yield it
        source.over.set()


WAYS = ["plain", "asynchronous", "file"]


@pytest.mark.parametrize("method", WAYS)
def test_a_stream_that_is_read_after_its_deadline_ends_and_stops_its_producer(
    ends: Ends, source: Source, method: str
) -> None:
    begin = time.monotonic()
    with deadline(0.3):
        stream = ends.call(f"S.{method}")
    with pytest.raises(DeadlineExceeded, match=rf"the stream S\.{method} on m1 was not through by the deadline"):
        read_all(stream)
    assert 0.29 <= time.monotonic() - begin < PATIENCE / 2
    assert source.closed.wait(PATIENCE)
    assert ends.call("S.echo", 1) == 1


def read_all(stream: Any) -> None:
    with deadline(PATIENCE):
        while stream.read(1000) if isinstance(stream, io.IOBase) else next(stream) is not None:
            pass


@pytest.mark.parametrize("enough", [0, ENOUGH], ids=["first calls", "own connection"])
@pytest.mark.parametrize("method", WAYS)
def test_it_ends_on_an_event_loop_too(ends: Ends, source: Source, method: str, enough: int) -> None:
    async def read() -> None:
        for n in range(enough):
            assert await ends.submit("S.echo", n) == n
        if enough:
            near = ends.link._nears[asyncio.get_running_loop()]
            await until_async(lambda: near.link is not None and near.link.is_ready)
        with deadline(0.3):
            stream = await ends.submit(f"S.{method}")
        with pytest.raises(DeadlineExceeded, match="was not through by the deadline of its call"):
            await until_end(stream)

    asyncio.run(read())
    assert source.closed.wait(PATIENCE)


async def until_end(stream: Any) -> None:
    with deadline(PATIENCE):
        async for _ in stream:
            pass


def test_one_that_a_waiting_thread_opened_ends_too(ends: Ends, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_NEAR", 0.0)

    def call(method: str) -> Any:
        result = ends.link.call_directly(method, (), {})
        return ends.call(method) if result is direct.ELSEWHERE else result

    for _ in range(2 * ENOUGH):
        call("S.echo")
    assert ends.link._direct is not None
    until(lambda: ends.link._direct is not None and ends.link._direct._socket is not None)
    with deadline(0.3):
        stream = call("S.plain")
    assert "S.plain" in ends.link._direct._streaming
    with pytest.raises(DeadlineExceeded, match="was not through by the deadline of its call"):
        read_all(stream)
    assert source.closed.wait(PATIENCE)


def test_nobody_needs_to_read_for_the_producer_to_end_and_what_came_before_is_read(ends: Ends, source: Source) -> None:
    with deadline(0.2):
        stream = ends.call("S.endless")
    assert source.closed.wait(PATIENCE)
    until(ends.is_idle)
    there = len(stream._incoming._items)
    assert there > 0
    assert [next(stream) for _ in range(there)] == list(range(there))
    with pytest.raises(DeadlineExceeded):
        next(stream)
    assert list(stream) == []


def test_a_stream_that_is_through_or_closed_before_has_no_deadline_left(ends: Ends) -> None:
    with deadline(0.2):
        whole, closed = ends.call("S.count", 10), ends.call("S.endless")
    closed.close()
    until(ends.is_idle)
    assert whole._incoming._expiry is None
    assert closed._incoming._expiry is None
    time.sleep(0.25)
    assert list(whole) == list(range(10))
    assert list(closed) == []


def test_no_word_of_the_far_side_is_needed(ends: Ends, source: Source) -> None:
    with deadline(0.3):
        stream = ends.call("S.asynchronous")
        assert next(stream) == b"x"
    blocked = threading.Event()
    ends.server.reactor.post(lambda: blocked.wait(PATIENCE))  # the machine's loop does nothing
    begin = time.monotonic()
    try:
        with pytest.raises(DeadlineExceeded, match="was not through by the deadline of its call"):
            read_all(stream)
        assert time.monotonic() - begin < PATIENCE / 2
    finally:
        blocked.set()
    assert source.closed.wait(PATIENCE)
