"""Connections within a process behave as those over a network do: in order, held back by the reader, and lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from bigmachine.errors import NetworkError
from bigmachine.rpc import Codec, Reactor, Server, ServiceTable
from bigmachine.rpc.connection import Connection
from bigmachine.rpc.memory import MemoryDialer
from bigmachine.rpc.wire import ITEM, Frame, head, small_frame
from tests.unit.rpc.ends import DRIVER, until_async


class Receiver:
    codec = Codec()

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.losses: list[Exception | None] = []
        self.then: Callable[[Connection], None] | None = None

    def frames(self, connection: Connection, frames: list[Frame]) -> None:
        for _, _, _, payload, buffers in frames:
            self.got.append(bytes(payload) + b"".join(map(bytes, buffers or ())))
            if self.then is not None:
                self.then(connection)
                self.then = None

    def lost(self, connection: Connection, error: Exception | None) -> None:
        self.losses.append(error)


class Pair:
    """Both ends of a connection, and what arrives at each."""

    def __init__(self, here: Connection, there: Connection, near: Receiver, far: Receiver) -> None:
        self.here = here
        self.there = there
        self.near = near
        self.far = far


async def connected() -> Pair:
    reactor = Reactor(asyncio.get_running_loop())
    server = Server(ServiceTable(), reactor=reactor)
    near, far = Receiver(), Receiver()
    here = await MemoryDialer(server, DRIVER, "m1").dial(reactor, near)
    (channel,) = server.channels
    assert channel.main is not None
    channel.main.receiver = far
    return Pair(here, channel.main, near, far)


def run(scenario: Callable[[Pair], Any]) -> None:
    async def whole() -> None:
        pair = await connected()
        await scenario(pair)
        pair.here.abort()
        await until_async(lambda: pair.near.losses and pair.far.losses)

    asyncio.run(whole())


def test_bytes_arrive_in_order_whatever_their_size() -> None:
    async def scenario(pair: Pair) -> None:
        large = bytes(range(256)) * 8000
        for _ in range(3):
            pair.here.send(small_frame(ITEM, 0, 1, b"small"))
            pair.here.send_large([head(ITEM, 0, 1, b"", [len(large)]), large])
        await until_async(lambda: len(pair.far.got) == 6)
        assert pair.far.got == [b"small", large] * 3
        pair.there.send(small_frame(ITEM, 0, 1, b"back"))
        await until_async(lambda: pair.near.got)
        assert pair.near.got == [b"back"]

    run(scenario)


def test_a_reader_that_pauses_holds_the_writer_back() -> None:
    async def scenario(pair: Pair) -> None:
        assert pair.there._transport is not None
        pair.there._transport.pause_reading()
        piece = bytes(1 << 20)
        for _ in range(4):
            pair.here.send_large([head(ITEM, 0, 1, b"", [len(piece)]), piece])
        for _ in range(50):
            await asyncio.sleep(0)
        assert not pair.here.is_writable
        assert pair.here.bytes_out < 2 << 20
        assert pair.far.got == []
        pair.there._transport.resume_reading()
        await until_async(lambda: len(pair.far.got) == 4)
        assert pair.here.is_writable

    run(scenario)


def test_closing_delivers_what_was_written_and_both_ends_hear_of_it_once() -> None:
    async def scenario(pair: Pair) -> None:
        pair.here.send(small_frame(ITEM, 0, 1, b"last"))
        pair.here.close()
        pair.here.close()
        await until_async(lambda: pair.near.losses and pair.far.losses)
        assert pair.far.got == [b"last"]
        assert pair.near.losses == pair.far.losses == [None]
        pair.here.send(small_frame(ITEM, 0, 1, b"too late"))
        await asyncio.sleep(0)
        assert pair.far.got == [b"last"]

    run(scenario)


def test_aborting_loses_what_is_on_its_way() -> None:
    async def scenario(pair: Pair) -> None:
        pair.here.send(small_frame(ITEM, 0, 1, b"lost"))
        pair.here.abort()
        await until_async(lambda: pair.near.losses and pair.far.losses)
        assert pair.far.got == []

    run(scenario)


def test_closing_in_the_middle_of_frames_does_not_disturb_those_after_it() -> None:
    async def scenario(pair: Pair) -> None:
        # What is written back would lie in the same receive buffer as the frames that are being read.
        pair.there.send(small_frame(ITEM, 0, 1, b"x" * 1000))

        def close(connection: Connection) -> None:
            connection.send(small_frame(ITEM, 0, 1, b"y" * 3000))
            connection.close()

        pair.far.then = close
        frames = [small_frame(ITEM, 0, n, b"frame %d" % n) for n in range(20)]
        pair.here.send(b"".join(frames))
        await until_async(lambda: len(pair.far.got) == 20)
        assert pair.far.got == [b"frame %d" % n for n in range(20)]

    run(scenario)


def test_a_server_that_is_gone_is_a_network_error() -> None:
    async def scenario() -> None:
        dialer = MemoryDialer(None, DRIVER, "m1")
        with pytest.raises(NetworkError, match="m1 is not there any more"):
            await dialer.dial(Reactor(asyncio.get_running_loop()), Receiver())

    asyncio.run(scenario())
