"""A TLS port that answers HTTP for some services, with real certificates, and a check that it leaves nothing behind.

`run(scenario)` runs one on a fresh event loop and fails if the loop was told of any error (an exception that nobody
retrieved, one in a callback), if a warning was logged, or if a task is left. The port speaks over the transports of
the loop, of uvloop or of aiofastnet, whichever `stack` names.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import httpx

from bigmachine.errors import AuthenticationError
from bigmachine.rpc import Server, ServiceTable
from bigmachine.rpc.http.connection import HttpConnection
from bigmachine.rpc.http.http1 import Http1
from bigmachine.rpc.http.http2 import Http2
from bigmachine.rpc.http.limits import DEFAULT_LIMITS, Limits
from bigmachine.trust import Authority, Identity, Peer, Role, client_context, peer_of, server_context

#: Those that are installed: uvloop is not for every platform, and aiofastnet is an extra.
STACKS = tuple(name for name in ("asyncio", "uvloop", "aiofastnet") if importlib.util.find_spec(name))
MACHINE = "hab12cd-m1"
PATIENCE = 20.0


@functools.cache
def authority() -> Authority:
    return Authority("5e5510ab")


@functools.cache
def identity(role: Role = Role.CLIENT, name: str = "someone") -> Identity:
    return authority().issue(role, name)


def run(scenario: Callable[[], Awaitable[None]], stack: str = "asyncio") -> None:
    """Run a scenario to its end, and see that it leaves nothing behind."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if stack == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    complaints: list[str] = []
    complaining = logging.Handler(logging.WARNING)
    complaining.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]  # simplest

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(repr(context)))
        async with asyncio.timeout(PATIENCE):
            await scenario()
        await until(lambda: len(asyncio.all_tasks()) == 1)
        gc.collect(1)  # the young ones: all of a scenario, and none of the rest of the process

    log = logging.getLogger("bigmachine.rpc")
    log.addHandler(complaining)
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(watched())
    finally:
        log.removeHandler(complaining)
    assert complaints == []


async def until(is_true: Callable[[], object], patience: float = 10.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + patience
    while not is_true():
        assert time.monotonic() < deadline, f"it did not come true within {patience} s"
        await asyncio.sleep(0.002)


async def settled(measure: Callable[[], int]) -> int:
    """Wait until a quantity stays the same for a moment; return it."""
    before, now = -1, measure()
    while before != now:
        await asyncio.sleep(0.02)
        before, now = now, measure()
    return now


def only_echo_for_clients(peer: Peer, method: str) -> None:
    if peer.role is not Role.DRIVER and method.endswith("secret"):
        raise AuthenticationError(f"{peer} may not call {method}: only the driver may")


@dataclass
class Port:
    """The port, and what is behind it."""

    number: int
    server: Server
    connections: list[HttpConnection] = field(default_factory=list)
    lost: int = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.number}"

    def client(self, *, http2: bool, role: Role = Role.CLIENT) -> httpx.AsyncClient:
        """An httpx client that keeps to one connection."""
        return httpx.AsyncClient(
            base_url=self.url,
            verify=client_context(identity(role)),
            http1=not http2,
            http2=http2,
            limits=httpx.Limits(max_connections=1),
            timeout=PATIENCE,
            trust_env=False,
        )

    async def call(
        self, client: httpx.AsyncClient, method: str, argument: object = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Post an argument as JSON."""
        request = client.build_request("POST", f"/bigrpc/{method}", json=argument, headers=headers)
        return await self.send(client, request)

    async def send(self, client: httpx.AsyncClient, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        request.extensions["sni_hostname"] = MACHINE
        return await client.send(request, stream=stream)

    async def open(self, alpn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare TLS connection; the server is through with the handshake, too."""
        count = len(self.connections)
        context = client_context(identity())
        context.set_alpn_protocols([alpn])
        streams = await asyncio.open_connection("127.0.0.1", self.number, ssl=context, server_hostname=MACHINE)
        await until(lambda: len(self.connections) > count)
        return streams

    async def all_gone(self) -> None:
        """Wait until every connection so far is lost and its tasks are over."""
        await until(lambda: self.lost == len(self.connections) and not any(c._tasks for c in self.connections))

    def add(self, connection: HttpConnection) -> HttpConnection:
        """Watch for the end of a connection."""
        connection_lost = connection.connection_lost

        def lose(exc: Exception | None) -> None:
            connection_lost(exc)
            self.lost += 1

        connection.connection_lost = lose  # type: ignore[method-assign]  # to count
        self.connections.append(connection)
        return connection


@contextlib.asynccontextmanager
async def listening(
    services: Mapping[str, object], limits: Limits = DEFAULT_LIMITS, stack: str = "asyncio"
) -> AsyncIterator[Port]:
    """Serve HTTP on a free port of 127.0.0.1; at the end nothing of it may be left."""
    table = ServiceTable()
    for name, service in services.items():
        table.register(name, service)
    server = Server(table, authorize=only_echo_for_clients)
    port = Port(0, server)

    def accepted(peer: Peer, alpn: str | None) -> HttpConnection:
        kind = Http2 if alpn == "h2" else Http1
        return port.add(kind(server, peer, limits))

    listener = await _listen(lambda: _Switch(accepted), stack)
    port.number = listener.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        listener.close()
        for connection in port.connections:
            connection.close()
        await port.all_gone()
        await server.close()


async def _listen(switch: Callable[[], asyncio.Protocol], stack: str) -> asyncio.Server:
    context: ssl.SSLContext = server_context(authority().issue(Role.MACHINE, MACHINE))
    loop = asyncio.get_running_loop()
    if stack == "aiofastnet":
        import aiofastnet

        made: asyncio.Server = await aiofastnet.create_server(loop, switch, "127.0.0.1", 0, ssl=context)
        return made
    return await loop.create_server(switch, "127.0.0.1", 0, ssl=context)


class _Switch(asyncio.Protocol):
    """Hands over to the version of HTTP that the client chose."""

    def __init__(self, accepted: Callable[[Peer, str | None], HttpConnection]) -> None:
        self._accepted = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        ssl_object = transport.get_extra_info("ssl_object")
        connection = self._accepted(peer_of(ssl_object), ssl_object.selected_alpn_protocol())
        transport.set_protocol(connection)
        connection.connection_made(transport)
