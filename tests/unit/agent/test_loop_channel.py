"""A channel on an event loop never blocks, keeps order, and leaves no file open."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bigmachine.agent.processes.control import BlockingChannel, Message
from bigmachine.agent.processes.loop_channel import LoopChannel
from bigmachine.agent.processes.reserve import Reserve


class Ends:
    """A channel under test, a blocking one at the other end, and what arrived."""

    def __init__(self, reserve: Reserve | None = None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.got: list[Message] = []
        self.arrived = asyncio.Event()
        self.ended = asyncio.Event()
        self.peer = BlockingChannel(theirs)
        self.channel = LoopChannel(ours, asyncio.get_running_loop(), self._on_message, self.ended.set, reserve=reserve)

    def _on_message(self, message: Message) -> None:
        self.got.append(message)
        self.arrived.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.got) < count:
                self.arrived.clear()
                await self.arrived.wait()

    def close(self) -> None:
        self.channel.close()
        self.peer.close()


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    """Have this process open no further file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_messages_arrive_in_both_directions() -> None:
    async def main() -> None:
        ends = Ends()
        ends.peer.send({"k": "a"})
        ends.peer.send({"k": "b"})
        await ends.wait_for(2)
        assert [message.kind for message in ends.got] == ["a", "b"]
        ends.channel.send({"k": "c"})
        received = ends.peer.receive()
        assert received is not None
        assert received.kind == "c"
        ends.close()

    asyncio.run(main())


def test_a_peer_that_does_not_read_makes_messages_wait_and_keeps_their_order_and_files() -> None:
    async def main() -> None:
        ends = Ends()
        padding = "x" * 20_000
        for i in range(100):
            read, write = os.pipe()
            os.write(write, b"%d" % i)
            os.close(write)
            ends.channel.send({"k": "m", "n": i, "padding": padding}, (read,))
        assert ends.channel.backlog > 0

        def read_all() -> list[tuple[int, bytes]]:
            found = []
            for _ in range(100):
                message = ends.peer.receive()
                assert message is not None
                with os.fdopen(message.fds[0], "rb") as file:
                    found.append((message.number("n"), file.read()))
            return found

        found = await asyncio.wait_for(asyncio.to_thread(read_all), 10)
        assert found == [(i, b"%d" % i) for i in range(100)]
        assert ends.channel.backlog == 0
        ends.close()

    asyncio.run(main())


def test_the_end_is_told_once_and_after_what_came_before_it() -> None:
    async def main() -> None:
        ends = Ends()
        ends.peer.send({"k": "last words"})
        ends.peer.close()
        async with asyncio.timeout(5):
            await ends.ended.wait()
        assert [message.kind for message in ends.got] == ["last words"]
        assert not ends.channel.is_open
        ends.channel.send({"k": "too late"})
        ends.close()

    asyncio.run(main())


def test_nonsense_ends_the_channel() -> None:
    async def main() -> None:
        ends = Ends()
        ends.peer.socket.send(b"nonsense\n")
        async with asyncio.timeout(5):
            await ends.ended.wait()
        ends.close()

    asyncio.run(main())


@pytest.mark.parametrize("when", ["queued", "closed", "peer gone"])
def test_files_that_cannot_be_sent_are_closed(when: str) -> None:
    async def main() -> None:
        before = open_files()
        ends = Ends()
        if when == "peer gone":
            ends.peer.close()
        if when == "closed":
            ends.channel.close()
        for _ in range(20):
            ends.channel.send({"k": "m", "padding": "x" * 50_000}, (os.dup(0),))
        ends.close()
        assert open_files() == before

    asyncio.run(main())


def test_with_a_reserve_a_file_comes_even_if_no_descriptor_is_free() -> None:
    async def main() -> None:
        reserve = Reserve()
        ends = Ends(reserve)
        ends.peer.send({"k": "conn"}, [0])
        with no_descriptor_free():
            await ends.wait_for(1)
            (message,) = ends.got
            assert len(message.fds) == 1
            assert not reserve.take(), "the file has taken its place"
            os.close(message.fds[0])
            assert reserve.take()
        reserve.let_go()
        ends.close()

    before = open_files()
    asyncio.run(main())
    assert open_files() == before


def test_with_a_reserve_and_descriptors_both_are_had() -> None:
    async def main() -> None:
        reserve = Reserve()
        ends = Ends(reserve)
        for _ in range(3):
            ends.peer.send({"k": "conn"}, [0])
        await ends.wait_for(3)
        assert reserve.take()
        for message in ends.got:
            os.close(message.fds[0])
        reserve.let_go()
        ends.close()

    before = open_files()
    asyncio.run(main())
    assert open_files() == before
