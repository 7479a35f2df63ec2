"""A server and a link to it: within this process, or over TLS on the loopback. At the end nothing of them may be left.

`memory(...)` and `tls(...)` give `Ends`, and check on leaving that no task, thread or descriptor remains and that the
library and the event loop logged no error.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bigmachine.errors import NetworkError
from bigmachine.rpc import Call, Codec, Link, Reactor, Server, ServiceTable, TlsDialer, serve_socket, serve_waiting
from bigmachine.rpc.connector import Dialer
from bigmachine.rpc.memory import MemoryDialer
from bigmachine.trust import Authority, Identity, Peer, Role, client_context, server_context

PATIENCE = 10.0
SESSION = "5e5510ab"
MACHINE = "hab12cd-m1"
DRIVER = Peer(SESSION, Role.DRIVER, "driver")
#: How many of them are there, one within another.
_depth: list[int] = []
_THREADS = ("bigmachine-", "test-io")


@functools.cache
def authority() -> Authority:
    return Authority(SESSION)


@functools.cache
def identity(role: Role = Role.DRIVER, name: str = "driver") -> Identity:
    return authority().issue(role, name)


def until(claim: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait for a condition."""
    end = time.monotonic() + patience
    while not claim():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.001)


async def until_async(claim: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait for a condition on an event loop."""
    end = time.monotonic() + patience
    while not claim():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.001)


def once_begun(begun: threading.Semaphore, attempt: Callable[[float], object]) -> None:
    """Attempt something that ends at a deadline, with more and more time, until the method began before it."""
    for seconds in (0.02, 0.1, 0.5, 2.0):
        attempt(seconds)
        if begun.acquire(timeout=0.01):
            return
    raise AssertionError("it does not begin")


def table_of(services: Mapping[str, object]) -> ServiceTable:
    table = ServiceTable()
    for name, service in services.items():
        table.register(name, service)
    return table


@dataclass
class Ends:
    """Both ends; `link` calls what `server` serves."""

    reactor: Reactor
    server: Server
    link: Link
    complaints: list[str] = field(default_factory=list)

    def submit(self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any) -> Call[Any]:
        return self.link.submit(method, args, kwargs, timeout)

    def call(self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        return self.submit(method, *args, timeout=timeout, **kwargs).result(PATIENCE)

    def on_server(self, function: Callable[[], Any]) -> Any:
        """Have something done on the server's loop, and wait for it."""
        return _on(self.server.reactor, function)

    def on_link(self, function: Callable[[], Any]) -> Any:
        """Have something done on the link's loop, and wait for it."""
        return _on(self.link.reactor, function)

    def cut(self) -> None:
        """Cut the link's connection, as a network does."""

        def abort() -> None:
            assert self.link.main is not None
            self.link.main.abort()

        self.on_link(abort)

    def is_idle(self) -> bool:
        """Whether neither end has anything under way."""
        link, channels = self.link, self.server.channels
        calls = (link.pending, link._waiting, link._held, link._for_bulk, link._judged)
        here = (*calls, link._feeds, link.incoming, link.outgoing)
        return not any(here) and not any(c.runs or c.incoming or c.outgoing for c in list(channels))


def _on(reactor: Reactor, function: Callable[[], Any]) -> Any:
    async def do() -> Any:
        return function()

    return reactor.run(do(), PATIENCE)


@contextlib.contextmanager
def memory(
    services: Mapping[str, object],
    *,
    dialer: Callable[[Server], Dialer] | None = None,
    codec: Codec | None = None,
    name: str = "m1",
    is_held: bool = False,
    **options: Any,
) -> Iterator[Ends]:
    """Both ends on one loop; `options` are the server's."""
    with quiet() as complaints:
        reactor = Reactor.in_thread("test-io")
        server = Server(table_of(services), reactor=reactor, **options)
        dials = MemoryDialer(server, DRIVER, name) if dialer is None else dialer(server)
        ends = Ends(reactor, server, Link(reactor, dials, codec=codec, name=name, is_held=is_held), complaints)
        try:
            yield ends
        finally:
            end(ends)
            finish(reactor)


@contextlib.contextmanager
def tls(services: Mapping[str, object], *, codec: Codec | None = None, **options: Any) -> Iterator[Ends]:
    """Two loops and TLS between them."""
    with quiet() as complaints, listening(services, **options) as host:
        reactor = Reactor.in_thread("test-io")
        link = Link(reactor, dialer_to(host), codec=codec, name="m1")
        ends = Ends(reactor, host.server, link, complaints)
        try:
            yield ends
        finally:
            end(ends)
            finish(reactor)


def dialer_to(host: Host, caller: Identity | None = None, called: str = MACHINE) -> TlsDialer:
    context = client_context(caller or identity())
    return TlsDialer("127.0.0.1", host.port, called, SESSION, (Role.MACHINE,), context)


@dataclass
class Host:
    """A TLS port with services behind it, on a loop of its own."""

    reactor: Reactor
    server: Server
    port: int
    listener: socket.socket

    def close(self) -> None:
        """Refuse further connections; those there are stay."""
        self.listener.close()


@contextlib.contextmanager
def listening(services: Mapping[str, object], **options: Any) -> Iterator[Host]:
    """Serve on a free port; `options` are the server's."""
    reactor = Reactor.in_thread("test-io")
    server = Server(table_of(services), reactor=reactor, **options)
    context = server_context(identity(Role.MACHINE, MACHINE))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    listener.setblocking(False)

    def has_come(sock: socket.socket) -> bool:
        try:
            sock.recv(1, socket.MSG_PEEK)
        except OSError as exc:
            return not isinstance(exc, BlockingIOError)
        return True

    async def serve(sock: socket.socket) -> None:
        # As behind an agent, which has looked at the ClientHello before it hands a connection over.
        end = time.monotonic() + 0.2
        while not has_come(sock) and time.monotonic() < end:  # noqa: ASYNC110 (a socket)
            await asyncio.sleep(0.001)
        if not serve_waiting(sock, context, server):
            await serve_socket(sock, context, server)

    def accept() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = listener.accept()
                sock.setblocking(False)
                reactor.spawn(serve(sock), "handshake")

    _on(reactor, lambda: reactor.loop.add_reader(listener.fileno(), accept))
    host = Host(reactor, server, listener.getsockname()[1], listener)
    try:
        yield host
    finally:
        fileno = listener.fileno()
        if fileno >= 0:
            _on(reactor, lambda: reactor.loop.remove_reader(fileno))
        listener.close()
        reactor.run(server.close(), PATIENCE)
        until(lambda: not server.channels)
        finish(reactor)


def end(ends: Ends) -> None:
    """Close both ends, and see that nothing is under way any more."""
    ends.link.close(NetworkError("the test is over"))
    ends.reactor.run(asyncio.sleep(0), PATIENCE)
    until(lambda: ends.link.main is None and ends.link.bulk is None)
    if ends.server.reactor is ends.reactor:
        ends.reactor.run(ends.server.close(), PATIENCE)
    until(ends.is_idle)


def finish(reactor: Reactor) -> None:
    """Stop a loop once it has nothing to do any more."""
    reactor.run(until_async(lambda: len(asyncio.all_tasks()) == 1), PATIENCE)
    reactor.stop()


class _Complaints(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        self._complaints.append(f"{record.name}: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}")


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Fail if an error was logged, or a thread or a descriptor is left; who expects an error clears the list."""
    _warm_up()
    _depth.append(0)
    before, threads = descriptors(), set(threading.enumerate())
    complaints: list[str] = []
    handler = _Complaints(complaints)
    logging.getLogger().addHandler(handler)
    try:
        yield complaints
        if len(_depth) > 1:
            return  # the outermost looks
        until(lambda: not [t for t in threading.enumerate() if t.name.startswith(_THREADS) and t not in threads])
        gc.collect(1)  # what the test made is young; a full collection would take longer than most tests
        until(lambda: descriptors() <= before)
    finally:
        _depth.pop()
        logging.getLogger().removeHandler(handler)
    assert complaints == []


@functools.cache
def _warm_up() -> None:
    """Open what is opened once for good, such as uvloop's own epoll descriptors."""
    Reactor.in_thread("test-io").stop()


def descriptors() -> int:
    """Count this process's open files and sockets."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:  # elsewhere than on Linux
        return 0
