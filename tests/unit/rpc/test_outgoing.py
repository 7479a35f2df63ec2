"""The writing end: it counts its credit rightly, ends only where its source does, and closes that once."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from bigmachine.rpc.context import deadline, get_deadline
from bigmachine.rpc.streams import outgoing as outgoing_module
from bigmachine.rpc.streams.outgoing import Outgoing
from bigmachine.rpc.streams.streamed import BYTES, ITEMS, PIECE, WINDOW_BYTES, WINDOW_ITEMS
from bigmachine.rpc.wire import END, ITEM, Decoder, Frame, small_frame
from tests.unit.rpc.ends import until
from tests.unit.rpc.stream_host import Host


def test_credit_that_comes_as_the_producer_stops_for_it_does_not_end_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host()
    many = 4 * WINDOW_ITEMS - 24
    outgoing = Outgoing(host, 1, iter(range(many)), ITEMS, "numbers")
    may_send = Outgoing._may_send

    def then_credit(self: Outgoing) -> bool:
        if may_send(self):
            return True
        if self._sent_items < many:  # as the reactor's thread does it meanwhile
            self.credit(10_000, 64)
        return False

    monkeypatch.setattr(Outgoing, "_may_send", then_credit)
    outgoing.start()
    host.run_jobs()
    assert host.kinds() == [ITEM] * many + [END]


def test_what_a_thread_makes_leaves_in_order_and_what_is_small_together() -> None:
    host = Host()
    large = np.ones(100_000, np.uint8)
    items = [1, 2, large, 3, large, large, 4, 5]
    outgoing = Outgoing(host, 1, iter(items), ITEMS, "items")
    outgoing.start()
    host.run_jobs()
    assert host.kinds() == [ITEM] * len(items) + [END]
    assert [type(sent) for sent in host.sent] == [bytes, list, bytes, list, list, bytes, bytes]
    decoder = Decoder(memoryview(bytearray(WINDOW_BYTES)))
    frames = _received(decoder, b"".join(b"".join(map(bytes, [s] if type(s) is bytes else s)) for s in host.sent))
    values = [host.codec.loads(payload, buffers) for kind, _, _, payload, buffers in frames if kind == ITEM]
    assert [value if type(value) is int else value.size for value in values] == [
        1,
        2,
        100_000,
        3,
        100_000,
        100_000,
        4,
        5,
    ]


def test_an_item_is_sent_while_the_next_one_is_waited_for() -> None:
    host = Host()
    go_on = threading.Event()

    def numbers() -> Iterator[int]:
        yield 1
        go_on.wait(10)
        yield 2

    outgoing = Outgoing(host, 1, numbers(), ITEMS, "numbers")
    outgoing.start()
    thread = threading.Thread(target=host.jobs.pop().run)
    thread.start()
    until(lambda: host.posts)
    host.work_off()
    assert host.kinds() == [ITEM]
    go_on.set()
    thread.join(10)
    host.run_jobs()
    assert host.kinds() == [ITEM, ITEM, END]


def _received(decoder: Decoder, data: bytes) -> list[Frame]:
    frames: list[Frame] = []
    while data:
        buffer = decoder.buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        data = data[count:]
        # Copied: what is small is valid until the next time.
        frames += [(k, f, i, bytearray(p), b) for k, f, i, p, b in decoder.received(count)]
    return frames


def test_credit_given_while_items_are_counted_is_never_lost() -> None:
    host = Host()
    outgoing = Outgoing(host, 1, iter(()), ITEMS, "numbers")
    rounds = 30_000
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def give() -> None:
            for _ in range(rounds):
                outgoing.credit(10, 1)

        giver = threading.Thread(target=give)
        giver.start()
        for _ in range(rounds):
            outgoing._count([b"01234", b"56789"])
        giver.join()
    finally:
        sys.setswitchinterval(interval)
    assert outgoing._granted_items - outgoing._sent_items == WINDOW_ITEMS
    assert outgoing._granted_bytes - outgoing._sent_bytes == WINDOW_BYTES


def test_a_source_that_fails_after_its_reader_has_gone_is_still_closed() -> None:
    host = Host()
    closed: list[bool] = []

    class Failing:
        def __next__(self) -> int:
            outgoing.close()  # the reader goes while it produces
            raise ValueError("too late")

        def close(self) -> None:
            closed.append(True)

    outgoing = Outgoing(host, 1, Failing(), ITEMS, "numbers")
    outgoing.start()
    host.run_jobs()
    assert closed == [True]
    assert host.sent == []


def test_the_source_is_closed_once_whether_parked_or_ended() -> None:
    for n in (0, 10, WINDOW_ITEMS, WINDOW_ITEMS + 1):
        host = Host()
        closed: list[int] = []

        class Counting:
            def __init__(self, n: int, closed: list[int]) -> None:
                self.left = n
                self.closed = closed

            def __next__(self) -> int:
                self.left -= 1
                if self.left < 0:
                    raise StopIteration
                return self.left

            def close(self) -> None:
                self.closed.append(1)

        outgoing = Outgoing(host, 1, Counting(n, closed), ITEMS, "numbers")
        outgoing.start()
        host.run_jobs()
        outgoing.close()
        outgoing.close()
        host.run_jobs()
        assert closed == [1], n
        assert host.outgoing == {}


class _ReadAlone(io.RawIOBase):
    def __init__(self) -> None:
        super().__init__()
        self.pieces = [b"abc", b"de", b""]

    def read(self, size: int | None = -1) -> bytes:
        return self.pieces.pop(0)


class _BufferedReadAlone(io.BufferedIOBase):
    def __init__(self) -> None:
        super().__init__()
        self.pieces = [b"abc", b"de", b""]

    def read(self, size: int | None = -1) -> bytes:
        return self.pieces.pop(0)


class _Changed(io.BytesIO):
    """Whoever overrides `read` alone means that, not what `read1` inherits."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size).replace(b"x", b"a")


class _Wrapper:
    def __init__(self, file: object) -> None:
        self._file = file

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


class _NotYet(io.BufferedIOBase):
    """Has a little now, and waits for the rest: `read` would not come back before all is there."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces = [b"abc", b"de", b""]

    def read1(self, size: int = -1) -> bytes:
        return self.pieces.pop(0)

    def read(self, size: int | None = -1) -> bytes:
        raise AssertionError("it would wait")


@pytest.mark.parametrize(
    "source",
    [_ReadAlone(), _BufferedReadAlone(), _Changed(b"xbcde"), _Wrapper(_BufferedReadAlone()), _NotYet()],
    ids=["raw", "buffered", "changed", "wrapper", "not yet"],
)
def test_a_file_is_read_by_what_gives_what_is_there_now_if_it_has_that(source: Any) -> None:
    host = Host()
    outgoing = Outgoing(host, 1, source, BYTES, "file")
    outgoing.start()
    host.run_jobs()
    assert host.kinds()[-1] == END
    assert b"".join(frame[24:] for frame in host.sent[:-1]) == b"abcde"


@pytest.mark.parametrize("n", [0, 10, WINDOW_ITEMS, WINDOW_ITEMS + 1])
@pytest.mark.parametrize("closes", [False, True])
def test_it_says_once_that_its_source_is_through(n: int, closes: bool) -> None:
    host = Host()
    done: list[int] = []
    source = (i for i in range(n))
    outgoing = Outgoing(host, 1, source, ITEMS, "numbers", closes=closes, done=lambda: done.append(1))
    outgoing.start()
    assert done == []
    host.run_jobs()
    assert done == ([] if n >= WINDOW_ITEMS else [1])
    outgoing.close()
    host.run_jobs()
    assert done == [1]


@pytest.mark.parametrize("kind", [ITEMS, BYTES])
def test_all_frames_of_a_stream_go_by_the_lane_that_there_was_at_its_start(kind: str) -> None:
    host = Host()
    assert not Outgoing(host, 1, iter(()), kind, "numbers").is_bulk
    host.has_bulk = True
    assert Outgoing(host, 1, iter(()), kind, "numbers").is_bulk


def test_a_generator_sets_and_resets_a_deadline_although_each_of_its_turns_is_in_another_thread() -> None:
    host = Host()
    seen: list[bool] = []

    def numbers() -> Iterator[int]:
        with deadline(60):
            yield from range(WINDOW_ITEMS)
            seen.append(get_deadline() is not None)
            yield 0
        seen.append(get_deadline() is not None)

    outgoing = Outgoing(host, 1, numbers(), ITEMS, "numbers")
    outgoing.start()
    while host.jobs or host.posts:
        for job in host.jobs:
            thread = threading.Thread(target=job.run)
            thread.start()
            thread.join()
        host.jobs.clear()
        host.work_off()
        if outgoing._is_parked:
            outgoing.credit(100_000, 2)
    assert seen == [True, False]
    assert len(host.sent[-1]) == len(small_frame(END, 0, 1))  # without an error


def test_a_file_in_memory_is_sent_from_where_it_is_and_what_is_written_later_comes_later() -> None:
    host = Host()
    data = bytes(PIECE) * 2
    file = io.BytesIO(data)
    file.seek(10)
    outgoing = Outgoing(host, 1, file, BYTES, "file")
    outgoing._granted_bytes = 1  # one piece
    outgoing.start()
    host.run_jobs()
    (_, piece) = host.sent.pop()
    assert np.shares_memory(np.frombuffer(piece, np.uint8), np.frombuffer(data, np.uint8))
    assert file.tell() == 10 + len(piece) == 10 + PIECE
    file.getbuffer()[:] = b"x" * len(data)
    assert piece == bytes(PIECE)
    outgoing.credit(3 * PIECE, 2)
    host.run_jobs()
    assert host.sent[0][1] == b"x" * (PIECE - 10)
    assert host.kinds() == [ITEM, END]
    assert file.closed


def waits_after(outgoing: Outgoing, sent: int) -> bool:
    return outgoing._is_waiting and outgoing._sent_items == sent


def test_a_thread_that_gets_credit_soon_goes_on_itself_and_one_that_gets_none_goes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing_module, "_PATIENCE", 10.0)
    host = Host()
    outgoing = Outgoing(host, 1, iter(range(3 * WINDOW_ITEMS)), ITEMS, "numbers")
    outgoing.start()
    thread = threading.Thread(target=host.jobs.pop().run)
    thread.start()
    for sent in (WINDOW_ITEMS, 2 * WINDOW_ITEMS):
        until(partial(waits_after, outgoing, sent))
        outgoing.credit(100_000, WINDOW_ITEMS)
    until(partial(waits_after, outgoing, 3 * WINDOW_ITEMS))
    monkeypatch.setattr(outgoing_module, "_PATIENCE", 0.001)
    outgoing.credit(100_000, 0)  # of bytes alone
    thread.join(10)
    assert not thread.is_alive()
    host.work_off()
    assert outgoing._is_parked
    assert host.kinds() == [ITEM] * 3 * WINDOW_ITEMS
    outgoing.credit(0, 1)
    host.run_jobs()
    assert host.kinds()[-1] == END


def test_closing_a_stream_frees_the_thread_that_waits_for_its_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing_module, "_PATIENCE", 10.0)
    host = Host()
    ended = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    outgoing = Outgoing(host, 1, numbers(), ITEMS, "numbers")
    outgoing.start()
    thread = threading.Thread(target=host.jobs.pop().run)
    thread.start()
    until(lambda: outgoing._is_waiting)
    outgoing.close()
    thread.join(5)
    assert not thread.is_alive()
    host.run_jobs()
    assert ended.is_set()
