"""A link that waits and hears nothing is pinged, then replaced; one that hears something, and is heard, is believed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bigmachine.rpc.heartbeat import Heartbeat, Next, bytes_taken, decide, is_held_up
from bigmachine.rpc.wire import PING


@pytest.mark.parametrize(
    ("is_waiting", "is_well", "has_pinged", "what"),
    [
        (False, False, False, Next.REST),
        (False, False, True, Next.REST),
        (False, True, False, Next.REST),
        (False, True, True, Next.REST),
        (True, True, False, Next.REST),
        (True, True, True, Next.REST),
        (True, False, False, Next.PING),
        (True, False, True, Next.REPLACE),
    ],
)
def test_what_to_do_at_a_beat(is_waiting: bool, is_well: bool, has_pinged: bool, what: Next) -> None:
    assert decide(is_waiting, is_well, has_pinged) is what


class Link:
    """A link whose clock the test holds in its hand."""

    def __init__(self) -> None:
        self.reactor = cast(Any, self)
        self.loop = self
        self.main: Any = self
        self.waits = True
        self.heard = 0
        self.taken = 0
        self.held_up = False
        self.answers = asyncio.Event()  # whoever is dialled
        self.answers.set()
        self.story: list[str] = []
        self.timers: list[Callable[[], None]] = []
        self.replacing: asyncio.Task[Any] | None = None
        self.heartbeat = Heartbeat(self)

    # the loop's part

    def call_later(self, delay: float, ring: Callable[[], None]) -> Link:
        self.timers.append(ring)
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def beat(self) -> None:
        (ring,) = self.timers
        self.timers.clear()
        ring()

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        self.replacing = asyncio.get_running_loop().create_task(coroutine)
        return self.replacing

    # the link's

    def send(self, data: bytes) -> None:
        assert data[6] == PING
        self.story.append("ping")

    def is_waiting(self) -> bool:
        return self.waits

    def bytes_heard(self) -> int:
        return self.heard

    def bytes_taken(self) -> int:
        return self.taken

    def is_held_up(self) -> bool:
        return self.held_up

    def doubt(self, is_heard: bool = False) -> None:
        self.story.append("doubt what is heard" if is_heard else "doubt")

    def believe(self) -> None:
        self.story.append("believe")

    async def replace(self) -> bool:
        self.story.append("replace")
        await self.answers.wait()
        return True


def test_a_link_that_waits_in_silence_is_pinged_and_doubted_then_replaced() -> None:
    async def scenario() -> None:
        link = Link()
        link.heartbeat.start()
        link.heartbeat.start()
        for _ in range(2):
            link.beat()
        assert link.replacing is not None
        await link.replacing
        assert link.story == ["ping", "doubt", "doubt", "replace"]

    asyncio.run(scenario())


def test_a_link_that_hears_something_is_never_pinged() -> None:
    link = Link()
    link.heartbeat.start()
    for _ in range(5):
        link.heard += 1
        link.beat()
    assert link.story == ["believe"] * 5


def test_an_answer_to_the_ping_is_as_good_as_any() -> None:
    link = Link()
    link.heartbeat.start()
    link.beat()
    link.heard += 16
    link.beat()
    link.beat()
    assert link.story == ["ping", "doubt", "believe", "ping", "doubt"]


def test_a_link_that_is_heard_but_does_not_get_through_is_doubted_until_it_does() -> None:
    async def scenario() -> None:
        link = Link()
        link.heartbeat.start()
        link.beat()
        link.held_up = True
        for _ in range(2):
            link.heard += 16
            link.beat()
            assert link.replacing is not None
            await link.replacing
        link.held_up = False
        link.heard += 16
        link.beat()
        assert link.story == ["ping", "doubt", *["doubt what is heard", "replace"] * 2, "believe"]

    asyncio.run(scenario())


def test_a_link_is_not_doubted_while_the_peer_takes_what_is_queued() -> None:
    link = Link()
    link.heartbeat.start()
    for taken in (2**20, 2**21, 0):  # the last of it is written
        link.taken = taken
        link.beat()
    assert link.story == ["believe"] * 3
    link.beat()
    assert link.story[3:] == ["ping", "doubt"]


def test_a_link_whose_queue_stands_still_is_doubted() -> None:
    link = Link()
    link.taken = 2**20
    link.heartbeat.start()
    link.beat()
    assert link.story == ["ping", "doubt"]


def test_a_link_that_is_heard_all_along_is_not_doubted_for_a_packet_that_was_lost() -> None:
    link = Link()
    link.heartbeat.start()
    link.held_up = True
    for _ in range(3):
        link.heard += 16
        link.beat()
    assert link.story == ["believe"] * 3


def test_an_attempt_that_is_begun_anew_takes_the_place_of_the_one_before() -> None:
    async def scenario() -> None:
        link = Link()
        link.answers.clear()
        link.heartbeat.dial()
        first = link.replacing
        link.heartbeat.dial()
        assert link.replacing is first
        await asyncio.sleep(0)
        link.heartbeat.dial(is_anew=True)
        second = link.replacing
        assert first is not None
        await asyncio.wait([first])
        assert first.cancelled()
        link.heartbeat.dial()  # the end of the first one is not taken for the second's
        assert link.replacing is second
        link.answers.set()
        assert second is not None
        await second
        assert link.story == ["replace"] * 2
        link.heartbeat.dial()
        assert link.replacing is not second
        assert link.replacing is not None
        await link.replacing

    asyncio.run(scenario())


def _over(sock: socket.socket | None) -> Any:
    """Make what is asked of a connection."""
    return SimpleNamespace(extra={"socket": sock}.get, bytes_out=7, is_queueing=False)


def test_whether_what_was_sent_is_acknowledged_is_asked_of_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        connection = _over(sock)
        sock.sendall(b"taken, though nobody reads it")
        assert not is_held_up(connection)
    assert not is_held_up(connection)  # closed
    assert not is_held_up(_over(None))  # within a process


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel is not asked")
def test_how_much_the_peer_has_taken_is_asked_of_the_kernel_while_more_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        peer, _ = listener.accept()
        with peer:
            sock.sendall(bytes(100))
            assert peer.recv(100, socket.MSG_WAITALL) == bytes(100)
            connection = _over(sock)
            assert bytes_taken(connection) == 0
            connection.is_queueing = True
            assert 100 <= bytes_taken(connection) <= 101  # the first SYN is one
            connection.is_queueing = False
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.send(bytes(2**16))
            before = bytes_taken(connection)
            assert before > 100  # the peer's buffer is full, and more waits in the kernel
            peer.recv(2**20)
            end = time.monotonic() + 10
            while bytes_taken(connection) == before and time.monotonic() < end:
                peer.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    peer.recv(2**20)
            assert bytes_taken(connection) != before


def test_what_was_written_counts_where_the_kernel_does_not_tell_what_was_taken() -> None:
    connection = _over(None)
    assert bytes_taken(connection) == 0
    connection.is_queueing = True
    assert bytes_taken(connection) == 7


def test_it_is_known_when_something_was_heard_the_last_time() -> None:
    link = Link()
    link.heartbeat.start()
    link.beat()
    assert link.heartbeat.heard_at == 0
    before = time.monotonic()
    link.heard += 16
    link.beat()
    heard_at = link.heartbeat.heard_at
    link.beat()
    assert before <= heard_at == link.heartbeat.heard_at


def test_a_link_that_waits_for_nothing_is_left_alone_and_watched_again_when_it_does() -> None:
    link = Link()
    link.heartbeat.start()
    link.waits = False
    link.beat()
    assert link.timers == []
    assert not link.heartbeat.is_on
    link.waits = True
    link.heartbeat.start()
    link.beat()
    assert link.story == ["believe", "ping", "doubt"]


def test_only_one_replacement_is_tried_at_a_time_and_the_next_one_when_it_failed() -> None:
    async def scenario() -> None:
        link = Link()
        link.heartbeat.start()
        for _ in range(4):
            link.beat()
        await asyncio.sleep(0)
        assert link.story.count("replace") == 1
        link.beat()
        await asyncio.sleep(0)
        assert link.story.count("replace") == 2

    asyncio.run(scenario())


def test_stopping_ends_the_watch_and_the_replacement() -> None:
    async def scenario() -> None:
        link = Link()
        link.heartbeat.start()
        for _ in range(2):
            link.beat()
        link.heartbeat.stop()
        assert link.timers == []
        assert link.replacing is not None
        await asyncio.wait([link.replacing])
        assert link.replacing.cancelled()

    asyncio.run(scenario())
