"""Connections for threads that wait, where the machine has a thread for each: what it runs, whom it lets in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from bigmachine.errors import AuthenticationError, InvalidCall, NetworkError
from bigmachine.rpc import Link, Reactor, TlsDialer, current_call, serve_waiting
from bigmachine.rpc.waiting import attendant as module
from bigmachine.rpc.wire import BY_LOOP, CALL, CLOSE, HELLO, ITEM, OVERSIZED, PING, PONG, STREAMED, VERSION, small_frame
from bigmachine.trust import WAITING_ALPN, Peer, Role, client_context, server_context, waiting_context
from tests.unit.rpc.ends import (
    MACHINE,
    PATIENCE,
    Ends,
    Host,
    dialer_to,
    finish,
    identity,
    listening,
    memory,
    tls,
    until,
)
from tests.unit.rpc.test_direct import abort_directs, call, connect, in_thread


class Service:
    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.ended = threading.Event()
        self.further: Link | None = None
        self.noted: list[object] = []

    def echo(self, value: object = None) -> object:
        return value

    def where(self) -> str:
        return threading.current_thread().name

    def size(self, n: int) -> bytes:
        return bytes(n)

    async def where_async(self) -> str:
        return threading.current_thread().name

    async def fail_async(self) -> None:
        raise KeyError("as asked")

    def coroutine(self, fails: bool) -> Any:
        return self.fail_async() if fails else self.where_async()

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    def hold(self) -> None:
        self.begun.release()
        while not current_call().cancelled():
            time.sleep(0.001)
        self.ended.set()

    async def hold_async(self) -> None:
        self.begun.release()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            self.ended.set()

    def hold_further(self) -> None:
        assert self.further is not None
        self.begun.release()
        try:
            self.further.call("S.hold")
        except CancelledError:
            self.noted.append("cancelled")
            raise
        finally:
            self.ended.set()

    def note_current(self) -> int:
        info = current_call()
        self.noted.append((info, info.caller, info.remaining(), info.cancelled()))
        return len(self.noted)

    def fork(self) -> int:
        child = os.fork()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else -1


class One:
    max_concurrency = 1

    def where(self) -> str:
        return threading.current_thread().name


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def ends(service: Service) -> Iterator[Ends]:
    with tls({"S": service, "One": One()}) as ends:
        connect(ends)
        yield ends


def attendants() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bigmachine-direct"]


@contextlib.contextmanager
def connected(host: Host, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
    """Dial as a link does for threads that wait, and say nothing."""
    context = context or waiting_context(client_context(identity()))
    with socket.create_connection(("127.0.0.1", host.port)) as sock:
        sock.settimeout(PATIENCE)
        with context.wrap_socket(sock, server_hostname=MACHINE) as secured:
            yield secured


def place(ends: Ends) -> tuple[str, int]:
    dialer = ends.link._dialer
    assert isinstance(dialer, TlsDialer)
    return dialer.host, dialer.port


def greeting(token: bytes, lane: int = 2, version: int = VERSION) -> bytes:
    return small_frame(HELLO, 0, 0, pickle.dumps((version, token, lane), 5))


def is_at_rest(ends: Ends | Host, lent: int = 0) -> bool:
    """Whether all threads but so many have ended, and have given their places back."""
    pool = ends.server.pool
    return ends.server.greeting == 0 and pool._to_lend == 64 - lent and pool._limit == 256 - lent


def hello_bytes(*, marked: bool = True) -> bytes:
    context = client_context(identity())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    end = (waiting_context(context) if marked else context).wrap_bio(incoming, outgoing, server_hostname=MACHINE)
    with contextlib.suppress(ssl.SSLWantReadError):
        end.do_handshake()
    return outgoing.read()


# what it runs


def test_a_plain_method_runs_in_the_thread_that_reads_its_call(ends: Ends) -> None:
    first = call(ends, "S.where")
    assert first.startswith("bigmachine-call-")  # found by the loop, the first time
    assert call(ends, "S.where") == "bigmachine-direct"
    assert len(attendants()) == 1
    assert is_at_rest(ends, 1)
    assert ends.link._direct is not None
    assert not ends.link._direct.by_loop


def test_it_answers_while_the_event_loop_stands_still(ends: Ends) -> None:
    call(ends, "S.echo", 1)
    stands, go = threading.Event(), threading.Event()

    def stand_still() -> None:
        stands.set()
        go.wait(PATIENCE)

    ends.server.reactor.post(stand_still)
    assert stands.wait(PATIENCE)
    try:
        outcome = in_thread(lambda: [call(ends, "S.echo", n) for n in range(3)])
        assert outcome() == [0, 1, 2]
    finally:
        go.set()


def test_methods_that_the_loop_serves_better_go_by_another_connection_from_then_on(ends: Ends) -> None:
    assert ends.link._direct is not None
    assert call(ends, "S.where_async") == "test-io"
    assert call(ends, "One.where").startswith("bigmachine-call-")
    with pytest.raises(KeyError, match="as asked"):
        call(ends, "S.fail_async")
    assert ends.link._direct.by_loop == {"S.where_async", "One.where", "S.fail_async"}
    assert call(ends, "S.where_async") == "test-io"
    call(ends, "S.where")
    assert call(ends, "S.where") == "bigmachine-direct"
    assert len(attendants()) == 1


def test_what_is_no_value_is_seen_to_by_the_loop(ends: Ends) -> None:
    for _ in range(2):
        assert call(ends, "S.coroutine", False) == "test-io"
        with pytest.raises(KeyError, match="as asked"):
            call(ends, "S.coroutine", True)
        assert list(ends.link.call("S.count", 3)) == [0, 1, 2]
    call(ends, "S.where")
    assert call(ends, "S.where") == "bigmachine-direct"
    assert list(call(ends, "S.count", 2000)) == list(range(2000))
    assert call(ends, "S.where") == "bigmachine-direct"
    until(ends.is_idle)


@pytest.mark.parametrize("size", [0, 70_000, 1_000_000])
def test_results_that_the_thread_sends_are_whole(ends: Ends, size: int) -> None:
    call(ends, "S.size", 1)
    for _ in range(2):
        assert call(ends, "S.size", size) == bytes(size)


def test_each_call_is_the_current_one_while_it_runs(ends: Ends, service: Service) -> None:
    for n in range(1, 4):
        assert call(ends, "S.note_current") == n
    infos = [noted[0] for noted in service.noted]  # type: ignore[index]
    assert len(set(map(id, infos))) == 3
    assert [noted[1:] for noted in service.noted] == [("driver", None, False)] * 3  # type: ignore[index]
    assert not any(info.cancelled() for info in infos)  # over, and none of them is told of the next one's end


def test_an_errand_is_done_before_the_next_call_and_once(ends: Ends) -> None:
    call(ends, "S.echo", 1)
    done: list[str] = []
    ends.server.pool.errand = lambda: done.append(threading.current_thread().name)
    for n in range(3):
        assert call(ends, "S.echo", n) == n
    assert done == ["bigmachine-direct"]


def test_a_peer_that_may_not_call_a_method_is_told_so_and_it_is_counted() -> None:
    service = Service()

    def authorize(peer: Peer, method: str) -> None:
        if method == "S.where":
            raise AuthenticationError(f"{peer} may not call {method}")

    with tls({"S": service}, authorize=authorize) as ends:
        connect(ends)
        for n in range(1, 4):
            with pytest.raises(AuthenticationError, match=r"may not call S\.where"):
                call(ends, "S.where")
            assert call(ends, "S.echo", n) == n
            assert ends.server.statistics.snapshot()["S.where"].errors == n


def test_a_child_that_a_method_forks_says_nothing_on_the_connection(ends: Ends) -> None:
    call(ends, "S.echo", 1)
    ends.server.table.find("S.fork")
    assert call(ends, "S.fork") == 1  # of the child, which ended with the method
    assert call(ends, "S.where").startswith("bigmachine")
    assert call(ends, "S.where") == "bigmachine-direct"


# who vanishes


@pytest.mark.parametrize("method", ["hold", "hold_async", "hold_further"])
@pytest.mark.parametrize("way", ["closed", "main lost", "direct lost", "link closed"])
def test_a_caller_that_vanishes_reaches_the_method(service: Service, method: str, way: str) -> None:
    further = Service()
    with memory({"S": further}) as beyond, tls({"S": service}) as ends:
        service.further = beyond.link
        connect(ends)
        ends.server.table.find(f"S.{method}")
        waiting = in_thread(lambda: call(ends, f"S.{method}"))
        assert service.begun.acquire(timeout=PATIENCE)
        if method == "hold_further":
            assert further.begun.acquire(timeout=PATIENCE)
        begin = time.monotonic()
        direct = ends.link._direct
        assert direct is not None
        if way == "closed":
            direct.drop()
        elif way == "main lost":
            ends.cut()
        elif way == "direct lost":
            ends.on_server(lambda: abort_directs(ends))
        else:
            ends.link.close(NetworkError("it is over"))
        assert service.ended.wait(PATIENCE)
        assert time.monotonic() - begin < PATIENCE / 2
        assert isinstance(waiting(), NetworkError)
        if method == "hold_further":
            assert further.ended.wait(PATIENCE)
            assert service.noted == ["cancelled"]
        until(lambda: is_at_rest(ends))


def test_calls_of_a_method_end_and_the_next_ones_are_not_taken_for_an_end(ends: Ends, service: Service) -> None:
    with memory({"S": Service()}) as beyond:
        service.further = beyond.link

        def ask_further(value: object) -> object:
            return beyond.link.call("S.echo", value)

        service.echo = ask_further  # type: ignore[method-assign, assignment]
        ends.server.table._found.clear()
        for n in range(300):
            assert call(ends, "S.echo", n) == n
            assert call(ends, "S.note_current") == n + 1
        assert not any(noted[3] for noted in service.noted)  # type: ignore[index]
        assert call(ends, "S.where").startswith("bigmachine")
        assert call(ends, "S.where") == "bigmachine-direct"


# how many


def test_with_few_threads_the_loop_serves() -> None:
    with tls({"S": Service()}, threads=1) as ends:
        connect(ends)
        for _ in range(3):
            assert call(ends, "S.where").startswith("bigmachine-call-")
        assert attendants() == []


def test_a_quarter_of_the_threads_may_serve_a_connection_each() -> None:
    with listening({"S": Service()}, threads=8) as host, contextlib.ExitStack() as opened:
        links = [opened.enter_context(_link(host)) for _ in range(3)]
        for ends in links:
            connect(ends)
            ends.call("S.where")
        places = [call(ends, "S.where") for ends in links]
        assert [place.rstrip("-0123456789") for place in places] == ["bigmachine-direct"] * 2 + ["bigmachine-call"]
        links[0].link._direct.drop()  # type: ignore[union-attr]  # it was connected
        until(lambda: host.server.pool._to_lend == 1)
        connect(links[0])
        assert call(links[0], "S.where") == "bigmachine-direct"


@contextlib.contextmanager
def _link(host: Host) -> Iterator[Ends]:
    reactor = Reactor.in_thread("test-io")
    ends = Ends(reactor, host.server, Link(reactor, dialer_to(host), name="m1"))
    try:
        yield ends
    finally:
        ends.link.close(NetworkError("the test is over"))
        reactor.run(asyncio.sleep(0), PATIENCE)
        finish(reactor)


def test_those_who_have_not_shown_who_they_are_get_a_bounded_number_of_threads(ends: Ends) -> None:
    hello = hello_bytes()
    opened: list[socket.socket] = []
    try:
        for _ in range(3 * module._MOST_GREETING):
            # Not more than the hello: whoever is there will wait for the rest.
            opened.append(socket.create_connection(place(ends)))
            opened[-1].sendall(hello)
        for sock in opened:
            sock.settimeout(PATIENCE)
            assert sock.recv(1) == b"\x16"  # also those beyond the bound: the loop serves them
        assert ends.server.greeting == module._MOST_GREETING
        assert len(attendants()) == module._MOST_GREETING + 1
        assert ends.call("S.echo", 1) == 1
        assert call(ends, "S.echo", 2) == 2
    finally:
        for sock in opened:
            sock.close()
    until(lambda: is_at_rest(ends, 1))


@pytest.mark.parametrize("way", ["hello", "whole"])
def test_many_that_are_opened_and_dropped_leave_nothing(way: str) -> None:
    hello = hello_bytes()
    context = waiting_context(client_context(identity()))
    end = hello.index(WAITING_ALPN.encode()) + len(WAITING_ALPN)
    with listening({"S": Service()}) as host:
        for n in range(1000 if way == "hello" else 150):
            if way == "hello":
                with socket.create_connection(("127.0.0.1", host.port)) as sock:
                    sock.sendall(hello[: None if n % 50 == 0 else end + n % 10])
            else:
                with connected(host, context) as secured:
                    secured.sendall(greeting(b"nobody's")[: None if n % 3 else n % 20])
        with _link(host) as ends:
            assert ends.call("S.echo", 1) == 1  # so all of them have been accepted
        until(lambda: is_at_rest(host) and not attendants() and not host.reactor._tasks)


# whom it lets in


def test_a_client_without_a_certificate_is_told_and_runs_nothing(ends: Ends) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname = False
    stranger.verify_mode = ssl.CERT_NONE
    stranger.set_alpn_protocols(["bigmachine/1", WAITING_ALPN])
    host, port = place(ends)
    with (
        socket.create_connection((host, port)) as sock,
        stranger.wrap_socket(sock, server_hostname=MACHINE) as secured,
        pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"),
    ):
        secured.read()
    until(lambda: is_at_rest(ends, 1))
    assert call(ends, "S.echo", 1) == 1


@pytest.mark.parametrize("protocols", [[WAITING_ALPN], ["h2", WAITING_ALPN]])
def test_a_client_that_speaks_something_else_is_dropped(ends: Ends, protocols: list[str]) -> None:
    context = client_context(identity())
    context.set_alpn_protocols(protocols)
    with _raw(ends, context) as secured:
        secured.sendall(greeting(ends.link._token))
        assert _rest(secured) == b""
    until(lambda: is_at_rest(ends, 1))


@pytest.mark.parametrize(
    "frames",
    [
        b"\xff" * 64,
        small_frame(PING, 0, 1),
        greeting(b"another link's"),
        greeting(b"", 2, VERSION + 1),
        small_frame(HELLO, 0, 0, b"no pickle"),
        small_frame(HELLO, 0, 0, pickle.dumps("too short")),
    ],
)
def test_a_connection_that_does_not_say_whose_it_is_ends(ends: Ends, frames: bytes) -> None:
    with _raw(ends) as secured:
        secured.sendall(frames)
        assert _rest(secured) == b""
    until(lambda: is_at_rest(ends, 1))
    assert call(ends, "S.echo", 1) == 1


@pytest.mark.parametrize(
    "frames",
    [
        b"\xff" * 64,
        small_frame(CALL, OVERSIZED, 1, b"1"),
        small_frame(CALL, STREAMED, 1, pickle.dumps(("S.echo", (), {}, None, None))),
        small_frame(ITEM, 0, 1, b"x"),
        small_frame(CLOSE, 0, 1),
        small_frame(CALL, BY_LOOP, 1, b""),
        struct.pack("<IHBBQ", 5, 0, 99, 0, 1) + b"abcde",
    ],
)
def test_frames_that_have_no_business_there_end_the_connection_and_nothing_else(ends: Ends, frames: bytes) -> None:
    with _raw(ends) as secured:
        secured.sendall(greeting(ends.link._token) + small_frame(PING, 0, 7) + frames)
        assert _rest(secured) in (b"", small_frame(PONG, 0, 7))  # what came together with no frame is none either
    until(lambda: is_at_rest(ends, 1))
    assert call(ends, "S.echo", 1) == 1


@pytest.mark.parametrize(
    "payload", [b"no pickle", pickle.dumps(1), pickle.dumps(("S.echo", 5)), b"cnowhere\nnothing\n(tR."]
)
def test_calls_that_cannot_be_rebuilt_are_refused_and_the_next_one_is_answered(ends: Ends, payload: bytes) -> None:
    good = small_frame(CALL, 0, 3, pickle.dumps(("S.echo", (9,), {}, None, None)))
    with _raw(ends) as secured:
        secured.sendall(greeting(ends.link._token) + small_frame(CALL, 0, 2, payload))
        refused = secured.recv(100_000)
        assert (refused[6], refused[8]) == (4, 2)
        assert isinstance(ends.link.codec.load_error(refused[16:], refused[7]), InvalidCall)
        secured.sendall(good)
        assert secured.recv(100_000) == small_frame(3, 0, 3, pickle.dumps(9, 5))


def test_a_call_that_comes_before_the_last_one_is_answered_is_a_peers_that_has_gone(
    ends: Ends, service: Service
) -> None:
    held = small_frame(CALL, 0, 2, pickle.dumps(("S.hold", (), {}, None, None)))
    ends.server.table.find("S.hold")
    with _raw(ends) as secured:
        secured.sendall(greeting(ends.link._token) + held)
        assert service.begun.acquire(timeout=PATIENCE)
        secured.sendall(held)
        assert service.ended.wait(PATIENCE)
        assert service.begun.acquire(timeout=PATIENCE)  # and is a call all the same
    until(lambda: is_at_rest(ends, 1))


@contextlib.contextmanager
def _raw(ends: Ends, context: ssl.SSLContext | None = None) -> Iterator[ssl.SSLSocket]:
    context = context or waiting_context(client_context(identity()))
    with socket.create_connection(place(ends)) as sock:
        sock.settimeout(PATIENCE)
        with context.wrap_socket(sock, server_hostname=MACHINE) as secured:
            yield secured


def _rest(secured: ssl.SSLSocket) -> bytes:
    """Read to the end, which may come with a reset for what was not read there."""
    told = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := secured.recv(10_000):
            told += data
    return told


# its end


def test_a_server_that_closes_ends_those_who_are_greeting_and_those_who_serve() -> None:
    with (
        listening({"S": Service()}) as host,
        _link(host) as ends,
        socket.create_connection(("127.0.0.1", host.port)) as s,
    ):
        connect(ends)
        s.sendall(hello_bytes())
        until(lambda: host.server.greeting == 1)
        assert len(attendants()) == 2
        host.reactor.run(host.server.close(), PATIENCE)
        until(lambda: not attendants(), 5.0)  # not after the time-out of the handshake
        host.reactor.run(asyncio.sleep(0), PATIENCE)


def test_without_the_mark_nothing_is_served_by_a_thread() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        context = server_context(identity(Role.MACHINE, MACHINE))
        assert not serve_waiting(ours, context, None)  # type: ignore[arg-type]  # nothing has come
        theirs.sendall(hello_bytes(marked=False))
        assert not serve_waiting(ours, context, None)  # type: ignore[arg-type]  # as above
