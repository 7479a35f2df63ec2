"""A provider's notice is asked for as its metadata service wants it, and understood."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest

from bigmachine.agent.events import Notice
from bigmachine.agent.watch import notices
from bigmachine.agent.watch.notices import parse, watch

SAID = '{"action": "terminate", "time": "2026-11-24T12:00:00Z"}'
NOTICE = Notice(1795521600.0, "EC2 takes the instance back (terminate)")


class Metadata(http.server.BaseHTTPRequestHandler):
    """The metadata service: a token first, then answers."""

    tokens: set[str]
    notice: str

    def log_message(self, *_: object) -> None: ...

    def _reply(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        token = f"token{len(self.tokens)}"
        self.tokens.add(token)
        self._reply(200, token)

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] not in self.tokens:
            self._reply(401)
        elif self.path == "/latest/meta-data/spot/instance-action" and self.notice:
            self._reply(200, self.notice)
        else:
            self._reply(404, "Not Found")


@pytest.fixture
def service() -> Iterator[tuple[str, type[Metadata]]]:
    handler = type("Handler", (Metadata,), {"tokens": set(), "notice": ""})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def test_a_notice_is_found_with_a_token(service: tuple[str, type[Metadata]]) -> None:
    address, handler = service
    metadata = notices._Metadata(address)
    assert metadata.ask() is None
    handler.notice = SAID
    assert metadata.ask() == NOTICE
    assert handler.tokens == {"token0"}  # one was enough


def test_a_token_that_is_not_taken_any_more_is_replaced(service: tuple[str, type[Metadata]]) -> None:
    address, handler = service
    handler.notice = SAID
    metadata = notices._Metadata(address)
    metadata.ask()
    handler.tokens.clear()
    assert metadata.ask() is None
    assert metadata.ask() == NOTICE


def test_where_nobody_answers_there_is_no_notice() -> None:
    assert notices._Metadata("127.0.0.1:1").ask() is None


def test_it_is_told_once(service: tuple[str, type[Metadata]], monkeypatch: pytest.MonkeyPatch) -> None:
    address, handler = service
    monkeypatch.setattr(notices, "_EC2", address)
    monkeypatch.setattr(notices, "_PERIOD", 0.01)
    told: list[Notice] = []

    async def run() -> None:
        watching = asyncio.create_task(watch("ec2", told.append))
        await asyncio.sleep(0.05)
        assert told == []
        handler.notice = SAID
        async with asyncio.timeout(5):
            await watching

    asyncio.run(run())
    assert told == [NOTICE]


def test_other_providers_give_none() -> None:
    asyncio.run(watch("elsewhere", lambda notice: pytest.fail(str(notice))))


@pytest.mark.parametrize("text", ["soon", "{}", '{"action": "stop", "time": "later"}', "[1]"])
def test_what_is_no_notice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"notice|time data|Expecting"):
        parse(text)
