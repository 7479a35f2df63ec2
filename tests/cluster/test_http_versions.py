"""What both versions of HTTP do alike, over real TLS, with httpx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from bigmachine.rpc.http.limits import DEFAULT_LIMITS, Limits
from bigmachine.trust import Role
from tests.unit.rpc.http_port import STACKS, Port, listening, run, settled, until
from tests.unit.rpc.http_services import Demo

Scenario = Callable[[Port, httpx.AsyncClient, Demo], Awaitable[None]]

pytestmark = pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])


def with_client(
    scenario: Scenario,
    *,
    http2: bool,
    limits: Limits = DEFAULT_LIMITS,
    stack: str = "asyncio",
    role: Role = Role.CLIENT,
) -> None:
    async def prepared() -> None:
        demo = Demo()
        async with listening({"Demo": demo}, limits, stack) as port, port.client(http2=http2, role=role) as client:
            await scenario(port, client, demo)

    run(prepared, stack)


@pytest.mark.parametrize("stack", STACKS)
def test_a_call_is_answered(http2: bool, stack: str) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        response = await port.call(client, "Demo.add", {"a": 1, "b": 2})
        assert (response.status_code, response.json()) == (200, 3)
        assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        assert response.headers["content-length"] == "2"
        assert response.headers["date"].endswith("GMT")

    with_client(scenario, http2=http2, stack=stack)


def test_calls_one_after_the_other_share_a_connection(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        for number in range(20):
            assert (await port.call(client, "Demo.echo", [number])).json() == number
        assert len(port.connections) == 1

    with_client(scenario, http2=http2)


def test_fifty_calls_at_once_on_one_connection_get_their_own_answers(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        replies = await asyncio.gather(*(port.call(client, "Demo.echo", [n]) for n in range(50)))
        assert [reply.json() for reply in replies] == list(range(50))
        assert len(port.connections) == 1

    with_client(scenario, http2=http2)


def test_the_services_are_listed(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        response = await port.send(client, client.build_request("GET", "/"))
        assert response.json() == {"services": ["Demo"]}
        head = await port.send(client, client.build_request("HEAD", "/"))
        assert (head.content, head.headers["content-length"]) == (b"", response.headers["content-length"])
        assert (await port.call(client, "Demo.echo", [1])).json() == 1, "the connection is still in step"

    with_client(scenario, http2=http2)


def test_errors_have_their_status_and_spare_the_connection(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        wrong = {"Demo.nope": 404, "Demo.secret": 403, "Demo.point": 400, "Demo.opaque": 400, "Demo.fail": 590}
        for method, status in wrong.items():
            assert (await port.call(client, method, ["boom"])).status_code == status
        assert (await port.send(client, client.build_request("PUT", "/bigrpc/Demo.echo"))).status_code == 405
        assert len(port.connections) == 1

    with_client(scenario, http2=http2)


def test_the_drivers_certificate_may_call_what_a_clients_may_not(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        assert (await port.call(client, "Demo.secret", [])).json() == "42"

    with_client(scenario, http2=http2, role=Role.DRIVER)


@pytest.mark.parametrize("stack", STACKS)
def test_megabytes_travel_both_ways(http2: bool, stack: str) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        size = 2 * 2**20
        assert (await port.call(client, "Demo.size", ["x" * size])).json() == size
        assert (await port.call(client, "Demo.zeros", [size])).json() == "0" * size

    with_client(scenario, http2=http2, stack=stack)


def test_a_body_of_unknown_length_is_taken(http2: bool) -> None:
    async def body() -> AsyncIterator[bytes]:
        for piece in (b'["', b"x" * 100_000, b"", b'"]'):
            yield piece

    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        request = client.build_request("POST", "/bigrpc/Demo.size", content=body())
        assert (await port.send(client, request)).json() == 100_000

    with_client(scenario, http2=http2)


@pytest.mark.parametrize("has_length", [False, True], ids=["chunked", "with length"])
def test_a_body_above_the_limit_is_refused_and_the_client_learns_it(http2: bool, has_length: bool) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000

    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        content = b"x" * 4_000_000 if has_length else body()
        request = client.build_request("POST", "/bigrpc/Demo.size", content=content)
        response = await port.send(client, request)
        assert response.status_code == 413
        assert "larger than 1,000,000 bytes" in response.json()["error"]["message"]
        assert (await port.call(client, "Demo.echo", [1])).json() == 1

    with_client(scenario, http2=http2, limits=Limits(body=1_000_000))


@pytest.mark.parametrize("method", ["Demo.count", "Demo.count_async"])
def test_a_stream_arrives_line_by_line(http2: bool, method: str) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        response = await port.call(client, method, [100])
        assert [json.loads(line) for line in response.iter_lines()] == list(range(100))
        assert "content-length" not in response.headers
        await until(demo.sink.closed.is_set)

    with_client(scenario, http2=http2)


def test_a_line_arrives_before_the_next_one_is_made(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        response = await port.send(client, client.build_request("POST", "/bigrpc/Demo.blocks"), stream=True)
        lines = response.aiter_lines()
        assert await anext(lines) == "1"
        demo.gate.set()
        assert await anext(lines) == "2"
        await response.aclose()

    with_client(scenario, http2=http2)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("method", ["breaks", "breaks_async", "broken_file"])
def test_a_stream_that_fails_is_seen_to_be_cut_off(http2: bool, stack: str, method: str) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        response = await port.send(client, client.build_request("POST", f"/bigrpc/Demo.{method}"), stream=True)
        got = bytearray()

        async def read() -> None:
            async for piece in response.aiter_raw():
                got.extend(piece)

        with pytest.raises(httpx.RemoteProtocolError):
            await read()
        await response.aclose()
        if method == "broken_file":
            assert got == b"good"
        else:
            assert json.loads(got.splitlines()[-1])["error"]["message"] == "in the middle"

    with_client(scenario, http2=http2, stack=stack)


@pytest.mark.parametrize("stack", STACKS)
def test_a_slow_reader_holds_up_the_producer_and_not_the_memory(http2: bool, stack: str) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        await port.call(client, "Demo.nothing", [])
        # 400 MB in lines of 100 kB: kernel and windows take a few MB (httpx opens a window of 16 MB).
        request = client.build_request("POST", "/bigrpc/Demo.lines", json=[4000, 100_000])
        response = await port.send(client, request, stream=True)
        stream = response.aiter_raw()
        await anext(stream)
        assert 0 < await settled(lambda: demo.sink.produced) < 1000
        await response.aclose()
        await client.aclose()
        await until(demo.sink.closed.is_set)

    with_client(scenario, http2=http2, stack=stack)


@pytest.mark.parametrize("stack", STACKS)
def test_a_client_that_leaves_cancels_its_calls(http2: bool, stack: str) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        calling = asyncio.ensure_future(port.call(client, "Demo.wait", []))
        await until(lambda: demo.sink.running)
        calling.cancel()
        await asyncio.wait([calling])
        await client.aclose()
        await until(lambda: demo.sink.cancelled == 1)
        await port.all_gone()

    with_client(scenario, http2=http2, stack=stack)


@pytest.mark.parametrize("method", ["drips", "blocks"])
def test_a_client_that_leaves_in_a_stream_closes_the_generator(http2: bool, method: str) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        response = await port.send(client, client.build_request("POST", f"/bigrpc/Demo.{method}"), stream=True)
        assert await anext(response.aiter_lines()) == "1"
        await response.aclose()
        await client.aclose()
        await port.all_gone()
        demo.gate.set()
        await until(demo.sink.closed.is_set)

    with_client(scenario, http2=http2)


def test_the_deadline_header_reaches_the_call(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        response = await port.call(client, "Demo.wait", [], {"bigmachine-timeout": "0.05"})
        assert (response.status_code, response.json()["error"]["type"]) == (504, "DeadlineExceeded")
        assert demo.sink.cancelled == 1

    with_client(scenario, http2=http2)


def test_an_idle_connection_is_closed(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        await port.call(client, "Demo.nothing", [])
        await port.all_gone()

    with_client(scenario, http2=http2, limits=Limits(idle=0.05, linger=0.05))


def test_a_connection_with_a_call_under_way_is_not_idle(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        assert (await port.call(client, "Demo.nap", [0.2])).json() == 0.2

    with_client(scenario, http2=http2, limits=Limits(idle=0.05, receive=0.05))


def test_a_client_that_does_not_read_is_given_up(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        request = client.build_request("POST", "/bigrpc/Demo.lines", json=[4000, 100_000])
        response = await port.send(client, request, stream=True)
        await until(demo.sink.closed.is_set)
        await response.aclose()

    with_client(scenario, http2=http2, limits=Limits(stall=0.1))


def test_closing_the_connection_cancels_what_it_answers(http2: bool) -> None:
    async def scenario(port: Port, client: httpx.AsyncClient, demo: Demo) -> None:
        calling = asyncio.ensure_future(port.call(client, "Demo.wait", []))
        await until(lambda: demo.sink.running)
        port.connections[0].close()
        with pytest.raises(httpx.RemoteProtocolError):
            await calling
        assert demo.sink.cancelled == 1

    with_client(scenario, http2=http2)
