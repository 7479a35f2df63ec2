"""The small server, over real sockets, with machines inside this process."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.parse
from collections.abc import Iterator

import pytest

import bigmachine
from bigmachine import BigmachineError, InvalidCall, Session
from tests.unit.inside import eventually


class Work:
    def add(self, n: int) -> int:
        return n + 1


@pytest.fixture
def session() -> Iterator[Session]:
    with bigmachine.start("inprocess", output="off") as session:
        session.start(services=[Work()])[0].wait()
        yield session


def parts(url: str) -> tuple[str, int, str]:
    split = urllib.parse.urlsplit(url)
    assert split.hostname is not None
    assert split.port is not None
    return split.hostname, split.port, split.query.removeprefix("token=")


def fetch(url: str, path: str, **headers: str) -> tuple[int, str]:
    host, port, _ = parts(url)
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def said(url: str, data: bytes) -> bytes:
    with socket.create_connection(parts(url)[:2], timeout=20) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        found = b""
        while piece := client.recv(65536):
            found += piece
    return found


def test_the_url_opens_the_pages_and_its_token_nothing_else(session: Session) -> None:
    url = session.serve_debug(port=0)
    token = parts(url)[2]
    assert len(token) >= 32
    assert fetch(url, f"/debug/bigmachine/?token={token}")[0] == 200
    assert "m1" in fetch(url, "/debug/bigmachine/status", Authorization=f"Bearer {token}")[1]
    assert fetch(url, "/debug/bigmachine/status")[0] == 403
    assert fetch(url, "/debug/bigmachine/static/dashboard.js")[0] == 403


def test_it_listens_where_it_says_and_on_loopback_alone(session: Session) -> None:
    host, port, _ = parts(session.serve_debug(port=0))
    assert host == "127.0.0.1"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_asked_again_it_gives_the_same_url_and_for_another_port_an_error(session: Session) -> None:
    url = session.serve_debug(port=0)
    assert session.serve_debug(port=0) == url
    assert session.serve_debug(port=parts(url)[1]) == url
    with pytest.raises(InvalidCall, match="served at"):
        session.serve_debug(port=1)


def test_threads_that_ask_at_once_get_one_server(session: Session) -> None:
    urls: list[str] = []
    threads = [threading.Thread(target=lambda: urls.append(session.serve_debug(port=0))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(urls) == 8
    assert len(set(urls)) == 1


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(session: Session) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BigmachineError, match=f"127.0.0.1:{port}.*in use.*port=0"):
            session.serve_debug(port=port)
    assert session.serve_debug(port=port)  # it is free now


@pytest.mark.parametrize("port", [-1, 65536, True, "3333"])
def test_what_is_no_port_is_refused(session: Session, port: int) -> None:
    with pytest.raises(InvalidCall, match="port="):
        session.serve_debug(port=port)


def test_an_address_of_another_computer_is_an_error(session: Session) -> None:
    with pytest.raises(BigmachineError, match=r"192\.0\.2\.1"):
        session.serve_debug("192.0.2.1", 0)


def test_it_closes_with_the_session_and_tells_its_viewers() -> None:
    session = bigmachine.start("inprocess", output="off")
    session.start(services=[Work()])[0].wait()
    url = session.serve_debug(port=0)
    host, port, token = parts(url)
    viewer = http.client.HTTPConnection(host, port, timeout=20)
    viewer.request("GET", "/debug/bigmachine/events", headers={"Authorization": f"Bearer {token}"})
    stream = viewer.getresponse()
    while b"event: all" not in stream.readline():
        pass
    session.shutdown()
    assert b"event: end" in stream.read()
    viewer.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, port), timeout=5)
    left = [each.name for each in threading.enumerate() if each.name in ("bigmachine-pages", "bigmachine-watch")]
    assert left == []
    with pytest.raises(BigmachineError, match="shut down"):
        session.serve_debug(port=0)


def test_one_connection_carries_several_requests(session: Session) -> None:
    url = session.serve_debug(port=0)
    host, port, token = parts(url)
    connection = http.client.HTTPConnection(host, port, timeout=20)
    for _ in range(3):
        connection.request(
            "GET", "/debug/bigmachine/static/dashboard.css", headers={"Authorization": f"Bearer {token}"}
        )
        reply = connection.getresponse()
        assert reply.status == 200
        assert len(reply.read()) > 1000
    connection.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # without a Host
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", b"413"),
        (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
    ],
)
def test_what_is_no_request_for_a_page_is_refused(session: Session, data: bytes, status: bytes) -> None:
    url = session.serve_debug(port=0)
    assert said(url, data).startswith(b"HTTP/1.1 " + status)
    assert fetch(url, "/metrics", Authorization=f"Bearer {parts(url)[2]}")[0] == 200


def test_more_connections_than_there_is_room_for_are_closed(session: Session) -> None:
    url = session.serve_debug(port=0)
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    clients = [socket.create_connection(parts(url)[:2], timeout=20) for _ in range(64)]
    try:
        found = said(url, request)
    except OSError:
        found = b""
    finally:
        for client in clients:
            client.close()
    assert found == b""
    eventually(lambda: is_answered(url, request), "there is room again")


def is_answered(url: str, request: bytes) -> bool:
    try:
        return said(url, request).startswith(b"HTTP/1.1 403")
    except OSError:
        return False
