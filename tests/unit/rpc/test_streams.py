"""Streams: what flows, how far a producer runs ahead, and that it stops and cleans up when nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import itertools
import os
import pickle
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, cast

import pytest

from bigmachine.errors import BigmachineError, DeadlineExceeded, InvalidCall, NetworkError, is_remote
from bigmachine.rpc import ByteStream, Codec, Stream, current_call, deadline
from bigmachine.rpc.context import get_deadline
from bigmachine.rpc.streams.streamed import PIECE, WINDOW_BYTES, WINDOW_ITEMS
from bigmachine.rpc.wire import CLOSE, CREDIT, END, ITEM, small_frame
from tests.unit.rpc.ends import PATIENCE, Ends, memory, tls, until, until_async
from tests.unit.rpc.stream_host import Host


class Unbuildable:
    """Pickles, and cannot be made again."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return _fail_to_build, ()


def _fail_to_build() -> object:
    raise LookupError("no such thing here")


class Source:
    """Produces in every way, and tells how far it got and that it was closed."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = threading.Event()
        self.go = threading.Event()
        self.pipe = -1
        self.seen: list[object] = []

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def count_async(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
            if i % 100 == 50:
                await asyncio.sleep(0)

    def endless(self, item: object = 0) -> Iterator[object]:
        try:
            while True:
                self.made += 1
                yield item
        finally:
            self.closed.set()

    async def endless_async(self, item: object = 0) -> AsyncIterator[object]:
        try:
            while True:
                self.made += 1
                yield item
        finally:
            await asyncio.sleep(0)  # what a clean-up may do
            self.closed.set()

    def held(self) -> Iterator[int]:
        try:
            yield 1
            self.go.wait(PATIENCE)
            yield 2
        finally:
            self.closed.set()

    async def held_async(self) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    def then_fail(self, n: int) -> Iterator[int]:
        yield from range(n)
        raise KeyError("after items")

    async def then_fail_async(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i
        raise KeyError("after items")

    def bad_item(self) -> Iterator[object]:
        try:
            yield 1
            yield threading.Lock()
        finally:
            self.closed.set()

    async def bad_item_async(self) -> AsyncIterator[object]:
        try:
            yield 1
            yield threading.Lock()
        finally:
            self.closed.set()

    def unbuildable(self) -> Iterator[object]:
        try:
            yield 1
            yield Unbuildable()
            yield from itertools.repeat(2)
        finally:
            self.closed.set()

    def quits(self) -> Iterator[int]:
        yield 1
        raise SystemExit(3)

    def exact(self, n: int) -> Iterator[int]:
        return iter(range(n))

    def mapped(self, n: int) -> Iterator[str]:
        return map(str, range(n))

    def items(self, *sizes: int) -> Iterator[bytes]:
        for n, size in enumerate(sizes):
            yield bytes([n % 256]) * size

    def large(self, size: int) -> Iterator[object]:
        return self.endless(bytes(size))

    def file(self, path: str) -> IO[bytes]:
        return open(path, "rb")

    def unbuffered(self, path: str) -> IO[bytes]:
        return open(path, "rb", buffering=0)

    def temporary(self, data: bytes) -> IO[bytes]:
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115 (the library closes it)
        file.write(data)
        file.seek(0)
        return cast("IO[bytes]", file)

    def in_memory(self, data: bytes) -> IO[bytes]:
        return io.BytesIO(data)

    def text_file(self) -> IO[str]:
        return io.TextIOWrapper(io.BytesIO())

    def zeros(self) -> IO[bytes]:
        return _Zeros(self)

    def piped_file(self) -> IO[bytes]:
        return open(self.pipe, "rb")  # the stream closes it

    def failing_file(self) -> IO[bytes]:
        return _Failing()

    def stopping_file(self) -> IO[bytes]:
        return _Stopping()

    def tell_context(self) -> Iterator[tuple[str, bool]]:
        yield current_call().caller, get_deadline() is not None

    async def tell_context_async(self) -> AsyncIterator[tuple[str, bool]]:
        await asyncio.sleep(0)
        yield current_call().caller, get_deadline() is not None

    def clean_up_late(self) -> Iterator[int]:
        try:
            yield from itertools.repeat(1)
        finally:
            self.seen += [get_deadline(), current_call().caller]
            self.closed.set()

    async def clean_up_late_async(self) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            self.seen += [get_deadline(), current_call().caller]
            self.closed.set()

    # streams as arguments

    def total(self, numbers: Iterator[int]) -> int:
        return sum(numbers)

    async def total_async(self, numbers: Any) -> int:
        return sum([n async for n in numbers])

    async def total_at_once(self, numbers: Iterator[int]) -> int:
        return sum(numbers)

    def collected(self, items: Iterator[object]) -> list[object]:
        return list(items)

    def read(self, file: IO[bytes]) -> bytes:
        return file.read()

    async def read_at_once(self, file: IO[bytes]) -> bytes:
        return file.read()

    async def sum_async(self, file: Any, *, rests: bool = False) -> tuple[int, str]:
        size, digest = 0, hashlib.sha256()
        async for piece in file:
            size += len(piece)
            digest.update(piece)
            if rests and size > WINDOW_BYTES:
                await asyncio.to_thread(self.go.wait, PATIENCE)
        return size, digest.hexdigest()

    def first(self, numbers: Iterator[int]) -> int:
        return next(numbers)

    def double(self, numbers: Iterator[int]) -> Iterator[int]:
        for n in numbers:
            yield 2 * n

    def kinds(self, *args: object, **kwargs: object) -> list[str]:
        return [type(arg).__name__ for arg in (*args, *kwargs.values())]


class _Zeros(io.RawIOBase, IO[bytes]):
    """A file without end."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source

    def read(self, size: int | None = -1) -> bytes:
        self._source.made += 1
        return bytes(size or 0)

    def close(self) -> None:
        self._source.closed.set()
        super().close()


class _Failing(io.RawIOBase, IO[bytes]):
    def __init__(self) -> None:
        super().__init__()
        self._reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self._reads += 1
        if self._reads > 2:
            raise OSError(5, "the disk is broken")
        return b"x" * 10


class _Stopping(io.RawIOBase, IO[bytes]):
    def read(self, size: int | None = -1) -> bytes:
        raise StopIteration


class Wired:
    """A source behind a link."""

    def __init__(self, ends: Ends, source: Source) -> None:
        self.ends = ends
        self.source = source

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self.ends.call(f"S.{method}", *args, **kwargs)


@pytest.fixture
def wired() -> Iterator[Wired]:
    source = Source()
    with memory({"S": source}) as ends:
        yield Wired(ends, source)
        source.go.set()


@pytest.fixture(params=["endless", "endless_async"])
def endless(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def steady(wired: Wired) -> int:
    """Wait until the producer makes nothing more, and return how much it made."""
    ends = wired.ends

    def is_parked() -> bool:
        (outgoing,) = [o for channel in ends.server.channels for o in channel.outgoing.values()]
        if outgoing._task is not None:
            return outgoing._credit is not None and not outgoing._credit.done()
        return outgoing._is_parked

    until(is_parked)
    return wired.source.made


# --- items


@pytest.mark.parametrize("method", ["count", "count_async", "exact"])
@pytest.mark.parametrize("n", [0, 1, WINDOW_ITEMS - 1, WINDOW_ITEMS, WINDOW_ITEMS + 1, 3 * WINDOW_ITEMS, 2000])
def test_all_items_arrive_in_order(wired: Wired, method: str, n: int) -> None:
    assert list(wired.call(method, n)) == list(range(n))


def test_every_kind_of_iterator_is_streamed(wired: Wired) -> None:
    stream = wired.call("mapped", 5)
    assert type(stream) is Stream
    assert list(stream) == list("01234")


@pytest.mark.parametrize("method", ["count", "count_async"])
def test_items_can_be_read_from_any_event_loop(wired: Wired, method: str) -> None:
    async def read() -> list[int]:
        return [item async for item in wired.call(method, 700)]

    assert asyncio.run(read()) == list(range(700))
    ends = wired.ends

    async def read_there() -> list[int]:
        return [item async for item in await ends.submit(f"S.{method}", 700)]

    assert ends.link.reactor.run(read_there(), PATIENCE) == list(range(700))


def test_reading_where_it_would_block_the_event_loop_is_refused(wired: Wired) -> None:
    ends = wired.ends

    async def read() -> None:
        next(await ends.submit("S.held"))

    with pytest.raises(BigmachineError, match="would block the event loop that brings its items: use 'async for'"):
        ends.link.reactor.run(read(), PATIENCE)


def test_it_is_refused_there_too_if_there_is_something_to_read_already(wired: Wired) -> None:
    ends = wired.ends

    async def read(method: str, *args: Any) -> None:
        stream = await ends.submit(f"S.{method}", *args)
        await until_async(lambda: stream._incoming._items)
        stream.read() if method == "in_memory" else next(stream)

    calls: list[tuple[str, Any]] = [("count", 1), ("in_memory", b"abc")]
    for method, arg in calls:
        with pytest.raises(BigmachineError, match=r"would block the event loop .* in a thread"):
            ends.link.reactor.run(read(method, arg), PATIENCE)
    calls = [("total_at_once", iter([1])), ("read_at_once", io.BytesIO(b"abc"))]
    for method, arg in calls:
        with pytest.raises(BigmachineError, match=f"reading the stream to S.{method} here would block"):
            wired.call(method, arg)


def test_streams_say_their_method_as_people_write_it(wired: Wired) -> None:
    name = f"@{Source.__module__}:Source.read_at_once"
    with pytest.raises(BigmachineError, match=r"reading the stream to Source\.read_at_once here"):
        wired.ends.call(name, io.BytesIO(b"abc"))


def test_an_item_that_is_made_arrives_before_the_next_one_is(wired: Wired) -> None:
    stream = wired.call("held")
    assert next(stream) == 1
    wired.source.go.set()
    assert list(stream) == [2]


def test_items_of_any_size_arrive_equal(wired: Wired) -> None:
    sizes = [0, 1, 5000, 70_000, 300_000, 10, WINDOW_BYTES + 5, 3]
    got = list(wired.call("items", *sizes))
    assert [len(item) for item in got] == sizes
    assert all(item == bytes([n]) * sizes[n] for n, item in enumerate(got))


def test_a_stream_that_has_ended_stays_ended(wired: Wired) -> None:
    stream = wired.call("count", 2)
    assert list(stream) == [0, 1]
    assert list(stream) == []
    assert next(stream, "none") == "none"


def test_a_stream_says_what_it_is(wired: Wired) -> None:
    stream = wired.call("count", 2)
    assert repr(stream).startswith("<Stream S.count on m1 #")


@pytest.mark.parametrize("method", ["tell_context", "tell_context_async"])
def test_a_producer_knows_its_call_and_deadline(wired: Wired, method: str) -> None:
    assert list(wired.call(method)) == [("driver", False)]
    assert list(wired.call(method, timeout=PATIENCE)) == [("driver", True)]


def test_a_stream_argument_is_made_with_the_variables_of_its_caller(wired: Wired) -> None:
    word: ContextVar[str] = ContextVar("word", default="none")
    word.set("the caller's")

    def plain() -> Iterator[object]:
        yield word.get(), get_deadline()
        word.set("its own")

    async def asynchronous() -> AsyncIterator[object]:
        await asyncio.sleep(0)
        yield word.get(), get_deadline()
        word.set("its own")

    with deadline(PATIENCE):
        for items in (plain(), asynchronous()):
            assert wired.call("collected", items) == [("the caller's", get_deadline())]
    assert word.get() == "the caller's"


def test_many_streams_flow_at_once(wired: Wired) -> None:
    streams = [wired.call("count", 300) for _ in range(50)]
    assert list(zip(*streams, strict=True)) == [(n,) * 50 for n in range(300)]


def test_threads_that_share_a_stream_get_every_item_once(wired: Wired) -> None:
    stream = wired.call("count", 5000)
    got: list[list[int]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(stream)) for mine in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sorted(itertools.chain(*got)) == list(range(5000))


# --- back-pressure


def test_a_producer_that_nobody_reads_stops_within_a_window_of_items(wired: Wired, endless: str) -> None:
    stream = wired.call(endless)
    assert steady(wired) == WINDOW_ITEMS
    assert len(stream._incoming._items) <= WINDOW_ITEMS


def test_a_producer_of_large_items_stops_within_a_window_of_bytes(wired: Wired, endless: str) -> None:
    stream = wired.call(endless, bytes(1 << 20))
    made = steady(wired)
    assert made * (1 << 20) <= WINDOW_BYTES + (1 << 20)
    assert made >= WINDOW_BYTES >> 20
    del stream


def test_reading_lets_the_producer_go_on_by_as_much(wired: Wired, endless: str) -> None:
    stream = wired.call(endless)
    for read in range(1, 1000):
        next(stream)
        if read % 100 == 0:  # credit comes back in quarters of the window
            least = read + WINDOW_ITEMS * 3 // 4
            until(lambda: wired.source.made >= least)  # noqa: B023 (called before `least` changes)
            assert steady(wired) <= read + WINDOW_ITEMS


def test_memory_does_not_grow_with_what_flows(wired: Wired) -> None:
    stream = wired.call("endless", bytes(100_000))
    for _ in range(200):
        next(stream)
    tracemalloc.start()
    try:
        for _ in range(300):
            next(stream)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * WINDOW_BYTES  # of 30 MB that went through


# --- the end, from the reader's side


def test_closing_a_stream_closes_its_producer(wired: Wired, endless: str) -> None:
    stream = wired.call(endless)
    next(stream)
    stream.close()
    assert wired.source.closed.wait(PATIENCE)
    assert list(stream) == []
    stream.close()


def test_dropping_a_stream_closes_its_producer(wired: Wired, endless: str) -> None:
    stream = wired.call(endless)
    next(stream)
    del stream
    assert wired.source.closed.wait(PATIENCE)


def test_leaving_a_loop_and_dropping_the_stream_closes_its_producer(wired: Wired, endless: str) -> None:
    for item in wired.call(endless):
        assert item == 0
        break
    assert wired.source.closed.wait(PATIENCE)


def test_leaving_the_block_of_a_stream_closes_its_producer(wired: Wired, endless: str) -> None:
    with wired.call(endless) as stream:
        next(stream)
    assert wired.source.closed.wait(PATIENCE)


def test_closing_an_async_read_closes_its_producer(wired: Wired, endless: str) -> None:
    async def read() -> None:
        stream = wired.call(endless)
        async with contextlib.aclosing(stream):
            async for _ in stream:
                break

    asyncio.run(read())
    assert wired.source.closed.wait(PATIENCE)


def test_closing_stops_a_producer_that_waits_for_something_else(wired: Wired) -> None:
    stream = wired.call("held_async")
    assert next(stream) == 1
    stream.close()
    assert wired.source.closed.wait(PATIENCE)


def test_a_plain_producer_that_is_busy_is_closed_when_it_comes_back(wired: Wired) -> None:
    stream = wired.call("held")
    assert next(stream) == 1
    stream.close()
    until(lambda: not any(channel.outgoing for channel in wired.ends.server.channels))
    assert not wired.source.closed.is_set()
    wired.source.go.set()
    assert wired.source.closed.wait(PATIENCE)


def test_a_reader_that_waits_ends_when_another_thread_closes_the_stream(wired: Wired) -> None:
    stream = wired.call("held")
    assert next(stream) == 1
    ended = threading.Event()

    def read() -> None:
        assert list(stream) == []
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: stream._incoming._waiting)
    stream.close()
    assert ended.wait(PATIENCE)
    reader.join()


@pytest.mark.parametrize("method", ["clean_up_late", "clean_up_late_async"])
def test_a_producers_finally_runs_in_its_call_and_without_its_deadline(wired: Wired, method: str) -> None:
    stream = wired.call(method, timeout=PATIENCE)
    next(stream)
    wired.call("count", 1, timeout=PATIENCE)
    stream.close()
    assert wired.source.closed.wait(PATIENCE)
    assert wired.source.seen == [None, "driver"]


def test_a_producer_whose_clean_up_raises_is_logged_and_harms_nobody(wired: Wired) -> None:
    class Unclean(Source):
        def endless(self, item: object = 0) -> Iterator[object]:
            try:
                yield from itertools.repeat(1)
            finally:
                raise ValueError("cannot clean up")

    wired.ends.server.table.register("U", Unclean())
    stream = wired.ends.call("U.endless")
    next(stream)
    stream.close()
    until(lambda: wired.ends.complaints)
    assert "closing the stream U.endless failed ValueError('cannot clean up')" in wired.ends.complaints[0]
    wired.ends.complaints.clear()
    assert list(wired.call("count", 2)) == [0, 1]


# --- the end, from the producer's side


@pytest.mark.parametrize("method", ["then_fail", "then_fail_async"])
@pytest.mark.parametrize("n", [0, 3, WINDOW_ITEMS, 1000])
def test_an_error_comes_after_the_items_before_it_and_is_typed(wired: Wired, method: str, n: int) -> None:
    stream = wired.call(method, n)
    assert list(itertools.islice(stream, n)) == list(range(n))
    with pytest.raises(KeyError, match="after items") as caught:
        next(stream)
    assert is_remote(caught.value)
    assert list(stream) == []


@pytest.mark.parametrize("method", ["bad_item", "bad_item_async"])
def test_an_item_that_cannot_be_pickled_is_an_error_after_the_items_before_and_closes_the_producer(
    wired: Wired, method: str
) -> None:
    stream = wired.call(method)
    assert next(stream) == 1
    with pytest.raises(InvalidCall, match=f"an item of the stream S.{method} cannot be pickled"):
        next(stream)
    assert wired.source.closed.wait(PATIENCE)


def test_an_item_that_cannot_be_rebuilt_is_an_error_after_the_items_before_and_closes_the_producer(
    wired: Wired,
) -> None:
    stream = wired.call("unbuildable")
    assert next(stream) == 1
    with pytest.raises(InvalidCall, match=r"could not be rebuilt here: LookupError: no such thing here"):
        next(stream)
    assert list(stream) == []
    assert wired.source.closed.wait(PATIENCE)


def test_system_exit_in_a_producer_ends_the_stream_alone(wired: Wired) -> None:
    stream = wired.call("quits")
    assert next(stream) == 1
    with pytest.raises(BigmachineError, match="SystemExit: 3"):
        next(stream)
    assert list(wired.call("count", 1)) == [0]


def test_an_item_above_the_readers_limit_is_an_error_and_closes_the_producer() -> None:
    source = Source()
    with memory({"S": source}, codec=Codec(limit=150_000)) as ends:
        stream = ends.call("S.large", 200_000)
        with pytest.raises(
            InvalidCall, match=r"an item of the stream .* has 200,\d+ bytes, above the limit of 150,000"
        ):
            next(stream)
        assert source.closed.wait(PATIENCE)


@pytest.mark.parametrize("method", ["held", "held_async"])
def test_when_the_link_is_lost_the_reader_is_told_after_its_items_and_the_producer_closed(
    wired: Wired, method: str
) -> None:
    stream = wired.call(method)
    until(lambda: stream._incoming._items)
    wired.ends.cut()
    assert next(stream) == 1
    with pytest.raises(NetworkError):
        next(stream)
    wired.source.go.set()
    assert wired.source.closed.wait(PATIENCE)


def test_when_the_link_is_closed_the_reader_gets_its_error() -> None:
    source = Source()
    with memory({"S": source}) as ends:
        stream = ends.call("S.held")
        assert next(stream) == 1
        ends.link.close(NetworkError("closed by the test"))
        with pytest.raises(NetworkError, match="closed by the test"):
            next(stream)
        source.go.set()
        assert source.closed.wait(PATIENCE)


# --- deadlines


@pytest.mark.parametrize("method", ["held", "held_async"])
def test_reading_ends_at_the_deadline_around_it(wired: Wired, method: str) -> None:
    stream = wired.call(method)
    with deadline(0.02):
        assert next(stream) == 1
        with pytest.raises(DeadlineExceeded, match="had no further item before the deadline"):
            next(stream)

    async def read() -> None:
        other = wired.call(method)
        with deadline(0.02):
            assert await anext(other) == 1
            with pytest.raises(DeadlineExceeded, match="had no further item before the deadline"):
                await anext(other)

    asyncio.run(read())


# --- bytes


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "data"
    file.write_bytes(os.urandom(3 * PIECE + 12_345))
    return str(file)


@pytest.mark.parametrize("method", ["file", "unbuffered"])
def test_a_file_arrives_as_a_readable_binary_file(wired: Wired, method: str, path: str) -> None:
    with wired.call(method, path) as file:
        assert type(file) is ByteStream
        assert file.readable()
        assert not file.seekable()
        assert not file.writable()
        assert file.read() == Path(path).read_bytes()
        assert file.read() == file.read(5) == b""
    assert file.closed


@pytest.mark.parametrize("size", [1, 1000, PIECE, 10 * PIECE])
def test_a_file_is_read_in_pieces_of_at_most_the_size_asked_for(wired: Wired, size: int, path: str) -> None:
    pieces = []
    data = Path(path).read_bytes()[: 200 * size]
    file = wired.call("in_memory", data)
    while piece := file.read(size):
        assert type(piece) is bytes
        assert len(piece) <= size
        pieces.append(piece)
    assert b"".join(pieces) == data


def test_a_file_can_be_read_into_memory_by_lines_and_through_a_buffer(wired: Wired, path: str) -> None:
    data = Path(path).read_bytes()
    buffer = bytearray(len(data))
    file = wired.call("file", path)
    at = 0
    while count := file.readinto(memoryview(buffer)[at:]):
        at += count
    assert buffer == data
    assert file.readinto(bytearray()) == 0
    assert list(wired.call("in_memory", b"one\ntwo\nthree")) == [b"one\n", b"two\n", b"three"]
    assert io.BufferedReader(wired.call("file", path)).read(1000) == data[:1000]


@pytest.mark.parametrize("data", [b"", b"x", bytes(4095), bytes(4096), bytes(PIECE), bytes(PIECE + 1)])
def test_files_of_any_size_arrive_equal(wired: Wired, data: bytes) -> None:
    assert wired.call("in_memory", data).read() == data
    assert wired.call("temporary", data).read() == data


def test_a_large_piece_is_handed_on_without_a_copy(wired: Wired) -> None:
    file = wired.call("in_memory", bytes(PIECE))
    file._fill()
    whole = file._left.obj
    assert file.read(PIECE) is whole


def test_fifty_megabytes_are_read_on_an_event_loop_piece_by_piece_and_hold_their_producer_back(wired: Wired) -> None:
    size = 50_000_000
    data = os.urandom(1000) * (size // 1000)
    told = (size, hashlib.sha256(data).hexdigest())

    async def read() -> tuple[int, str]:
        file = await wired.ends.submit("S.in_memory", data)
        assert type(await anext(aiter(file))) is bytes
        return await Source().sum_async(file)

    got, _ = asyncio.run(read())
    assert got == size - PIECE
    assert wired.call("sum_async", io.BytesIO(data)) == told
    file = io.BytesIO(data)
    call = wired.ends.submit("S.sum_async", file, rests=True)
    until(lambda: any(o._is_parked for o in wired.ends.link.outgoing.values()))
    assert WINDOW_BYTES < file.tell() <= 3 * WINDOW_BYTES
    wired.source.go.set()
    assert call.result(PATIENCE) == told


def test_a_file_is_read_by_both_ways_in_turns_and_not_when_closed(wired: Wired) -> None:
    async def read() -> list[bytes]:
        file = await wired.ends.submit("S.in_memory", b"abcdef")
        pieces = [await asyncio.to_thread(file.read, 2)]
        pieces += [piece async for piece in file]
        pieces += [piece async for piece in file]
        file.close()
        with pytest.raises(ValueError, match="closed"):
            await anext(aiter(file))
        return pieces

    assert asyncio.run(read()) == [b"ab", b"cdef"]


def test_a_file_that_arrived_is_a_file_to_whoever_it_is_passed_on_to(wired: Wired) -> None:
    assert wired.call("read", wired.call("in_memory", b"abc")) == b"abc"
    assert wired.call("sum_async", wired.call("in_memory", b"abc"))[0] == 3


def test_an_error_of_a_file_is_raised_by_async_for_after_what_came_before(wired: Wired) -> None:
    async def read() -> list[bytes]:
        pieces = aiter(await wired.ends.submit("S.failing_file"))
        read = [await anext(pieces), await anext(pieces)]
        with pytest.raises(OSError, match="the disk is broken"):
            await anext(pieces)
        return read

    assert asyncio.run(read()) == [b"x" * 10] * 2


def test_reading_nothing_gives_nothing(wired: Wired) -> None:
    file = wired.call("in_memory", b"abc")
    assert file.read(0) == b""
    assert file.read(None) == b"abc"


def test_a_closed_file_cannot_be_read(wired: Wired) -> None:
    file = wired.call("in_memory", b"abc")
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_a_file_that_is_closed_or_dropped_is_closed_on_the_other_side(wired: Wired) -> None:
    file = wired.call("zeros")
    assert file.read(10) == bytes(10)
    file.close()
    assert wired.source.closed.wait(PATIENCE)
    wired.source.closed.clear()
    file = wired.call("zeros")
    del file
    assert wired.source.closed.wait(PATIENCE)


def test_a_file_that_nobody_reads_is_read_on_within_a_window(wired: Wired) -> None:
    file = wired.call("zeros")
    assert steady(wired) * PIECE <= WINDOW_BYTES
    file.close()


def test_an_error_of_a_file_comes_after_what_was_read_before(wired: Wired) -> None:
    file = wired.call("failing_file")
    assert [file.read(100), file.read(100)] == [b"x" * 10, b"x" * 10]
    with pytest.raises(OSError, match="the disk is broken") as caught:
        file.read(100)
    assert is_remote(caught.value)


def test_stop_iteration_of_a_file_is_an_error_and_not_its_end(wired: Wired) -> None:
    with pytest.raises(RuntimeError, match="raised StopIteration"):
        wired.call("stopping_file").read()


def test_a_text_file_is_refused_because_only_bytes_travel(wired: Wired) -> None:
    with pytest.raises(InvalidCall, match=r"the result of S\.text_file cannot be pickled: .*TextIOWrapper"):
        wired.call("text_file")


# --- streams as arguments


def test_iterators_of_every_kind_are_streamed_to_the_method(wired: Wired) -> None:
    async def numbers() -> AsyncIterator[int]:
        for n in range(1000):
            yield n

    assert wired.call("total", iter(range(1000))) == 499_500
    assert wired.call("total", (n for n in range(1000))) == 499_500
    assert wired.call("total", numbers=iter(range(1000))) == 499_500
    assert wired.call("total", numbers()) == 499_500
    assert wired.call("total_async", iter(range(1000))) == 499_500
    assert wired.call("total_async", numbers()) == 499_500


def test_files_are_streamed_to_the_method_and_left_open(wired: Wired, path: str) -> None:
    with open(path, "rb") as file:
        assert wired.call("read", file) == Path(path).read_bytes()
        assert not file.closed
    assert wired.call("read", io.BytesIO(b"abc")) == b"abc"


def test_what_makes_a_stream_is_called_and_what_it_made_is_closed(wired: Wired, path: str) -> None:
    made: list[IO[bytes]] = []

    def make() -> IO[bytes]:
        made.append(open(path, "rb"))  # noqa: SIM115 (the library closes it)
        return made[-1]

    assert wired.call("read", make) == Path(path).read_bytes()
    until(lambda: made[0].closed)
    assert wired.call("total", lambda: iter([1, 2])) == 3


def test_a_stream_argument_that_the_method_lets_go_of_is_closed(wired: Wired) -> None:
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    assert wired.call("first", numbers()) == 0
    assert closed.wait(PATIENCE)


@pytest.mark.parametrize(
    ("method", "args"),
    [("nix", ()), ("_private", ()), ("first", (1, 2, 3)), ("first", (Unbuildable(),))],
    ids=["no such method", "private", "too many", "unbuildable"],
)
def test_a_stream_argument_of_a_call_that_is_refused_is_closed(wired: Wired, method: str, args: Any) -> None:
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    with pytest.raises(InvalidCall):
        wired.call(method, numbers(), *args)
    assert closed.wait(PATIENCE)
    until(wired.ends.is_idle)


def test_an_error_in_a_stream_argument_surfaces_in_the_method_typed(wired: Wired) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        wired.call("total", numbers())


def test_a_stream_goes_through_a_method_and_back(wired: Wired) -> None:
    assert list(wired.call("double", iter(range(1000)))) == [2 * n for n in range(1000)]


def test_a_stream_argument_is_held_back_by_its_reader(wired: Wired) -> None:
    made = 0

    def numbers() -> Iterator[int]:
        nonlocal made
        while made < 100_000:
            made += 1
            yield made

    doubled = wired.call("double", numbers())
    assert next(doubled) == 2
    until(lambda: any(o._is_parked for o in wired.ends.link.outgoing.values()))
    assert made <= 3 * WINDOW_ITEMS
    doubled.close()


def test_when_the_link_is_lost_a_stream_argument_is_closed(wired: Wired) -> None:
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    doubled = wired.call("double", numbers())
    next(doubled)
    wired.ends.cut()
    assert closed.wait(PATIENCE)
    with pytest.raises(NetworkError):
        list(doubled)


def test_values_that_are_no_streams_stay_values(wired: Wired) -> None:
    assert wired.call("kinds", [1], range(2), "x", b"y", {}, key=(1,)) == [
        "list", "range", "str", "bytes", "dict", "tuple",
    ]  # fmt: skip
    assert wired.call("kinds", iter([]), io.BytesIO(), key=iter([])) == ["Stream", "ByteStream", "Stream"]


# --- over TLS, by the bulk lane


def test_bytes_flow_by_the_bulk_lane_once_there_is_one_and_stay_in_order(path: str) -> None:
    source = Source()
    with tls({"S": source}) as ends:
        data = Path(path).read_bytes()
        assert ends.call("S.file", path).read() == data
        until(lambda: ends.link.bulk)
        before = ends.link.bulk.bytes_in if ends.link.bulk else 0
        for _ in range(5):
            assert ends.call("S.file", path).read() == data
            with open(path, "rb") as file:
                assert ends.call("S.read", file) == data
        assert ends.link.bulk is not None
        assert ends.link.bulk.bytes_in - before > 5 * len(data)
        assert list(ends.call("S.count", 1000)) == list(range(1000))


# --- the two tables by themselves


def test_an_item_of_a_stream_that_is_not_open_is_answered_by_close() -> None:
    host = Host()
    host.stream_frame(ITEM, 0, 5, memoryview(pickle.dumps(1)), None)
    assert host.sent == [small_frame(CLOSE, 0, 5)]


def test_frames_of_streams_that_are_over_are_ignored() -> None:
    host = Host()
    for kind in (END, CREDIT, CLOSE):
        host.stream_frame(kind, 0, 5, memoryview(b""), None)
    assert host.sent == []


def test_a_stream_whose_loop_has_ended_can_be_dropped() -> None:
    with memory({"S": Source()}) as ends:
        stream = ends.call("S.count", 5)
    assert isinstance(stream, Stream)
    stream.close()
    del stream  # nothing else refers to it: what a finaliser raised would be an error here


def test_what_a_pipe_holds_does_not_wait_for_more(wired: Wired) -> None:
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as writer:
        wired.source.pipe = reading
        file = wired.call("piped_file")
        for word in (b"one", b"two"):
            writer.write(word)
            assert file.read(100) == word
    assert file.read(100) == b""


def test_an_item_above_the_writers_limit_is_named_as_such() -> None:
    with (
        memory({"S": Source()}, codec=Codec(limit=100_000, machine="m1")) as ends,
        pytest.raises(InvalidCall, match=r"an item of the stream to m1 has 200,\d\d\d bytes, above the limit of 100"),
    ):
        ends.call("S.total", iter([bytes(200_000)]))
