"""What is answered to which request, without a connection."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bigmachine.rpc import Server, ServiceTable
from bigmachine.rpc.http.bodies import Streamed, Truncated
from bigmachine.rpc.http.face import Request, Response, answer
from bigmachine.trust import Peer, Role
from tests.unit.rpc.http_port import only_echo_for_clients, run, until
from tests.unit.rpc.http_services import Demo

CLIENT = Peer("5e5510ab", Role.CLIENT, "someone")
DRIVER = Peer("5e5510ab", Role.DRIVER, "driver")


def with_server(scenario: Callable[[Server, Demo], Awaitable[None]]) -> None:
    async def prepared() -> None:
        table = ServiceTable()
        demo = Demo()
        table.register("Demo", demo)
        table.register("A.B", demo)
        server = Server(table, authorize=only_echo_for_clients)
        try:
            await scenario(server, demo)
        finally:
            demo.gate.set()  # a thread that waits for it would outlive the test by half a minute
            await server.close()

    run(prepared)


def answered(request: Request, peer: Peer = CLIENT) -> Response:
    """Answer one request; a stream is read to its end, and its body is then what it gave."""
    responses: list[Response] = []

    async def scenario(server: Server, demo: Demo) -> None:
        response = await answer(server, peer, request)
        if isinstance(response.body, Streamed):
            body = b""
            try:
                async for chunk in response.body:
                    body += chunk
            except Truncated:
                body += b"TRUNCATED"
            await response.aclose()
            response = Response(response.status, response.headers, body)
        responses.append(response)

    with_server(scenario)
    return responses[0]


def post(method: str, body: bytes = b"", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("POST", f"/bigrpc/{method}", named, body)


def value_of(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


def error_of(response: Response) -> dict[str, str]:
    told = value_of(response)["error"]
    assert isinstance(told, dict)
    return told


@pytest.mark.parametrize(("body", "result"), [(b'{"a": 1, "b": 2}', 3), (b"[1, 2]", 3), (b"1", 1), (b'{"a": 4}', 4)])
def test_a_result_is_the_json_value_itself(body: bytes, result: int) -> None:
    response = answered(post("Demo.add", body))
    assert (response.status, value_of(response)) == (200, result)
    assert dict(response.headers)["content-type"] == "application/json"


def test_no_body_is_no_arguments() -> None:
    assert value_of(answered(post("Demo.nothing"))) is None


def test_a_dataclass_is_answered_as_an_object() -> None:
    assert value_of(answered(post("Demo.point"))) == {"x": 1, "y": 2}


def test_the_services_name_may_contain_dots() -> None:
    assert value_of(answered(post("A.B.echo", b"[5]"))) == 5


@pytest.mark.parametrize(
    "target",
    [
        "/bigrpc/Demo.echo?x=1",
        "/bigrpc/Demo%2Eecho",
        "https://host:1/bigrpc/Demo.echo",
        "http://host/bigrpc/Demo.echo?",
    ],
)
def test_every_way_to_write_the_target_is_understood(target: str) -> None:
    assert answered(Request("POST", target, {}, b"1")).status == 200


@pytest.mark.parametrize("path", ["/", "/bigrpc/", "/bigrpc", "/?x", "https://host/", "https://host"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_services_are_listed(path: str, method: str) -> None:
    response = answered(Request(method, path))
    assert (response.status, value_of(response)) == (200, {"services": ["A.B", "Demo"]})


@pytest.mark.parametrize(("path", "allowed"), [("/", "GET, HEAD"), ("/bigrpc/", "GET, HEAD")])
def test_the_list_cannot_be_posted_to(path: str, allowed: str) -> None:
    response = answered(Request("POST", path))
    assert (response.status, dict(response.headers)["allow"]) == (405, allowed)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PRI"])
def test_a_method_is_called_by_post_only(method: str) -> None:
    response = answered(Request(method, "/bigrpc/Demo.echo"))
    assert (response.status, dict(response.headers)["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "target",
    [
        "/other",
        "/bigrpcx",
        "//bigrpc/Demo.echo",
        "/bigrpc/Demo",
        "/bigrpc/.",
        "/bigrpc/Demo.",
        "/bigrpc/Nope.echo",
        "/bigrpc/Demo.nope",
        "/bigrpc/Demo._hidden",
        "/bigrpc/Demo.sink",
        "*",
        "host:443",
        "http://[",
    ],
)
def test_what_is_not_there_is_not_found(target: str) -> None:
    response = answered(Request("POST", target, {}, b"1"))
    assert response.status == 404
    assert error_of(response)["type"] == "InvalidCall"


def test_a_near_miss_is_pointed_out() -> None:
    assert "did you mean 'echo'" in error_of(answered(post("Demo.ecko")))["message"]


@pytest.mark.parametrize("body", [b"{", b"a=1&b=2", b"[NaN]", b"\xff"])
def test_a_body_that_is_no_json_is_the_callers_fault(body: bytes) -> None:
    response = answered(post("Demo.echo", body))
    assert (response.status, error_of(response)["type"]) == (400, "InvalidCall")


@pytest.mark.parametrize("body", [b"", b"[1, 2]", b'{"wrong": 1}'])
def test_arguments_that_do_not_fit_are_the_callers_fault(body: bytes) -> None:
    response = answered(post("Demo.echo", body))
    assert response.status == 400
    assert "the arguments do not fit Demo.echo" in error_of(response)["message"]


def test_only_a_role_that_may_call_is_answered() -> None:
    assert answered(post("Demo.secret")).status == 403
    assert answered(post("Demo.secret"), DRIVER).status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_site_cannot_call_with_the_users_certificate(origin: str) -> None:
    response = answered(post("Demo.echo", b"1", host="127.0.0.1:1", origin=origin))
    assert (response.status, error_of(response)["type"]) == (403, "AuthenticationError")


def test_a_page_of_the_port_itself_may_call() -> None:
    assert answered(post("Demo.echo", b"1", host="127.0.0.1:1", origin="https://127.0.0.1:1")).status == 200


def test_what_a_method_raises_arrives_with_its_traceback() -> None:
    response = answered(post("Demo.fail", b'"boom"'))
    assert response.status == 590
    told = error_of(response)
    assert (told["type"], told["message"]) == ("LookupError", "boom")
    assert "raise LookupError(message)" in told["traceback"]
    assert "bigmachine/rpc" not in told["traceback"], "our own frames say nothing about the method"


@pytest.mark.parametrize("method", ["exits", "exits_async", "cancels_itself", "calls_wrongly"])
def test_nothing_that_a_method_raises_is_taken_for_anything_else(method: str) -> None:
    assert answered(post(f"Demo.{method}")).status == 590


def test_a_result_without_a_json_form_is_said_to_be_that() -> None:
    response = answered(post("Demo.opaque"))
    assert response.status == 500
    assert "cannot be written as JSON" in error_of(response)["message"]


def test_the_timeout_header_is_the_calls_deadline() -> None:
    assert 0 < value_of(answered(post("Demo.remaining", bigmachine_timeout="7.5"))) <= 7.5
    assert value_of(answered(post("Demo.remaining"))) is None


def test_a_deadline_that_passes_is_a_gateway_timeout() -> None:
    response = answered(post("Demo.nap", b"30", bigmachine_timeout="0.02"))
    assert (response.status, error_of(response)["type"]) == (504, "DeadlineExceeded")


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "1s"])
def test_a_timeout_that_makes_no_sense_is_refused(text: str) -> None:
    response = answered(post("Demo.nothing", bigmachine_timeout=text))
    assert response.status == 400
    assert "bigmachine-timeout" in error_of(response)["message"]


@pytest.mark.parametrize("method", ["count", "count_async"])
def test_an_iterator_is_answered_line_by_line(method: str) -> None:
    response = answered(post(f"Demo.{method}", b"3"))
    assert (response.status, response.body) == (200, b"0\n1\n2\n")
    assert dict(response.headers)["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize("method", ["breaks", "breaks_async"])
def test_an_error_in_a_stream_is_its_last_line_and_cuts_it_off(method: str) -> None:
    response = answered(post(f"Demo.{method}"))
    assert isinstance(response.body, bytes)
    first, second, last, rest = response.body.split(b"\n")
    assert (first, second, rest) == (b"1", b"2", b"TRUNCATED")
    told = json.loads(last)["error"]
    assert (told["type"], told["message"]) == ("LookupError", "in the middle")
    assert "in the middle" in told["traceback"]


def test_an_item_without_a_json_form_is_an_error_of_the_stream() -> None:
    response = answered(post("Demo.opaque_items"))
    assert isinstance(response.body, bytes)
    assert b"cannot be written as JSON" in response.body
    assert response.body.endswith(b"TRUNCATED")


@pytest.mark.parametrize("method", ["blocks", "drips"])
def test_the_deadline_holds_for_the_whole_stream(method: str) -> None:
    response = answered(post(f"Demo.{method}", bigmachine_timeout="0.05"))
    assert isinstance(response.body, bytes)
    assert response.body.startswith(b'1\n{"error":{"type":"DeadlineExceeded"')
    assert response.body.endswith(b"TRUNCATED")


def test_a_binary_file_is_answered_as_its_bytes() -> None:
    response = answered(post("Demo.file", b"1048576"))
    assert response.body == bytes(range(256)) * 4096
    assert dict(response.headers)["content-type"] == "application/octet-stream"


def test_an_error_in_a_file_only_cuts_it_off() -> None:
    assert answered(post("Demo.broken_file")).body == b"goodTRUNCATED"


@pytest.mark.parametrize("method", ["count", "count_async", "blocks", "drips"])
def test_closing_a_reply_closes_the_methods_generator(method: str) -> None:
    async def scenario(server: Server, demo: Demo) -> None:
        body = b"[9]" if method.startswith("count") else b""
        response = await answer(server, CLIENT, post(f"Demo.{method}", body))
        assert isinstance(response.body, Streamed)
        await anext(response.body)
        await response.aclose()
        await response.aclose()
        assert await asyncio.to_thread(demo.sink.closed.wait, 5)

    with_server(scenario)


def test_closing_a_reply_waits_for_no_thread_and_closes_the_generator_after_it() -> None:
    async def scenario(server: Server, demo: Demo) -> None:
        response = await answer(server, CLIENT, post("Demo.blocks"))
        assert isinstance(response.body, Streamed)
        await anext(response.body)
        pull = asyncio.ensure_future(anext(response.body))
        await asyncio.sleep(0)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        await response.aclose()
        assert not demo.sink.closed.is_set()
        demo.gate.set()
        assert await asyncio.to_thread(demo.sink.closed.wait, 5)

    with_server(scenario)


def test_cancelling_the_answer_cancels_the_call() -> None:
    async def scenario(server: Server, demo: Demo) -> None:
        answering = asyncio.create_task(answer(server, CLIENT, post("Demo.wait")))
        await until(lambda: demo.sink.running)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert demo.sink.cancelled == 1

    with_server(scenario)
