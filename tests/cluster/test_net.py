"""Calls over real TLS sockets on the loopback, on every stack of transports, and what strangers at the port leave."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from bigmachine.errors import AuthenticationError, BigmachineError, DeadlineExceeded, NetworkError
from bigmachine.rpc import Link, Reactor, TlsDialer, net
from bigmachine.rpc.connection import Connection
from bigmachine.rpc.net import PeerGone, as_network_error
from bigmachine.trust import Authority, Role, client_context, server_context
from tests.cluster.programs import RunProgram
from tests.unit.rpc.ends import (
    MACHINE,
    PATIENCE,
    SESSION,
    Host,
    dialer_to,
    finish,
    identity,
    listening,
    once_begun,
    quiet,
    tls,
    until,
)

#: Those that are installed: uvloop is not for every platform, and aiofastnet is an extra. CI runs with and without it.
STACKS = tuple(
    name
    for name in ("uvloop+aiofastnet", "asyncio+aiofastnet", "uvloop", "asyncio")
    if all(part == "asyncio" or importlib.util.find_spec(part) for part in name.split("+"))
)


class Service:
    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.told = threading.Event()
        self.gone = threading.Event()

    def echo(self, value: object = None) -> object:
        return value

    async def echo_async(self, value: object = None) -> object:
        return value

    def fail(self, exc: BaseException) -> None:
        raise exc

    def count(self, n: int) -> Iterator[int]:
        try:
            yield from range(n)
        finally:
            self.told.set()

    async def hold(self) -> None:
        self.begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.told.set()

    def hold_plain(self) -> None:
        self.begun.release()
        self.gone.wait(PATIENCE)


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which event loop and which transports carry the bytes."""
    name = str(request.param)
    if "uvloop" not in name:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    if "aiofastnet" not in name:
        monkeypatch.setitem(sys.modules, "aiofastnet", None)
    return name


@pytest.fixture
def service() -> Service:
    return Service()


def begun(service: Service) -> None:
    assert service.begun.acquire(timeout=PATIENCE), "it does not begin"


# --- calls


@pytest.mark.usefixtures("stack")
def test_calls_results_errors_streams_and_large_values_cross_the_wire(service: Service) -> None:
    array = np.arange(500_000)
    with tls({"S": service}) as ends:
        assert ends.call("S.echo", {"a": (1, b"x")}) == {"a": (1, b"x")}
        assert ends.call("S.echo_async", 5) == 5
        with pytest.raises(LookupError, match="there"):
            ends.call("S.fail", LookupError("there"))
        assert list(ends.call("S.count", 1000)) == list(range(1000))
        for _ in range(2):
            assert (ends.call("S.echo", array) == array).all()
            assert ends.call("S.echo_async", bytes(1 << 20)) == bytes(1 << 20)
        assert ends.link.bulk is not None


@pytest.mark.usefixtures("stack")
def test_a_thousand_calls_in_flight_come_back_each_with_its_own_result(service: Service) -> None:
    with tls({"S": service}) as ends:
        calls = [ends.submit("S.echo_async", n) for n in range(1000)]
        assert [call.result(PATIENCE) for call in calls] == list(range(1000))


def test_cancellation_and_deadlines_cross_the_wire(service: Service) -> None:
    with tls({"S": service}) as ends:
        call = ends.submit("S.hold")
        begun(service)
        call.cancel()
        assert service.told.wait(PATIENCE)
        service.told.clear()

        def attempt(seconds: float) -> None:
            with pytest.raises(DeadlineExceeded):
                ends.call("S.hold", timeout=seconds)

        once_begun(service.begun, attempt)
        assert service.told.wait(PATIENCE)
        stream = ends.call("S.count", 10**9)
        next(stream)  # a generator that has not begun has nothing to finish
        service.told.clear()
        del stream
        assert service.told.wait(PATIENCE)


def test_small_calls_come_through_while_large_values_go_both_ways(service: Service) -> None:
    with tls({"S": service}) as ends:
        large = bytes(24 << 20)
        ends.call("S.echo", bytes(1 << 20))  # the bulk lane is there
        bulk = ends.submit("S.echo", large)
        small = 0
        while not bulk.done():
            assert ends.call("S.echo_async", small) == small
            small += 1
        assert bulk.result() == large
        assert small >= 3


# --- loss


@pytest.mark.usefixtures("stack")
def test_a_connection_that_the_server_closes_is_a_network_error_and_the_next_call_dials_anew(service: Service) -> None:
    with tls({"S": service}) as ends:
        call = ends.submit("S.hold")
        begun(service)

        def cut() -> None:
            for channel in list(ends.server.channels):
                assert channel.main is not None
                channel.main.abort()

        ends.on_server(cut)
        with pytest.raises(NetworkError):
            call.result(PATIENCE)
        assert service.told.wait(PATIENCE)
        assert ends.call("S.echo", 1) == 1


def test_a_peer_that_ends_during_a_call_is_a_network_error_and_then_gone(service: Service) -> None:
    with quiet():
        reactor = Reactor.in_thread("test-io")
        with listening({"S": service}) as host:
            link = Link(reactor, dialer_to(host), name="m1")
            call = link.submit("S.hold", (), {})
            begun(service)
        with pytest.raises(NetworkError):
            call.result(PATIENCE)
        with pytest.raises(PeerGone, match="nothing listens there any more"):
            link.call("S.echo")
        link.close(NetworkError("over"))
        finish(reactor)


class Mute:
    """A peer that does the handshake and then takes bytes without ever answering."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._socks: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="mute", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        context = server_context(identity(Role.MACHINE, MACHINE))
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._socks.append(context.wrap_socket(sock, server_side=True))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)
        for sock in self._socks:
            sock.close()


def test_a_deadline_needs_nothing_from_a_peer_that_is_dead_but_connected() -> None:
    with quiet():
        mute = Mute()
        reactor = Reactor.in_thread("test-io")
        dialer = TlsDialer("127.0.0.1", mute.port, MACHINE, SESSION, (Role.MACHINE,), client_context(identity()))
        link = Link(reactor, dialer, name="m1")
        with pytest.raises(DeadlineExceeded):
            link.call("S.echo", timeout=0.1)
        with pytest.raises(DeadlineExceeded):
            link.call("S.echo", bytes(1 << 20), timeout=0.1)
        reactor.loop.call_soon_threadsafe(link.drop)
        link.close(NetworkError("over"))
        mute.close()
        finish(reactor)


@pytest.mark.usefixtures("stack")
def test_a_connection_whose_peer_says_no_farewell_is_closed_twice_and_then_ends_when_it_is_aborted() -> None:
    with quiet():
        context = client_context(identity())
        mute = Mute()
        reactor = Reactor.in_thread("test-io")
        dialer = TlsDialer("127.0.0.1", mute.port, MACHINE, SESSION, (Role.MACHINE,), context)
        link = Link(reactor, dialer, name="m1")
        connection = reactor.run(dialer.dial(reactor, link), PATIENCE)

        async def end() -> None:
            connection.close()
            connection.close()
            assert connection.is_open
            connection.abort()

        reactor.run(end(), PATIENCE)
        until(lambda: not connection.is_open)
        link.close(NetworkError("over"))
        mute.close()
        finish(reactor)


# --- who may talk to whom


def refused(dialer: TlsDialer) -> BigmachineError:
    """Call by that dialer, and return the error."""
    reactor = Reactor.in_thread("test-io")
    link = Link(reactor, dialer, name="m1")
    try:
        error = link.submit("S.echo", (), {}).exception(PATIENCE)
    finally:
        link.close(NetworkError("over"))
        finish(reactor)
    assert isinstance(error, BigmachineError)
    return error


@pytest.fixture
def host(service: Service) -> Iterator[Host]:
    with quiet(), listening({"S": service}) as it:
        yield it
        until(lambda: not it.server.channels)


@pytest.fixture
def nothing_stays(host: Host) -> Iterator[None]:
    """After the test the server has no channel, no task and no descriptor more than before."""
    refused(dialer_to(host, called="hab12cd-m9"))  # what a loop opens with its first connection, it keeps
    until(lambda: _held(host)[:2] == (0, 0))
    before = _held(host)
    yield
    until(lambda: all(now <= then for now, then in zip(_held(host), before, strict=True)))


def _held(host: Host) -> tuple[int, int, int]:
    tasks: list[int] = []
    done = threading.Event()

    def count() -> None:
        tasks.append(len(asyncio.all_tasks(host.reactor.loop)))
        done.set()

    host.reactor.post(count)
    assert done.wait(PATIENCE)
    return len(host.server.channels), tasks[0], len(os.listdir("/proc/self/fd"))


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_a_caller_with_a_foreign_certificate_is_refused_at_once_by_name(host: Host, stack: str) -> None:
    foreign = Authority(SESSION).issue(Role.DRIVER, "driver")
    # The foreigner believes in this session's authority, so it is the machine that refuses.
    forged = type(foreign)(
        foreign.session, foreign.role, foreign.id, foreign.certificate, foreign.key, identity().authority
    )
    error = refused(dialer_to(host, forged))
    if "aiofastnet" in stack:  # 1.2 keeps the alert to itself, so the caller only sees the connection end
        assert isinstance(error, NetworkError), error
    else:
        assert isinstance(error, AuthenticationError), error
        assert "refused this side's certificate" in str(error)


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_a_machine_of_another_authority_is_not_called(host: Host) -> None:
    error = refused(dialer_to(host, Authority(SESSION).issue(Role.DRIVER, "driver")))
    assert isinstance(error, AuthenticationError)
    assert "could not prove who it is" in str(error)


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_another_machine_at_the_same_port_is_not_called(host: Host) -> None:
    error = refused(dialer_to(host, called="hab12cd-m2"))
    assert isinstance(error, AuthenticationError)
    assert "hab12cd-m2" in str(error)


@pytest.mark.usefixtures("nothing_stays")
def test_a_machine_of_a_role_or_session_that_was_not_meant_is_not_called(host: Host) -> None:
    context = client_context(identity())
    for session, role in ((SESSION, Role.AGENT), ("0ther000", Role.MACHINE)):
        error = refused(TlsDialer("127.0.0.1", host.port, MACHINE, session, (role,), context))
        assert isinstance(error, AuthenticationError), error


def test_a_machine_that_speaks_another_protocol_is_a_network_error() -> None:
    with quiet():
        context = server_context(identity(Role.MACHINE, MACHINE))
        context.set_alpn_protocols(["h2"])
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with contextlib.suppress(OSError):
                sock, _ = listener.accept()
                with context.wrap_socket(sock, server_side=True) as secured:
                    secured.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        dialer = TlsDialer(
            "127.0.0.1", listener.getsockname()[1], MACHINE, SESSION, (Role.MACHINE,), client_context(identity())
        )
        error = refused(dialer)
        assert type(error) is NetworkError
        thread.join(PATIENCE)
        listener.close()


# --- strangers at the port


def _speak(port: int, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(data)
        with contextlib.suppress(ConnectionError):
            while sock.recv(1000):
                pass


def _without_certificate(port: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), PATIENCE) as sock,
        contextlib.suppress(ssl.SSLError, ConnectionError),
        context.wrap_socket(sock) as secured,
    ):
        secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert secured.recv(1000) == b""


def _half_a_hello(port: int) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = client_context(identity()).wrap_bio(incoming, outgoing, server_hostname=MACHINE)
    with contextlib.suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    data = outgoing.read()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(data[: len(data) // 2])


def _drop(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), PATIENCE).close()


def _reset(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.sendall(b"\x16\x03\x01")


STRANGERS: dict[str, Callable[[int], None]] = {
    "garbage": lambda port: _speak(port, os.urandom(500)),
    "http": lambda port: _speak(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "frames": lambda port: _speak(port, bytes(64)),
    "no certificate": _without_certificate,
    "half a hello": _half_a_hello,
    "drop": _drop,
    "reset": _reset,
}


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_strangers_at_the_port_harm_nobody_and_leave_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    # aiofastnet 1.2 on uvloop does not notice that a connection was reset in the handshake before its time is up.
    monkeypatch.setattr(net, "HANDSHAKE_TIMEOUT", 0.3)
    reactor = Reactor.in_thread("test-io")
    link = Link(reactor, dialer_to(host), name="m1")
    assert link.call("S.echo", 1) == 1
    for _ in range(3):
        for stranger in STRANGERS.values():
            stranger(host.port)
            assert link.call("S.echo", 2) == 2
    link.close(NetworkError("over"))
    finish(reactor)


@pytest.mark.usefixtures("nothing_stays")
def test_many_connections_opened_and_dropped_leave_nothing(host: Host) -> None:
    for _ in range(100):
        _drop(host.port)


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_a_stranger_that_says_nothing_is_dropped_after_the_handshakes_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "HANDSHAKE_TIMEOUT", 0.05)
    with socket.create_connection(("127.0.0.1", host.port), PATIENCE) as sock:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
        assert time.monotonic() - began < PATIENCE


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_a_peer_that_vanishes_in_the_middle_of_a_frame_leaves_nothing(host: Host) -> None:
    context = client_context(identity())
    with (
        socket.create_connection(("127.0.0.1", host.port), PATIENCE) as sock,
        context.wrap_socket(sock, server_hostname=MACHINE) as secured,
    ):
        secured.sendall(b"\x10\x00\x00\x00\x00\x00\x02")
        until(lambda: host.server.channels)


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_dialling_that_is_given_up_when_it_is_just_done_leaves_the_socket_to_its_transport(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed under the transport, it ends the process: libuv aborts once the descriptor is another one's."""
    reactor = Reactor.in_thread("test-io")
    link = Link(reactor, dialer_to(host), name="m1")
    made: list[tuple[Connection, socket.socket]] = []

    async def dial() -> None:
        dialling = asyncio.ensure_future(dialer_to(host).dial(reactor, link))
        connection_made = Connection.connection_made

        def give_up(connection: Connection, transport: asyncio.BaseTransport) -> None:
            connection_made(connection, transport)
            made.append((connection, transport.get_extra_info("socket")))
            dialling.cancel()

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "connection_made", give_up)
            with pytest.raises(asyncio.CancelledError):
                await dialling
        connection, sock = made[-1]
        assert not connection.is_open or sock.fileno() >= 0

    for _ in range(5):
        reactor.run(dial(), PATIENCE)
        assert link.call("S.echo", 1) == 1
    until(lambda: not any(connection.is_open for connection, _ in made))
    link.close(NetworkError("over"))
    finish(reactor)


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_dialling_that_is_given_up_in_its_first_turns_ends_the_connection_without_a_word(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a loop that was kept busy the peer's answer is there when it first looks."""
    reactor = Reactor.in_thread("test-io")
    link = Link(reactor, dialer_to(host), name="m1")
    reached, connection_made = TlsDialer._reached, Connection.connection_made
    made: list[Connection] = []

    async def dial() -> None:
        loop = asyncio.get_running_loop()
        go = loop.create_future()

        async def busy_afterwards(dialer: TlsDialer, loop: asyncio.AbstractEventLoop) -> socket.socket:
            sock = await reached(dialer, loop)
            loop.call_soon(begin)
            await go
            return sock

        def begin() -> None:
            go.set_result(None)
            loop.call_soon(loop.call_soon, time.sleep, 0.1)  # it comes after what begins the handshake

        def give_up(connection: Connection, transport: asyncio.BaseTransport) -> None:
            connection_made(connection, transport)
            if connection.reactor is reactor:
                made.append(connection)
                dialling.cancel()

        with monkeypatch.context() as patch:
            patch.setattr(TlsDialer, "_reached", busy_afterwards)
            patch.setattr(Connection, "connection_made", give_up)
            dialling = asyncio.ensure_future(dialer_to(host).dial(reactor, link))
            with pytest.raises(asyncio.CancelledError):
                await dialling

    for _ in range(3):
        reactor.run(dial(), PATIENCE)
    assert len(made) == 3
    until(lambda: not any(connection.is_open for connection in made))
    assert link.call("S.echo", 1) == 1
    link.close(NetworkError("over"))
    finish(reactor)


@pytest.mark.usefixtures("stack")
def test_a_connection_that_is_cut_before_its_first_bytes_are_away_is_closed_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed once more, its number would be another file's by then; libuv aborts if that is a connection."""
    reached = TlsDialer._reached

    async def cut(dialer: TlsDialer, loop: asyncio.AbstractEventLoop) -> socket.socket:
        sock = await reached(dialer, loop)
        sock.shutdown(socket.SHUT_RDWR)
        return sock

    monkeypatch.setattr(TlsDialer, "_reached", cut)
    reactor = Reactor.in_thread("test-io")
    link = Link(reactor, dialer_to(host), name="m1")
    with contextlib.ExitStack() as opened:
        errors = [link.submit("S.echo", (), {}).exception(PATIENCE) for _ in range(5)]
        assert all(isinstance(error, NetworkError) for error in errors), errors
        others = [opened.enter_context(open(os.devnull)) for _ in range(20)]  # they get the numbers that are free
        errors.clear()
        gc.collect()
        for other in others:
            os.fstat(other.fileno())
    link.close(NetworkError("over"))
    finish(reactor)


@pytest.fixture
def crowded() -> Iterator[socket.socket]:
    """A listener that takes no more connections: the kernel answers to no other until one is accepted."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_a_connection_that_does_not_come_about_is_given_up(crowded: socket.socket) -> None:
    host, port = crowded.getsockname()
    context = client_context(identity())
    dialer = TlsDialer(
        host, port, MACHINE, SESSION, (Role.MACHINE,), context, connect_timeout=0.2, handshake_timeout=0.0
    )
    with quiet():
        assert "did not answer in time" in str(refused(dialer))


@pytest.mark.usefixtures("stack", "nothing_stays")
def test_a_connection_that_comes_about_later_is_waited_for(crowded: socket.socket) -> None:
    reactor = Reactor.in_thread("test-io")
    connecting = asyncio.run_coroutine_threadsafe(
        net._connected(reactor.loop, socket.AF_INET, crowded.getsockname()), reactor.loop
    )
    time.sleep(0.1)
    assert not connecting.done()
    crowded.settimeout(0.05)

    def is_connected() -> bool:
        with contextlib.suppress(TimeoutError):
            crowded.accept()[0].close()
        return connecting.done()

    until(is_connected)
    with connecting.result() as sock:
        assert sock.getpeername() == crowded.getsockname()
    finish(reactor)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="a process cannot see its threads here")
def test_a_driver_looks_up_no_address_that_is_one(run_program: RunProgram) -> None:
    """An event loop would have threads for that: four of them, of its own."""
    program = (
        "import os, bigmachine\n"
        "def name(thread):\n"
        "    with open(f'/proc/self/task/{thread}/comm') as file: return file.read().strip()\n"
        "class Service:\n"
        "    def answer(self): return 42\n"
        "with bigmachine.start('local') as session:\n"
        "    machine, = session.start(1, services=[Service()])\n"
        "    threads = map(name, os.listdir('/proc/self/task'))\n"
        "    print(machine.call(Service.answer), [each for each in threads if 'uv' in each])\n"
    )
    assert run_program("-c", program).out == "42 []\n"


# --- the words for what the network says


@pytest.mark.parametrize(
    ("exc", "kind", "text"),
    [
        (ConnectionRefusedError(111, "refused"), PeerGone, "nothing listens there any more"),
        (TimeoutError(), NetworkError, "did not answer in time: is its host up"),
        (ConnectionResetError(104, "reset"), NetworkError, "the connection to m1 failed: ConnectionResetError"),
        (OSError(113, "no route"), NetworkError, "the connection to m1 failed: OSError"),
        (ssl.SSLCertVerificationError(1, "bad"), AuthenticationError, "could not prove who it is"),
        (ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] x"), AuthenticationError, "refused this side's"),
        (ssl.SSLEOFError(8, "EOF occurred"), NetworkError, "the connection to m1 failed: SSLEOFError"),
        (socket.gaierror(-2, "unknown"), NetworkError, "the connection to m1 failed: gaierror"),
        (DeadlineExceeded("ours"), DeadlineExceeded, "ours"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_the_network_raises_is_told_in_the_librarys_words(
    exc: Exception, kind: type[BigmachineError], text: str
) -> None:
    error = as_network_error(exc, "m1")
    assert type(error) is kind
    assert text in str(error)
    assert error.temporary == issubclass(kind, NetworkError)


def test_a_host_that_does_not_exist_is_a_network_error() -> None:
    dialer = TlsDialer("no-such-host.invalid", 1, MACHINE, SESSION, (Role.MACHINE,), client_context(identity()))
    with quiet():
        assert type(refused(dialer)) is NetworkError
