"""What is written when: a lone frame at once, many in one write, large ones piece by piece, and all of it in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from bigmachine.rpc.codec import Codec
from bigmachine.rpc.complaints import Complaints
from bigmachine.rpc.connection import CHUNK, Connection
from bigmachine.rpc.polling import PollingLoop
from bigmachine.rpc.turns import Turns
from bigmachine.rpc.wire import CALL, PING, Frame, WireError, small_frame


class Reactor:
    """An event loop whose turns the test takes."""

    def __init__(self) -> None:
        self.loop = self
        self.corked = False
        self.dirty: list[Connection] = []
        self.connections: set[Connection] = set()
        self.scratch = memoryview(bytearray(1 << 16))
        self.recycler = self
        self.turns = Turns(None)
        self.complaints = Complaints(logging.getLogger("bigmachine.rpc"))
        self.polling = PollingLoop(cast(asyncio.AbstractEventLoop, self))
        self._soon: list[Callable[[], None]] = []

    def allocate(self, size: int, as_bytes: bool) -> tuple[bytes | bytearray, memoryview]:
        memory = bytearray(size)
        return memory, memoryview(memory)

    def call_soon(self, function: Callable[[], None]) -> None:
        self._soon.append(function)

    def turn(self) -> None:
        soon, self._soon = self._soon, []
        for function in soon:
            function()

    def uncork(self) -> None:
        self.corked = False
        dirty, self.dirty = self.dirty, []
        for connection in dirty:
            connection.flush()


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.objects: list[Any] = []
        self.writes: list[bytes] = []
        self.reading = True
        self.ended = ""
        self.full_at: int | None = None
        self.protocol: Connection | None = None

    def write(self, data: Any) -> None:
        self.objects.append(data)
        self.writes.append(bytes(data))
        if self.full_at is not None and len(self.writes) == self.full_at:
            assert self.protocol is not None
            self.protocol.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1)}.get(name, default)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.ended != ""

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Receiver:
    codec = Codec(limit=100_000)

    def __init__(self) -> None:
        self.got: list[tuple[int, int]] = []
        self.losses: list[Exception | None] = []
        self.answer: Callable[[Connection], None] | None = None

    def __str__(self) -> str:
        return "machine m7"

    def frames(self, connection: Connection, frames: list[Frame]) -> None:
        for kind, _, ident, _, _ in frames:
            self.got.append((kind, ident))
            if self.answer is not None:
                self.answer(connection)

    def lost(self, connection: Connection, error: Exception | None) -> None:
        self.losses.append(error)


class Bench:
    def __init__(self) -> None:
        self.reactor = Reactor()
        self.receiver = Receiver()
        self.transport = Transport()
        self.connection = Connection(cast(Any, self.reactor), self.receiver)
        self.connection.connection_made(self.transport)
        self.transport.protocol = self.connection

    def receive(self, data: bytes) -> None:
        buffer = self.connection.get_buffer(-1)
        buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- small frames


def test_a_lone_frame_is_written_at_once(bench: Bench) -> None:
    bench.connection.send(b"one")
    assert bench.transport.writes == [b"one"]
    bench.reactor.turn()
    bench.connection.send(b"two")
    assert bench.transport.writes == [b"one", b"two"]


def test_one_that_falls_silent_sends_what_it_had_and_nothing_more(bench: Bench) -> None:
    frames = [small_frame(CALL, 0, ident, b"x") for ident in range(3)]
    bench.connection.send(frames[0])
    bench.connection.send(frames[1])
    bench.connection.fall_silent()
    bench.connection.send(frames[2])
    bench.connection.send_large([frames[2], bytes(CHUNK)])
    bench.reactor.turn()
    assert b"".join(bench.transport.writes) == frames[0] + frames[1]


def test_further_frames_of_a_turn_leave_in_one_write_at_its_end(bench: Bench) -> None:
    for data in (b"1", b"2", b"3", b"4"):
        bench.connection.send(data)
    assert bench.transport.writes == [b"1"]
    bench.reactor.turn()
    assert bench.transport.writes == [b"1", b"234"]


def test_what_is_sent_while_corked_leaves_in_one_write(bench: Bench) -> None:
    bench.reactor.corked = True
    for data in (b"1", b"2", b"3"):
        bench.connection.send(data)
    assert bench.transport.writes == []
    assert bench.reactor.dirty == [bench.connection]
    bench.reactor.uncork()
    assert bench.transport.writes == [b"123"]
    bench.connection.flush()
    assert bench.transport.writes == [b"123"]


def test_answers_to_a_batch_of_frames_leave_in_one_write(bench: Bench) -> None:
    bench.receiver.answer = lambda connection: connection.send(b"a")
    bench.receive(small_frame(PING, 0, 1) * 5)
    assert bench.receiver.got == [(PING, 1)] * 5
    assert bench.transport.writes == [b"aaaaa"]
    assert not bench.reactor.corked


def test_within_a_batch_of_posts_a_batch_of_frames_does_not_uncork(bench: Bench) -> None:
    bench.reactor.corked = True
    bench.receiver.answer = lambda connection: connection.send(b"a")
    bench.receive(small_frame(PING, 0, 1))
    assert bench.transport.writes == []
    assert bench.reactor.corked


def test_all_frames_leave_in_the_order_they_were_sent_in(bench: Bench) -> None:
    sent = b""
    for n in range(500):
        data = b"%d," % n
        sent += data
        if n % 7 == 0:
            bench.reactor.corked = not bench.reactor.corked
            if not bench.reactor.corked:
                bench.reactor.uncork()
        if n % 11 == 0:
            bench.reactor.turn()
        if n % 13 == 0:
            bench.connection.send_large([data])
        else:
            bench.connection.send(data)
    bench.reactor.uncork()
    for _ in range(200):
        bench.reactor.turn()
    assert b"".join(bench.transport.writes) == sent
    assert bench.connection.bytes_out == len(sent)


# --- large frames


def test_a_large_frame_leaves_in_chunks_one_a_turn(bench: Bench) -> None:
    data = bytes(range(256)) * (5 * CHUNK // 512)
    bench.connection.send_large([b"head", data])
    assert bench.transport.writes == [b"head"]
    for count in (2, 3, 4):
        bench.reactor.turn()
        assert len(bench.transport.writes) == count
    bench.reactor.turn()
    assert b"".join(bench.transport.writes) == b"head" + data
    assert max(map(len, bench.transport.writes)) == CHUNK


def test_a_large_frame_is_not_copied(bench: Bench) -> None:
    written = bench.transport.objects
    data = bytearray(CHUNK)
    bench.connection.send_large([b"head", data])
    bench.reactor.turn()
    assert [view.obj for view in written] == [b"head", data]
    assert written[1].obj is data


def test_a_small_frame_that_comes_while_a_large_one_is_under_way_waits_behind_it(bench: Bench) -> None:
    bench.connection.send_large([bytes(2 * CHUNK)])
    bench.connection.send(b"behind")
    for _ in range(3):
        bench.reactor.turn()
    assert [len(data) for data in bench.transport.writes] == [CHUNK, CHUNK, len(b"behind")]


def test_a_full_transport_stops_a_large_frame_until_it_has_room(bench: Bench) -> None:
    bench.transport.full_at = 2
    bench.connection.send_large([bytes(5 * CHUNK)])
    for _ in range(5):
        bench.reactor.turn()
    assert len(bench.transport.writes) == 2
    assert not bench.connection.is_writable
    bench.connection.send_large([b"next"])
    bench.reactor.turn()
    assert len(bench.transport.writes) == 2
    bench.connection.resume_writing()
    for _ in range(5):
        bench.reactor.turn()
    assert [len(data) for data in bench.transport.writes] == [CHUNK] * 5 + [4]


# --- reading


def test_frames_are_handed_on_as_they_become_complete(bench: Bench) -> None:
    data = small_frame(PING, 0, 1) + small_frame(CALL, 0, 2, b"payload")
    bench.receive(data[:20])
    assert bench.receiver.got == [(PING, 1)]
    bench.receive(data[20:])
    assert bench.receiver.got == [(PING, 1), (CALL, 2)]
    assert bench.connection.bytes_in == len(data)


def test_what_is_no_frame_ends_the_connection_with_the_reason(bench: Bench) -> None:
    bench.receive(b"GET / HTTP/1.1\r\n\r\n")
    assert bench.transport.ended == "aborted"
    bench.connection.connection_lost(None)
    (error,) = bench.receiver.losses
    assert isinstance(error, WireError)


def test_a_frame_that_the_receiver_cannot_take_ends_the_connection_with_the_reason(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(connection: Connection) -> None:
        raise KeyError("odd")

    bench.receiver.answer = fail
    with caplog.at_level(logging.WARNING, "bigmachine.rpc"):
        bench.receive(small_frame(PING, 0, 1))
    assert bench.transport.ended == "aborted"
    assert not bench.reactor.corked
    bench.connection.connection_lost(None)
    (error,) = bench.receiver.losses
    assert "a frame could not be understood: KeyError: 'odd'" in str(error)
    (record,) = caplog.records
    assert "the connection of machine m7 ends" in record.getMessage()
    assert "KeyError: 'odd'" in record.getMessage()
    assert record.exc_info is None


def test_frames_that_cannot_be_taken_do_not_flood_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(connection: Connection) -> None:
        raise KeyError("odd")

    bench.receiver.answer = fail
    with caplog.at_level(logging.WARNING, "bigmachine.rpc"):
        for _ in range(100):
            bench.receive(small_frame(PING, 0, 1))
    assert 1 <= len(caplog.records) <= 5


def test_a_server_stops_reading_from_a_peer_that_does_not_read(bench: Bench) -> None:
    bench.connection.pause_writing()
    assert bench.transport.reading
    bench.connection.resume_writing()
    bench.connection.stops_reading_when_full = True
    bench.connection.pause_writing()
    assert not bench.transport.reading
    bench.connection.resume_writing()
    assert bench.transport.reading


# --- the end


def test_closing_writes_what_was_gathered_first(bench: Bench) -> None:
    bench.connection.send(b"1")
    bench.connection.send(b"2")
    bench.connection.close()
    assert bench.transport.writes == [b"1", b"2"]
    assert bench.transport.ended == "closed"


def test_aborting_keeps_the_first_reason(bench: Bench) -> None:
    first, second = ValueError("first"), ValueError("second")
    bench.connection.abort(first)
    bench.connection.abort(second)
    bench.connection.connection_lost(OSError("third"))
    assert bench.receiver.losses == [first]
    assert bench.connection.error is first


def test_a_lost_connection_is_told_with_the_transports_reason_and_takes_nothing_any_more(bench: Bench) -> None:
    assert bench.connection.is_open
    assert bench.connection.extra("peername") == ("127.0.0.1", 1)
    assert bench.reactor.connections == {bench.connection}
    bench.connection.send(b"1")
    bench.connection.send(b"lost")
    reason = ConnectionResetError()
    bench.connection.connection_lost(reason)
    assert bench.receiver.losses == [reason]
    assert not bench.connection.is_open
    assert bench.connection.extra("peername") is None
    assert bench.reactor.connections == set()
    bench.connection.send(b"2")
    bench.connection.send_large([bytes(CHUNK)])
    bench.connection.close()
    bench.connection.abort()
    bench.reactor.turn()
    assert bench.transport.writes == [b"1"]


def test_what_is_held_leaves_together_at_the_end_of_the_tick(bench: Bench) -> None:
    bench.connection.hold()
    for ident in range(3):
        bench.connection.send(small_frame(PING, 0, ident))
    assert bench.transport.writes == []
    bench.reactor.turn()
    assert bench.transport.writes == [b"".join(small_frame(PING, 0, ident) for ident in range(3))]
    bench.connection.send(small_frame(PING, 0, 3))
    assert len(bench.transport.writes) == 2  # the next tick is another one


def test_nothing_is_written_to_what_its_peer_has_closed() -> None:
    """The transport would warn of each write, until it says that the connection is lost."""
    bench = Bench()
    bench.transport.ended = "by its peer"
    bench.connection.send(b"small")
    bench.connection.send_large([b"x" * 100_000])
    bench.connection.send(b"behind it")
    bench.connection.flush()
    assert bench.transport.writes == []
    bench.connection.connection_lost(None)
    assert bench.receiver.losses == [None]
