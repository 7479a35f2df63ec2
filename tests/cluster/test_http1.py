"""HTTP/1.1 as bytes: what is malformed, slow, pipelined or cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest

from bigmachine.rpc.http.http1 import Http1
from bigmachine.rpc.http.limits import DEFAULT_LIMITS, Limits
from bigmachine.trust import client_context
from tests.unit.rpc.http_port import MACHINE, STACKS, Port, identity, listening, run, settled, until
from tests.unit.rpc.http_services import Demo

ECHO = b"POST /bigrpc/Demo.echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n[1]"

Scenario = Callable[[Port, asyncio.StreamReader, asyncio.StreamWriter, Demo], Awaitable[None]]


def with_connection(scenario: Scenario, limits: Limits = DEFAULT_LIMITS, stack: str = "asyncio") -> None:
    async def prepared() -> None:
        demo = Demo()
        async with listening({"Demo": demo}, limits, stack) as port:
            reader, writer = await port.open("http/1.1")
            try:
                await scenario(port, reader, writer, demo)
            finally:
                writer.transport.abort()

    run(prepared, stack)


def replies_to(data: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Send bytes and return everything that comes until the server closes."""
    received: list[bytes] = []

    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        writer.write(data)
        received.append(await reader.read())

    with_connection(scenario, limits)
    return received[0]


QUICK = Limits(linger=0.01)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100,
        b"\r\n\r\n\r\n hello",
        b"GET\r\n\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no host
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nnot a chunk\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda data: repr(data[:40]),
)
def test_what_is_no_request_gets_an_error_and_the_connection_closes(garbage: bytes) -> None:
    reply = replies_to(garbage, QUICK)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 505 "))
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["type"] == "InvalidCall"


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_do_no_harm(seed: int) -> None:
    noise = random.Random(seed)
    data = bytearray(ECHO * 2)
    for _ in range(noise.randrange(1, 8)):
        data[noise.randrange(len(data))] = noise.randrange(256)
    replies_to(bytes(data), Limits(linger=0.01, idle=0.02, receive=0.02))


def test_headers_above_the_limit_are_refused() -> None:
    reply = replies_to(b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 100_000, QUICK)
    assert reply.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_headers_below_the_limit_are_taken() -> None:
    request = ECHO.replace(b"host: x", b"host: x\r\nconnection: close\r\nlong: " + b"x" * 60_000)
    assert replies_to(request).startswith(b"HTTP/1.1 200 OK\r\n")


def test_requests_that_were_sent_ahead_are_answered_in_order() -> None:
    requests = b"".join(ECHO.replace(b"[1]", b"[%d]" % n) for n in range(10))
    last = ECHO.replace(b"host: x", b"host: x\r\nconnection: close").replace(b"[1]", b"[X]")
    replies = replies_to(requests + last)
    assert [reply.split(b"\r\n\r\n")[1][:1] for reply in replies.split(b"HTTP/1.1 ")[1:11]] == [
        b"%d" % n for n in range(10)
    ]
    assert replies.count(b"HTTP/1.1 200 ") == 10
    assert replies.count(b"HTTP/1.1 400 ") == 1


NAP = b"POST /bigrpc/Demo.nap HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n0.1"
WAIT = b"POST /bigrpc/Demo.wait HTTP/1.1\r\nhost: x\r\n\r\n"


def ahead(port: Port) -> int:
    """How many bytes of requests wait for their turn in the server."""
    connection = port.connections[0]
    assert isinstance(connection, Http1)
    return len(connection._h11.trailing_data[0])


@pytest.mark.parametrize("stack", STACKS)
def test_a_client_that_sends_ahead_without_end_is_not_read_without_end(stack: str) -> None:
    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        writer.write(WAIT)
        await until(lambda: demo.sink.running)
        writer.write(ECHO * 100_000)  # 7 MB
        await until(lambda: ahead(port) > 64 * 1024)
        assert await settled(lambda: ahead(port)) < 2**20

    with_connection(scenario, stack=stack)


@pytest.mark.parametrize("stack", STACKS)
def test_requests_that_were_held_up_are_answered_in_the_end(stack: str) -> None:
    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        crowd = 1200
        writer.write(NAP)
        await until(lambda: port.connections[0]._tasks)
        writer.write(ECHO * crowd)
        await until(lambda: ahead(port) > 64 * 1024)
        writer.write(ECHO)
        for _ in range(crowd + 2):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
            await reader.readuntil(b"\n")

    with_connection(scenario, stack=stack)


def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport
        ours = port.connections[0]._transport
        ours.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ours.set_write_buffer_limits(high=4096)
        head = b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n"  # answered without a body
        for _ in range(200):
            writer.write(head * 100)
            await asyncio.sleep(0)
        await until(lambda: not port.connections[0]._can_write.is_set())
        assert await settled(ours.get_write_buffer_size) < 16 * 1024

    with_connection(scenario)


async def say_goodbye_and_stay(port: Port, request: bytes, is_heard: Callable[[], object]) -> socket.socket:
    """Send a request and, once it is heard, TLS's close_notify; read nothing of the answer, keep the socket."""
    context = client_context(identity())
    context.set_alpn_protocols(["http/1.1"])
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, sent, server_hostname=MACHINE)
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", port.number))
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await loop.sock_sendall(sock, sent.read())
            received.write(await loop.sock_recv(sock, 65536))
        else:
            break
    tls.write(request)
    await loop.sock_sendall(sock, sent.read())
    await until(is_heard)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.unwrap()
    await loop.sock_sendall(sock, sent.read())
    return sock


@pytest.mark.parametrize("stack", STACKS)
def test_a_client_that_says_goodbye_and_stays_is_not_waited_for(stack: str) -> None:
    async def scenario() -> None:
        demo = Demo()
        async with listening({"Demo": demo}, Limits(linger=0.05), stack) as port:
            lines = b"POST /bigrpc/Demo.lines HTTP/1.1\r\nhost: x\r\ncontent-length: 14\r\n\r\n[9999, 100000]"
            with await say_goodbye_and_stay(
                port, lines, lambda: port.connections and not port.connections[0]._can_write.is_set()
            ):
                await port.all_gone()
                await until(demo.sink.closed.is_set)

    run(scenario, stack)


@pytest.mark.parametrize("stack", STACKS)
def test_closing_ends_properly_although_reading_was_paused(stack: str) -> None:
    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        writer.write(WAIT)
        await until(lambda: demo.sink.running)
        writer.write(ECHO * 2000)
        await until(lambda: ahead(port) > 64 * 1024)
        port.connections[0].close()
        await port.all_gone()

    with_connection(scenario, Limits(linger=60.0), stack)


def test_connection_close_is_obeyed_at_once() -> None:
    reply = replies_to(ECHO.replace(b"host: x", b"host: x\r\nconnection: close"), Limits(linger=60.0))
    assert reply.endswith(b"\r\n\r\n1\n")


def test_http_1_0_is_refused_as_it_cannot_show_that_a_stream_failed() -> None:
    reply = replies_to(b"POST /bigrpc/Demo.count HTTP/1.0\r\ncontent-length: 3\r\n\r\n[2]", QUICK)
    assert reply.startswith(b"HTTP/1.1 505 HTTP Version Not Supported\r\n")


def test_a_failed_stream_ends_without_its_last_chunk() -> None:
    reply = replies_to(b"POST /bigrpc/Demo.breaks HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b"in the middle" in reply
    assert not reply.endswith(b"0\r\n\r\n")


def test_expect_continue_is_answered_before_the_body_is_sent() -> None:
    head, body = ECHO[:-3].replace(b"host: x", b"host: x\r\nexpect: 100-continue"), ECHO[-3:]

    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        writer.write(head)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")

    with_connection(scenario)


def test_expect_continue_is_refused_if_the_body_would_be_too_large() -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 11\r\n\r\n"
    assert replies_to(head, Limits(body=10, linger=0.05)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("request_line", [b"CONNECT host:443 HTTP/1.1", b"GET /ws HTTP/1.1\r\nupgrade: websocket"])
def test_another_protocol_is_not_switched_to(request_line: bytes) -> None:
    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        writer.write(request_line + b"\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        writer.write(ECHO)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")

    with_connection(scenario)


@pytest.mark.parametrize(
    "part",
    [
        b"POST /bigrpc/Demo.echo HT",
        b"POST /bigrpc/Demo.echo HTTP/1.1\r\nhost: x\r\n",
        ECHO[:-1],
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_a_request_that_never_becomes_complete_times_out(part: bytes) -> None:
    reply = replies_to(part, Limits(receive=0.02, linger=0.01))
    assert reply.startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_a_drip_of_bytes_does_not_hold_the_connection() -> None:
    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        async def drip() -> None:
            for number in range(len(ECHO) - 1):
                writer.write(ECHO[number : number + 1])
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
        assert not dripping.done()
        dripping.cancel()

    with_connection(scenario, Limits(receive=0.1, linger=0.05))


@pytest.mark.parametrize("part", [b"", b"POST /big", ECHO[:-1], ECHO])
def test_a_client_that_goes_away_leaves_nothing_behind(part: bytes) -> None:
    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        writer.write(part)
        await writer.drain()
        writer.transport.abort()
        await port.all_gone()

    with_connection(scenario)


@pytest.mark.parametrize("stack", STACKS)
def test_a_client_that_does_not_take_part_in_closing_is_cut_off(stack: str) -> None:
    async def scenario(port: Port, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, demo: Demo) -> None:
        writer.write(ECHO)
        await reader.readuntil(b"1\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport; it never sees our close_notify
        port.connections[0].close()
        await port.all_gone()

    with_connection(scenario, Limits(linger=0.05), stack)
