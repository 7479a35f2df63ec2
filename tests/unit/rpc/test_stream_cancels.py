"""Streams of calls that are given up: whoever produces, reads or relays one is told at once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from bigmachine.errors import NetworkError
from bigmachine.rpc import current_call, deadline
from bigmachine.rpc.streams import outgoing
from bigmachine.rpc.streams.streamed import WINDOW_ITEMS
from tests.unit.rpc.ends import PATIENCE, Ends, memory, tls, until


class Far:
    """Produces at the end of a relay, and never anything after the first item."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    async def quiet(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.closed.set()


class Near:
    """Relays what `Far` produces, and notes what its methods were told."""

    max_concurrency = 4

    def __init__(self, far: Ends | None = None) -> None:
        self.far = far
        self.told: list[object] = []
        self.begun = threading.Event()
        self.running = 0
        self.most = 0

    def polling(self) -> Iterator[int]:
        yield 1
        end = time.monotonic() + PATIENCE
        while not current_call().cancelled() and time.monotonic() < end:
            time.sleep(0.001)
        self.told.append("cancelled" if current_call().cancelled() else "not")

    def relay(self) -> Iterator[int]:
        assert self.far is not None
        try:
            for item in self.far.call("Far.quiet"):
                yield item
                self.begun.set()
        except BaseException as exc:
            self.told.append(type(exc).__name__)
            raise

    async def relay_async(self) -> AsyncIterator[int]:
        assert self.far is not None
        async for item in await self.far.submit("Far.quiet"):
            yield item

    def cleans_up(self) -> Iterator[int]:
        assert self.far is not None
        try:
            yield from range(10**6)
        finally:
            self.told.append(next(self.far.call("Far.quiet")))

    def read(self, numbers: Iterator[int]) -> None:
        try:
            for _ in numbers:
                self.begun.set()
            self.told.append("end")
        except BaseException as exc:
            self.told.append(type(exc).__name__)
            raise

    def look_then_read(self, numbers: Iterator[int]) -> None:
        next(numbers)
        self.begun.set()
        until(current_call().cancelled)
        self.read(numbers)

    def counted(self) -> Iterator[int]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            yield from range(2 * WINDOW_ITEMS)
        finally:
            self.running -= 1

    async def counted_async(self) -> AsyncIterator[int]:
        for n in self.counted():
            yield n

    def timed(self, n: int) -> Iterator[int]:
        with deadline(PATIENCE):
            yield from range(n)

    def ints(self, n: int) -> Iterator[int]:
        yield from range(n)


@pytest.fixture
def far() -> Iterator[tuple[Far, Ends]]:
    service = Far()
    with memory({"Far": service}) as ends:
        yield service, ends


@pytest.fixture
def near(far: tuple[Far, Ends]) -> Iterator[tuple[Near, Ends]]:
    service = Near(far[1])
    with memory({"N": service}) as ends:
        yield service, ends


def test_a_plain_generator_is_told_that_its_reader_has_gone(near: tuple[Near, Ends]) -> None:
    service, ends = near
    stream = ends.call("N.polling")
    assert next(stream) == 1
    stream.close()
    until(lambda: service.told)
    assert service.told == ["cancelled"]


def test_a_plain_relay_ends_through_the_chain(near: tuple[Near, Ends], far: tuple[Far, Ends]) -> None:
    service, ends = near
    stream = ends.call("N.relay")
    assert next(stream) == 1
    assert service.begun.wait(PATIENCE)
    stream.close()
    assert far[0].closed.wait(PATIENCE)
    until(lambda: service.told)
    assert service.told == ["CancelledError"]


def test_an_async_relay_ends_through_the_chain_without_the_garbage_collector(
    near: tuple[Near, Ends], far: tuple[Far, Ends]
) -> None:
    stream = near[1].call("N.relay_async")
    assert next(stream) == 1
    gc.collect()
    gc.disable()
    try:
        stream.close()
        assert far[0].closed.wait(PATIENCE)
    finally:
        gc.enable()


def test_a_generator_that_is_closed_can_read_streams_to_clean_up(near: tuple[Near, Ends]) -> None:
    service, ends = near
    stream = ends.call("N.cleans_up")
    next(stream)
    stream.close()
    until(lambda: service.told)
    assert service.told == [1]


@pytest.mark.parametrize("method", ["read", "look_then_read"])
def test_a_method_that_reads_an_argument_and_its_feed_end_with_the_call(near: tuple[Near, Ends], method: str) -> None:
    service, ends = near
    closed = threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    call = ends.submit(f"N.{method}", numbers())
    assert service.begun.wait(PATIENCE)
    call.cancel()
    assert closed.wait(PATIENCE)
    until(lambda: service.told)
    assert service.told == ["CancelledError"]
    until(ends.is_idle)


@pytest.mark.parametrize("method", ["counted", "counted_async"])
def test_a_services_bound_holds_for_its_generators(method: str) -> None:
    class One(Near):
        max_concurrency = 1

    service = One()
    with memory({"N": service}) as ends:
        calls = [ends.submit(f"N.{method}") for _ in range(4)]
        for call in calls:
            stream = call.result(PATIENCE)
            assert next(stream) == 0
            stream.close()
        assert service.most == 1
        for call in [ends.submit(f"N.{method}") for _ in range(3)]:
            assert len(list(call.result(PATIENCE))) == 2 * WINDOW_ITEMS
        assert service.most == 1


@pytest.mark.parametrize("read", [1, WINDOW_ITEMS, 2000])
def test_a_generator_may_hold_a_deadline_over_its_items(near: tuple[Near, Ends], read: int) -> None:
    stream = near[1].call("N.timed", 5000)
    assert [next(stream) for _ in range(read)] == list(range(read))
    stream.close()
    assert list(near[1].call("N.timed", 2000)) == list(range(2000))
    until(near[1].is_idle)  # and nothing was complained of


def test_an_argument_may_hold_a_deadline_over_its_items(near: tuple[Near, Ends]) -> None:
    def numbers() -> Iterator[int]:
        with deadline(PATIENCE):
            yield from range(2000)

    near[1].call("N.read", numbers())
    assert near[0].told == ["end"]


def test_a_deadline_longer_than_a_lock_can_wait_is_waited_for(near: tuple[Near, Ends]) -> None:
    with deadline(1e10):
        assert list(near[1].call("N.ints", 3)) == [0, 1, 2]
        stream = near[1].call("N.polling")
        assert next(stream) == 1
        threading.Timer(0.02, stream.close).start()
        assert list(stream) == []
    assert near[1].submit("N.ints", 1).result(1e10)


def test_a_writer_that_ignores_its_credit_loses_the_connection(
    near: tuple[Near, Ends], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "WINDOW_ITEMS", 10**9)
    stream = near[1].call("N.ints", 10**6)
    until(lambda: stream._incoming._has_ended)
    with pytest.raises(NetworkError):
        list(stream)


def test_items_go_by_the_bulk_lane_once_there_is_one() -> None:
    with tls({"N": Near()}) as ends:
        assert list(ends.call("N.ints", 3)) == [0, 1, 2]
        ends.on_link(ends.link._open_bulk)
        until(lambda: ends.link.bulk)
        assert ends.link.bulk is not None
        before = ends.link.bulk.bytes_in
        assert list(ends.call("N.ints", 3000)) == list(range(3000))
        assert ends.link.bulk.bytes_in - before > 3000 * 16
