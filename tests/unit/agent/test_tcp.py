"""The front door gives every connection to the one it names, untouched, and strangers cannot keep it busy."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from bigmachine.agent.tcp import FrontDoor


class House:
    """Takes connections for the names that live here, and for no name."""

    def __init__(self, *names: str | None) -> None:
        self.names = names
        self.taken: list[tuple[str | None, socket.socket]] = []
        self.arrived = asyncio.Event()

    def route(self, name: str | None, sock: socket.socket) -> bool:
        if name not in self.names:
            return False
        self.taken.append((name, sock))
        self.arrived.set()
        return True

    async def arrivals(self, count: int) -> list[str | None]:
        async with asyncio.timeout(5):
            while len(self.taken) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return [name for name, _ in self.taken]

    def close(self) -> None:
        for _, sock in self.taken:
            sock.close()


@asynccontextmanager
async def opened(house: House, *, patience: float = 5.0, undecided: int = 256) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    door = FrontDoor(loop, "127.0.0.1", 0, house.route, timeout=patience, undecided=undecided)
    try:
        yield door.port
    finally:
        door.close()
        house.close()


def hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def dial(port: int, *pieces: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces:
        sock.sendall(piece)
    return sock


async def end_of(sock: socket.socket) -> bytes:
    """All that the other side sends until it closes."""

    def read() -> bytes:
        found = b""
        with sock:
            while True:
                try:
                    piece = sock.recv(4096)
                except ConnectionError:
                    return found
                if not piece:
                    return found
                found += piece

    return await asyncio.to_thread(read)


def test_a_machines_connection_reaches_it_with_not_a_byte_read() -> None:
    async def main() -> None:
        house = House("h1-m1", "h1-m2")
        async with opened(house) as port:
            with dial(port, hello("h1-m2")) as one, dial(port, hello("h1-m1")) as other:
                assert sorted(map(str, await house.arrivals(2))) == ["h1-m1", "h1-m2"]
                for name, sock in house.taken:
                    peer = {one.getsockname(): "h1-m2", other.getsockname(): "h1-m1"}[sock.getpeername()]
                    assert peer == name
                    assert sock.recv(1 << 16)[:3] == b"\x16\x03\x01"
                    # Else small frames wait 40 ms for each other's acknowledgement.
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    asyncio.run(main())


def test_no_name_and_no_tls_are_the_agents_own_business() -> None:
    async def main() -> None:
        house = House(None)
        async with opened(house) as port:
            clients = [dial(port, hello(None)), dial(port, b"\0" * 100)]
            assert await house.arrivals(2) == [None, None]
            for client in clients:
                client.close()

    asyncio.run(main())


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"POST /bigrpc/PI.sample HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_who_speaks_http_without_tls_is_told_so(words: bytes) -> None:
    async def main() -> None:
        async with opened(House(None)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(words)
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"use https" in answer

    asyncio.run(main())


def test_an_unknown_name_is_refused_in_tls_own_words_and_closed() -> None:
    async def main() -> None:
        house = House(None, "h1-m2")
        async with opened(house) as port:

            def handshake() -> str:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                try:
                    with dial(port) as sock, context.wrap_socket(sock, server_hostname="h1-m1"):
                        return "connected"
                except ssl.SSLError as error:
                    return str(error.reason)

            assert "UNRECOGNIZED_NAME" in await asyncio.to_thread(handshake)
            assert house.taken == []

    asyncio.run(main())


def test_a_hello_in_pieces_is_waited_for() -> None:
    async def main() -> None:
        house = House("h1-m1")
        data = hello("h1-m1")
        async with opened(house) as port:
            with dial(port) as sock:
                for i in range(0, len(data), 100):
                    sock.sendall(data[i : i + 100])
                    await asyncio.sleep(0.002)
                assert await house.arrivals(1) == ["h1-m1"]
                assert house.taken[0][1].recv(1 << 16) == data

    asyncio.run(main())


def test_who_says_nothing_is_dropped_when_patience_is_over() -> None:
    async def main() -> None:
        house = House(None)
        async with opened(house, patience=0.1) as port:
            assert await end_of(dial(port)) == b""
            assert await end_of(dial(port, hello("h1-m1")[:50])) == b""
            assert house.taken == []

    asyncio.run(main())


def test_who_leaves_before_deciding_leaves_nothing() -> None:
    async def main() -> None:
        house = House(None)
        async with opened(house) as port:
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(20):
                dial(port).close()
            dial(port, b"x").close()
            await house.arrivals(1)
            house.close()
            assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def test_who_leaves_in_the_middle_of_a_hello_is_not_waited_for() -> None:
    async def scenario() -> None:
        house = House()
        async with opened(house, patience=60) as port:
            sock = dial(port, hello("m1")[:100])
            await asyncio.sleep(0.05)  # it has been looked at, and is waited for
            sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(5):
                assert await end_of(sock) == b""

    asyncio.run(scenario())


def test_a_crowd_that_says_nothing_does_not_keep_others_out() -> None:
    async def main() -> None:
        house = House("h1-m1")
        async with opened(house, undecided=8) as port:
            crowd = [dial(port) for _ in range(30)]
            with dial(port, hello("h1-m1")):
                assert await house.arrivals(1) == ["h1-m1"]
            assert await end_of(crowd[0]) == b""
            for sock in crowd:
                sock.close()

    asyncio.run(main())


def test_without_descriptors_the_door_rests_and_then_serves_those_who_wait() -> None:
    async def main() -> None:
        house = House("h1-m1")
        async with opened(house) as port:
            clients = [socket.socket() for _ in range(5)]
            data = hello("h1-m1")
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                for client in clients:
                    client.connect(("127.0.0.1", port))
                    client.sendall(data)
                for _ in range(5):
                    await asyncio.sleep(0)
                assert house.taken == []
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert await house.arrivals(5) == ["h1-m1"] * 5
            for client in clients:
                client.close()

    asyncio.run(main())
