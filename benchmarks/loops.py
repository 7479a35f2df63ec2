"""What event loops alone take: a few bytes there and back, without a frame, a call or a value.

The other end is a loop as a machine has it (uvloop where it is), the calling end one of the standard library, as
`asyncio.run` makes it; both carry TLS by what the library would take. The same file, run as a script, is the other end.

A second pair never sleeps while it expects something, as the library does for a lone call.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from typing import cast

import floors
import measure
import tls

from bigmachine.trust import Identity, server_context

PING = "two event loops alone, no frames, no calls"
LOOKING = "the same, both looking rather than sleeping"


class Loops(tls.Served):
    """The calling end."""

    def __init__(self, *, looks: bool = False) -> None:
        super().__init__("loops.py", fast="aiofastnet" in measure.engine(), looks=looks)
        self._looks = looks
        self._end: _Asking | None = None

    async def ping(self, n: int) -> list[float]:
        """Send and receive a few bytes; return the seconds of each round trip. Always on the same event loop."""
        loop = asyncio.get_running_loop()
        if self._end is None:
            arguments = (_Asking, "127.0.0.1", self.port)
            if "aiofastnet" in measure.engine():
                import aiofastnet

                made = await aiofastnet.create_connection(loop, *arguments, ssl=self.context, server_hostname=tls.NAME)
            else:
                made = await loop.create_connection(*arguments, ssl=self.context, server_hostname=tls.NAME)
            self._end = cast("_Asking", made[1])
            self._end.looks = self._looks
        message, end = bytes(floors.CALL), self._end
        return await measure.timed_async(lambda: end.ask(loop, message), n)


class _Looking:
    """Keeps an event loop from sleeping, by having something to do in each round; for `LIMIT` seconds at most."""

    LIMIT = 200e-6

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_on = False
        self._end = 0.0

    def begin(self) -> None:
        self._end = time.perf_counter() + self.LIMIT
        if not self._is_on:
            self._is_on = True
            self._loop.call_soon(self._look)

    def end(self) -> None:
        self._end = 0.0

    def _look(self) -> None:
        self._is_on = time.perf_counter() < self._end
        if self._is_on:
            self._loop.call_soon(self._look)


class _Asking(asyncio.Protocol):
    looks = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._looking = _Looking()

    def ask(self, loop: asyncio.AbstractEventLoop, message: bytes) -> asyncio.Future[None]:
        self._answered = loop.create_future()
        self._transport.write(message)
        if self.looks:
            self._looking.begin()
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._looking.end()
        self._answered.set_result(None)


class _Answering(asyncio.Protocol):
    looks = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._looking = _Looking()

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)
        if self.looks:
            self._looking.begin()


async def _serve() -> None:
    orders = json.loads(sys.stdin.readline())
    measure.pin(orders["core"])
    _Answering.looks = orders["looks"]
    context = server_context(Identity.from_dict(orders["identity"]))
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        accepted, _ = listener.accept()
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    accepted.setblocking(False)
    if orders["fast"]:
        import aiofastnet

        await aiofastnet.connect_accepted_socket(loop, _Answering, accepted, ssl=context)
    else:
        await loop.connect_accepted_socket(_Answering, accepted, ssl=context)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if "uvloop" in measure.engine():
        import uvloop

        uvloop.run(_serve())
    else:
        asyncio.run(_serve())
