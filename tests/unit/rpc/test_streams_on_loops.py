"""A stream that a call of an event loop returns is read in every way, however many calls that loop has made before."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import IO, Any

import pytest

from bigmachine.errors import BigmachineError, DeadlineExceeded, NetworkError
from bigmachine.rpc import Call
from bigmachine.rpc.near import Near
from bigmachine.rpc.streams.incoming import Incoming
from bigmachine.rpc.streams.streamed import WINDOW_ITEMS
from tests.unit.rpc.ends import PATIENCE, Ends, tls, until, until_async
from tests.unit.rpc.stream_host import Host

ENOUGH = 64
MANY = 3 * WINDOW_ITEMS


class Source:
    def __init__(self) -> None:
        self.closed = threading.Event()
        self.begun = threading.Event()
        self.go = threading.Event()

    async def echo(self, value: object = None) -> object:
        return value

    def plain(self, value: object = None) -> object:
        return value

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def count_async(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    def data(self, size: int) -> IO[bytes]:
        return io.BytesIO(bytes(size))

    def endless(self) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            self.closed.set()

    def late(self) -> Iterator[int]:
        self.begun.set()
        self.go.wait(PATIENCE)
        numbers = self.endless()
        next(numbers)  # one that has not begun has nothing to clean up
        return numbers


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def ends(source: Source) -> Iterator[Ends]:
    with tls({"S": source}) as it:
        yield it
        source.go.set()


async def come_near(ends: Ends, method: str = "S.echo", enough: int = ENOUGH) -> Near:
    """Call until this loop has a connection of its own."""
    for n in range(enough):
        assert await ends.submit(method, n) == n
    near = ends.link._nears[asyncio.get_running_loop()]
    await until_async(lambda: near.link is not None and near.link.is_ready)
    return near


def brought_by(stream: Any) -> Any:
    return stream._incoming.carrier


@pytest.mark.parametrize("is_near", [False, True], ids=["first calls", "own connection"])
@pytest.mark.parametrize("method", ["count", "count_async"])
def test_items_are_read_with_for_and_async_for_and_in_a_thread(ends: Ends, method: str, is_near: bool) -> None:
    async def read() -> None:
        if is_near:
            await come_near(ends)
        assert list(await ends.submit(f"S.{method}", MANY)) == list(range(MANY))
        assert [n async for n in await ends.submit(f"S.{method}", MANY)] == list(range(MANY))
        assert await asyncio.to_thread(list, await ends.submit(f"S.{method}", MANY)) == list(range(MANY))

    asyncio.run(read())


@pytest.mark.parametrize("is_near", [False, True], ids=["first calls", "own connection"])
def test_a_file_is_read_with_read_and_async_for(ends: Ends, is_near: bool) -> None:
    size = 10_000_000

    async def read() -> None:
        if is_near:
            await come_near(ends)
        assert (await ends.submit("S.data", size)).read() == bytes(size)
        assert sum([len(piece) async for piece in await ends.submit("S.data", size)]) == size

    asyncio.run(read())


def test_lone_calls_that_a_thread_serves_return_such_streams_too(ends: Ends) -> None:
    async def read() -> None:
        near = await come_near(ends, "S.plain", 4 * ENOUGH)
        assert near.link is not None
        assert near.link._solo is not None
        solo = near.link._solo
        for _ in range(20):
            for n in range(ENOUGH):
                assert await ends.submit("S.plain", n) == n
            if solo._connection is not None:
                break
            await asyncio.sleep(0.01)
        assert solo._connection is not None
        for _ in range(2):  # the second one by the main connection
            stream = await ends.submit("S.count", MANY)
            assert brought_by(stream) is ends.link
            assert list(stream) == list(range(MANY))
        assert "S.count" in solo._by_loop

    asyncio.run(read())


def test_a_stream_is_read_on_when_its_loop_is_stopped_and_when_it_is_over(ends: Ends) -> None:
    async def opened() -> Any:
        await come_near(ends)
        stream = await ends.submit("S.count", 2 * MANY)
        assert await anext(stream) == 0
        return stream

    loop = asyncio.new_event_loop()
    try:
        stream = loop.run_until_complete(opened())
        assert [next(stream) for _ in range(MANY)] == list(range(1, MANY + 1))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    assert list(stream) == list(range(MANY + 1, 2 * MANY))


def test_a_stream_that_is_dropped_or_comes_too_late_ends_its_producer(ends: Ends, source: Source) -> None:
    async def wait(call: Call[Any]) -> Any:
        return await call

    async def read() -> None:
        await come_near(ends)
        stream = await ends.submit("S.endless")
        assert next(stream) == 1
        del stream
        await until_async(source.closed.is_set)
        source.closed.clear()
        task = asyncio.ensure_future(wait(ends.submit("S.late")))
        await until_async(source.begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        source.begun.clear()
        source.go.set()
        await until_async(source.closed.is_set)
        source.closed.clear()
        source.go.clear()
        with pytest.raises(DeadlineExceeded):
            await ends.submit("S.late", timeout=0.05)
        source.go.set()
        await until_async(source.closed.is_set)

    asyncio.run(read())
    until(lambda: not any(channel.parked for channel in ends.server.channels))


def test_when_the_link_has_another_connection_streams_come_by_that(ends: Ends) -> None:
    async def read() -> None:
        near = await come_near(ends)
        assert near.link is not None
        for _ in range(2):
            stream = await ends.submit("S.endless")
            assert next(stream) == 1
            main = ends.link.main
            ends.cut()
            with pytest.raises(NetworkError):
                for _ in stream:
                    pass
            ends.link.reactor.run(ends.link.connect(), PATIENCE)
            assert ends.link.main is not main
            assert await ends.submit("S.echo", 1) == 1  # by the near connection, after what it was told
            stream = await ends.submit("S.count", MANY)
            assert brought_by(stream) is ends.link
            assert list(stream) == list(range(MANY))

    asyncio.run(read())


def test_a_stream_that_was_kept_for_a_connection_that_is_lost_is_lost(ends: Ends) -> None:
    call: Call[Any] = Call(7, "S.count", ends.link)
    ends.call("S.echo")
    ends.on_link(lambda: ends.link._adopt(call, None, "items", b"x" * 16))
    with pytest.raises(NetworkError, match="lost with the stream"):
        call.result(PATIENCE)


class _Stopped(Host):
    class loop:  # noqa: N801 (a reactor's)
        @staticmethod
        def is_running() -> bool:
            return False


def test_who_waits_for_a_loop_that_is_stopped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    host = _Stopped()
    incoming = Incoming(host, 1, "S.m on m1")
    incoming.put(1, 20)
    assert incoming.pull() == 1
    with pytest.raises(BigmachineError, match=r"brings the items of the stream S\.m on m1 is stopped"):
        incoming.pull()


def test_a_loop_that_stops_while_a_thread_waits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmachine.rpc.streams.incoming._LOOKS_UP", 0.02)
    host = _Stopped()
    looks = iter([True, True, True, False])
    monkeypatch.setattr(_Stopped.loop, "is_running", lambda: next(looks))
    incoming = Incoming(host, 1, "S.m on m1")
    begin = time.monotonic()
    with pytest.raises(BigmachineError, match="is stopped"):
        incoming.pull()
    assert time.monotonic() - begin >= 0.06
    assert not incoming._waiting
