"""HTTP/2 as frames: resets, windows, floods, and what is malformed."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

from bigmachine.rpc.http.limits import DEFAULT_LIMITS, Limits
from tests.unit.rpc.http_port import STACKS, Port, listening, run, settled, until
from tests.unit.rpc.http_services import Demo


@dataclass
class Reply:
    status: int = 0
    body: bytes = b""
    is_ended: bool = False
    reset: h2.errors.ErrorCodes | int | None = None


@dataclass
class Client:
    """A client that shows its frames: h2 on a bare TLS connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    acknowledges: bool = True
    replies: dict[int, Reply] = field(default_factory=dict)
    went_away: h2.errors.ErrorCodes | int | None = None

    def __post_init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def post(
        self, method: str, argument: object = None, *, end: bool = True, headers: dict[str, str] | None = None
    ) -> int:
        stream = self.h2.get_next_available_stream_id()
        named = {":method": "POST", ":scheme": "https", ":authority": "x", ":path": f"/bigrpc/{method}"}
        body = b"" if argument is None else json.dumps(argument).encode()
        self.h2.send_headers(stream, list((named | (headers or {})).items()), end_stream=end and not body)
        if body:
            self.h2.send_data(stream, body, end_stream=end)
        self.replies[stream] = Reply()
        self.flush()
        return stream

    async def reply(self, stream: int) -> Reply:
        """Read until a reply has ended, one way or the other."""
        await self.until(lambda: self.replies[stream].is_ended or self.replies[stream].reset is not None)
        return self.replies[stream]

    async def until(self, is_true: Callable[[], object]) -> None:
        while not is_true():
            data = await self.reader.read(65536)
            assert data, "the server closed the connection"
            for event in self.h2.receive_data(data):
                self.take(event)
            self.flush()

    async def end(self) -> None:
        """Read until the server closes the connection."""
        while data := await self.reader.read(65536):
            for event in self.h2.receive_data(data):
                self.take(event)

    def take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.replies[event.stream_id].status = int(dict(event.headers)[b":status"])
            case h2.events.DataReceived():
                self.replies[event.stream_id].body += event.data
                if self.acknowledges:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.replies[event.stream_id].is_ended = True
            case h2.events.StreamReset():
                self.replies[event.stream_id].reset = event.error_code
            case h2.events.ConnectionTerminated():
                self.went_away = event.error_code


Scenario = Callable[[Port, Client, Demo], Awaitable[None]]


def with_client(scenario: Scenario, limits: Limits = DEFAULT_LIMITS, stack: str = "asyncio") -> None:
    async def prepared() -> None:
        demo = Demo()
        async with listening({"Demo": demo}, limits, stack) as port:
            reader, writer = await port.open("h2")
            try:
                await scenario(port, Client(reader, writer), demo)
            finally:
                writer.transport.abort()

    run(prepared, stack)


async def is_still_served(client: Client) -> bool:
    return (await client.reply(client.post("Demo.echo", [7]))).body == b"7\n"


@pytest.mark.parametrize("stack", STACKS)
def test_a_reset_cancels_its_call_and_no_other(stack: str) -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        doomed = client.post("Demo.wait")
        other = client.post("Demo.nap", 0.1)
        await until(lambda: demo.sink.running)
        client.h2.reset_stream(doomed, h2.errors.ErrorCodes.CANCEL)
        client.flush()
        await until(lambda: demo.sink.cancelled == 1)
        assert (await client.reply(other)).status == 200
        assert await is_still_served(client)

    with_client(scenario, stack=stack)


def test_a_reset_in_a_stream_closes_the_generator() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        stream = client.post("Demo.drips")
        await client.until(lambda: client.replies[stream].body == b"1\n")
        client.h2.reset_stream(stream)
        client.flush()
        await until(demo.sink.closed.is_set)
        assert await is_still_served(client)

    with_client(scenario)


def test_a_reset_before_the_request_is_complete_forgets_it() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        stream = client.post("Demo.echo", "half", end=False)
        client.h2.reset_stream(stream)
        client.flush()
        assert await is_still_served(client)
        assert not port.connections[0]._streams  # type: ignore[attr-defined]  # an Http2

    with_client(scenario)


def test_a_failed_stream_is_reset_after_its_last_line() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        reply = await client.reply(client.post("Demo.breaks"))
        assert (reply.is_ended, reply.reset) == (False, h2.errors.ErrorCodes.INTERNAL_ERROR)
        assert b"in the middle" in reply.body
        assert await is_still_served(client)

    with_client(scenario)


def test_the_clients_window_is_respected() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        client.acknowledges = False
        stream = client.post("Demo.zeros", 100_000)
        await client.until(lambda: len(client.replies[stream].body) == 65535)
        # A window error of ours would have raised in the client's h2, so what counts is that it goes on from here.
        client.h2.increment_flow_control_window(2**20, stream)
        client.h2.increment_flow_control_window(2**20)
        client.flush()
        assert len((await client.reply(stream)).body) == 100_003

    with_client(scenario)


def test_a_window_that_shrinks_below_zero_is_respected() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        client.acknowledges = False
        stream = client.post("Demo.zeros", 100_000)
        await client.until(lambda: len(client.replies[stream].body) == 65535)
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
        client.flush()
        assert not client.replies[stream].is_ended
        client.h2.increment_flow_control_window(2**20)
        client.h2.increment_flow_control_window(2**20, stream)
        client.flush()
        assert len((await client.reply(stream)).body) == 100_003

    with_client(scenario)


def test_one_stream_without_window_does_not_hold_up_the_others() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        client.flush()
        client.acknowledges = False
        stuck = client.post("Demo.zeros", 2000)
        await client.until(lambda: len(client.replies[stuck].body) == 1000)
        assert await is_still_served(client)

    with_client(scenario)


def test_a_window_that_stays_closed_costs_the_stream_and_not_the_connection() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        client.acknowledges = False
        stuck = client.post("Demo.lines", [100, 10_000])
        assert (await client.reply(stuck)).reset == h2.errors.ErrorCodes.CANCEL
        assert demo.sink.closed.wait(5)
        client.h2.increment_flow_control_window(2**20)
        assert await is_still_served(client)

    with_client(scenario, Limits(stall=0.1))


@pytest.mark.parametrize("stack", STACKS)
def test_a_window_as_large_as_can_be_does_not_fill_the_memory(stack: str) -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        largest = 2**31 - 1
        client.h2.increment_flow_control_window(largest - 65535)
        stream = client.post("Demo.lines", [9999, 100_000], end=True)
        client.h2.increment_flow_control_window(largest - 65535, stream)
        client.flush()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport
        ours = port.connections[0]
        await until(lambda: not ours._can_write.is_set())
        assert ours._transport.get_write_buffer_size() < 2**20
        assert await settled(lambda: demo.sink.produced) < 500
        assert ours._transport.get_write_buffer_size() < 2**20

    with_client(scenario, stack=stack)


def test_a_large_body_gets_its_window_back_as_it_is_read() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        size = 24 * 2**20  # more than both windows
        stream = client.post("Demo.size", end=False)
        rest = memoryview(b'["' + b"x" * size + b'"]')
        while rest:
            await client.until(lambda: client.h2.local_flow_control_window(stream) > 0)
            piece = min(len(rest), client.h2.local_flow_control_window(stream), client.h2.max_outbound_frame_size)
            client.h2.send_data(stream, rest[:piece])
            client.flush()
            await client.writer.drain()
            rest = rest[piece:]
        client.h2.end_stream(stream)
        client.flush()
        assert (await client.reply(stream)).body == b"%d\n" % size

    with_client(scenario)


def test_as_many_streams_as_announced_are_served_at_once() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        await client.until(lambda: client.h2.remote_settings.max_concurrent_streams == 128)
        streams = [client.post("Demo.wait", headers={"bigmachine-timeout": "0.3"}) for _ in range(128)]
        await until(lambda: demo.sink.running == 128)
        assert {(await client.reply(stream)).status for stream in streams} == {504}
        assert await is_still_served(client)

    with_client(scenario)


def test_more_streams_than_announced_end_the_connection() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        for _ in range(9):
            client.post("Demo.wait")
        await client.end()
        assert client.went_away == h2.errors.ErrorCodes.PROTOCOL_ERROR
        await port.all_gone()
        assert demo.sink.running == 0

    with_client(scenario, Limits(streams=8))


def test_a_body_above_the_limit_is_refused_before_it_is_complete() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        stream = client.post("Demo.echo", "x" * 2000, end=False)
        reply = await client.reply(stream)
        assert (reply.status, reply.is_ended, reply.reset) == (413, True, None)
        await client.until(lambda: client.replies[stream].reset is not None)
        assert client.replies[stream].reset == h2.errors.ErrorCodes.NO_ERROR
        assert await is_still_served(client)

    with_client(scenario, Limits(body=1000, linger=0.05))


def test_an_announced_length_above_the_limit_is_refused_at_once() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        stream = client.post("Demo.echo", end=False, headers={"content-length": "1001"})
        assert (await client.reply(stream)).status == 413

    with_client(scenario, Limits(body=1000))


def test_bodies_together_above_the_limit_are_refused_one_by_one() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        first = client.post("Demo.echo", "x" * 800, end=False)
        second = client.post("Demo.echo", "x" * 800, end=False)
        assert (await client.reply(second)).status == 503
        client.h2.end_stream(first)
        client.flush()
        assert (await client.reply(first)).status == 200
        assert (await client.reply(client.post("Demo.echo", "x" * 800))).status == 200

    with_client(scenario, Limits(body=1000, bodies=1500))


def test_a_request_that_never_becomes_complete_times_out_alone() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        slow = client.post("Demo.echo", "half", end=False)
        napping = client.post("Demo.nap", 0.3)
        reply = await client.reply(slow)
        assert (reply.status, b"did not arrive in time" in reply.body) == (408, True)
        assert (await client.reply(napping)).status == 200

    with_client(scenario, Limits(receive=0.05, linger=0.05))


def test_pings_do_not_keep_an_idle_connection_open() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        async def ping() -> None:
            while True:
                client.h2.ping(b"12345678")
                client.flush()
                await asyncio.sleep(0.01)

        pinging = asyncio.create_task(ping())
        await port.all_gone()
        pinging.cancel()

    with_client(scenario, Limits(idle=0.1))


def test_expect_continue_is_answered() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        informed: list[h2.events.Event] = []
        take = client.take

        def watch(event: h2.events.Event) -> None:
            if isinstance(event, h2.events.InformationalResponseReceived):
                informed.append(event)
            take(event)

        client.take = watch  # type: ignore[method-assign]  # to see one event more
        stream = client.post("Demo.echo", end=False, headers={"expect": "100-continue"})
        await client.until(lambda: informed)
        client.h2.send_data(stream, b"[5]", end_stream=True)
        client.flush()
        assert (await client.reply(stream)).body == b"5\n"

    with_client(scenario)


def test_trailers_of_a_request_are_ignored() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        stream = client.post("Demo.echo", [5], end=False)
        client.h2.send_headers(stream, [("checksum", "x")], end_stream=True)
        client.flush()
        assert (await client.reply(stream)).body == b"5\n"

    with_client(scenario)


def test_opening_and_resetting_without_end_is_not_put_up_with() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        for _ in range(30):
            client.h2.reset_stream(client.post("Demo.wait"))
        client.flush()
        await client.end()
        assert client.went_away == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
        await port.all_gone()
        assert demo.sink.running == 0

    with_client(scenario, Limits(resets=20, reset_rate=0.0))


def test_a_client_that_makes_us_answer_and_reads_nothing_is_cut_off() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a Transport
        ours = port.connections[0]._transport.get_extra_info("socket")
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # or the kernel takes megabytes
        ping = frame(6, 0, 0, b"pingpong")

        async def flood() -> None:
            while True:
                client.writer.write(ping * 2048)
                await client.writer.drain()
                await asyncio.sleep(0)

        with pytest.raises(OSError):  # noqa: PT011 (which one depends on the platform)
            await flood()
        await port.all_gone()

    with_client(scenario, Limits(backlog=2**17))


def test_going_away_cancels_what_is_under_way() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        client.post("Demo.wait")
        await until(lambda: demo.sink.running)
        client.h2.close_connection()
        client.flush()
        await port.all_gone()
        assert demo.sink.cancelled == 1

    with_client(scenario)


def test_a_server_that_closes_says_so() -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        assert await is_still_served(client)
        port.connections[0].close()
        await client.end()
        assert client.went_away == h2.errors.ErrorCodes.NO_ERROR

    with_client(scenario)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = frame(4, 0, 0, b"")

MALFORMED = {
    "no preface": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    "nothing but zeros": bytes(100),
    "an overlong frame": PREFACE + SETTINGS + frame(0, 0, 1, b"x" * 20_000),
    "data on an idle stream": PREFACE + SETTINGS + frame(0, 0, 1, b"x"),
    "headers that are no HPACK": PREFACE + SETTINGS + frame(1, 5, 1, b"\xff" * 50),
    "an even stream": PREFACE + SETTINGS + frame(1, 5, 2, b"\x82\x84\x87"),
    "no pseudo headers": PREFACE + SETTINGS + frame(1, 5, 1, b"\x40\x01a\x01b"),
    "a continuation out of nowhere": PREFACE + SETTINGS + frame(9, 4, 1, b""),
    "something else amid headers": PREFACE + SETTINGS + frame(1, 0, 1, b"\x82") + frame(6, 0, 0, bytes(8)),
    "continuations without end": PREFACE + SETTINGS + frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"") * 100,
    "a bad window": PREFACE + SETTINGS + frame(8, 0, 0, bytes(4)),
    "a window above the maximum": PREFACE + SETTINGS + frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2,
    "bad settings": PREFACE + frame(4, 0, 0, struct.pack(">HI", 5, 1)),
    "settings of odd length": PREFACE + frame(4, 0, 0, b"abc"),
    "a short ping": PREFACE + SETTINGS + frame(6, 0, 0, b"1"),
    "bad padding": PREFACE + SETTINGS + frame(1, 0xD, 1, b"\xff\x82"),
    "a pushed promise": PREFACE + SETTINGS + frame(5, 4, 1, bytes(4) + b"\x82"),
    "a bomb of headers": PREFACE
    + SETTINGS
    # A header of 4 KiB put into the table once, and then named three thousand times: 12 MB from 7 KB.
    + frame(1, 5, 1, b"\x82\x84\x87\x40\x01a\x7f\x81\x1e" + b"x" * 3968 + b"\xbe" * 3000),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_breaks_the_protocol_ends_its_connection_and_no_other(what: str) -> None:
    async def scenario(port: Port, client: Client, demo: Demo) -> None:
        reader, writer = await port.open("h2")
        writer.write(MALFORMED[what])
        await reader.read()
        writer.transport.abort()
        assert await is_still_served(client)

    with_client(scenario)


def _conversation() -> bytes:
    """Return what a client sends for a few calls."""
    client = h2.connection.H2Connection()
    client.initiate_connection()
    for stream in (1, 3, 5):
        headers = {":method": "POST", ":scheme": "https", ":authority": "x", ":path": "/bigrpc/Demo.echo"}
        client.send_headers(stream, list(headers.items()))
        client.send_data(stream, b"[1]", end_stream=True)
    return client.data_to_send()


@pytest.mark.parametrize("seed", range(24))
def test_random_damage_does_no_harm(seed: int) -> None:
    noise = random.Random(seed)
    data = bytearray(_conversation())
    for _ in range(noise.randrange(1, 6)):
        data[noise.randrange(len(data))] = noise.randrange(256)

    async def scenario() -> None:
        async with listening({"Demo": Demo()}, Limits(idle=0.02, receive=0.02, linger=0.01)) as port:
            reader, writer = await port.open("h2")
            writer.write(data[: noise.randrange(len(data))] if seed % 4 == 0 else data)
            await reader.read()
            writer.transport.abort()

    run(scenario)


@pytest.mark.parametrize("length", range(0, 200, 13))
def test_a_client_that_breaks_off_anywhere_leaves_nothing_behind(length: int) -> None:
    async def scenario() -> None:
        async with listening({"Demo": Demo()}) as port:
            _, writer = await port.open("h2")
            writer.write(_conversation()[:length])
            await writer.drain()
            writer.transport.abort()
            await port.all_gone()

    run(scenario)
