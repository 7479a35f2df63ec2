"""A small server for the pages: HTTP/1.1 by the library h11, on an event loop in a thread of its own.

The pages could be served by any ASGI server; this one is there without being installed. It is made for a handful of
viewers: connections are bounded, requests have no body, and one that is slow to arrive is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import h11

from bigmachine.errors import BigmachineError, InvalidCall
from bigmachine.web.access import PARAMETER, Access
from bigmachine.web.app import PREFIX, App
from bigmachine.web.asgi import ASGIApp, Message

if TYPE_CHECKING:
    from bigmachine.session import Session

_log = logging.getLogger("bigmachine")
#: Browsers open six a site; a tab holds one for its stream.
_CONNECTIONS: Final = 64
#: A request's line and headers: their size, and the seconds in which they have to come.
_HEAD: Final = 64 * 1024
_ARRIVAL: Final = 20.0
#: Between two requests of one connection.
_IDLE: Final = 60.0
#: A viewer that takes nothing for so long is gone.
_STALL: Final = 60.0
_PIECE: Final = 64 * 1024
#: For the thread to begin, and to end.
_PATIENCE: Final = 5.0


class ServedPages:
    """The pages of a session, served until `close`."""

    def __init__(self, session: Session, host: str, port: int) -> None:
        """Bind, and begin to serve.

        Raises:
            BigmachineError: if the port is taken, or the address is not this computer's.
            InvalidCall: if the port is none.
        """
        if type(port) is not int or not 0 <= port < 65536:
            raise InvalidCall(f"port={port!r}: it has to be a number from 0 (any free one) to 65535")
        self._asked = (host, port)
        listener = _bound(host, port)
        self._port = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        self._app = App(session, Access.to(token, [host, socket.gethostname()], f"bigmachine-{self._port}"))
        shown = f"[{host}]" if ":" in host else host
        self._url = f"http://{shown}:{self._port}{PREFIX}/?{PARAMETER}={token}"
        if not _is_loopback(listener):
            _log.warning("the diagnostic pages are served at %s without encryption, to who has the token", shown)
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, args=(listener,), name="bigmachine-pages", daemon=True)
        self._thread.start()

    def url_for(self, host: str, port: int) -> str:
        """Give the URL, with the token, to who asks for this host and port.

        Raises:
            InvalidCall: if they are served elsewhere.
        """
        if (host, port) != self._asked and (host, port) != (self._asked[0], self._port):
            raise InvalidCall(
                f"the pages of this session are served at {self._asked[0]}:{self._port} already; leave host and port "
                "out, or repeat them"
            )
        return self._url

    def close(self) -> None:
        """Stop serving, within seconds."""
        with contextlib.suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._end.set)
        if self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)

    def _serve(self, listener: socket.socket) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._run(listener))
        except Exception:  # noqa: BLE001 (the edge of the thread)
            _log.exception("the diagnostic pages are not served any more")
        finally:
            listener.close()

    async def _run(self, listener: socket.socket) -> None:
        tasks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                if len(tasks) <= _CONNECTIONS:
                    await Connection(self._app, reader, writer).serve()
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(accept, sock=listener)
        await self._end.wait()
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=0.5)  # streams say that this is the end
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _bound(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BigmachineError(
            f"the diagnostic pages cannot be served at {host!r}: {error.strerror or error}"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_CONNECTIONS)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise BigmachineError(
            f"the diagnostic pages cannot be served at {host}:{port}: {error.strerror}; give another port, as in "
            "serve_debug(port=0) for any free one"
        ) from error
    return listener


def _is_loopback(listener: socket.socket) -> bool:
    import ipaddress

    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


class Connection:
    """One connection: one request after the other, handed to the application."""

    def __init__(self, app: ASGIApp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._app = app
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD)
        self._has_begun = False

    async def serve(self) -> None:
        """Serve until one of the sides has enough."""
        try:
            while await self._request():
                self._h11.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, f"not a request of HTTP/1.1: {error}")
        except (OSError, TimeoutError, h11.LocalProtocolError) as error:
            _log.debug("a connection to the diagnostic pages ended: %r", error)

    async def _request(self) -> bool:
        """Answer one request; False if it was the last one."""
        self._has_begun = False
        wait = _IDLE
        while True:
            event = self._h11.next_event()
            if isinstance(event, h11.Request):
                break
            if event is not h11.NEED_DATA:
                return False
            async with asyncio.timeout(wait):
                self._h11.receive_data(await self._reader.read(_PIECE))
            wait = _ARRIVAL
        if not await self._without_body():
            await self._refuse(413, "these pages take no request with a body")
            return False
        await self._app(self._scope(event), self._receive, self._send)
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    async def _without_body(self) -> bool:
        event = self._h11.next_event()
        return isinstance(event, h11.EndOfMessage)

    def _scope(self, request: h11.Request) -> dict[str, Any]:
        from urllib.parse import unquote

        target = request.target.decode("ascii")
        path, _, query = target.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": request.http_version.decode("ascii"),
            "method": request.method.decode("ascii"),
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(bytes(name), bytes(value)) for name, value in request.headers],
            "client": self._writer.get_extra_info("peername")[:2],
            "server": self._writer.get_extra_info("sockname")[:2],
        }

    async def _receive(self) -> Message:
        if not self._has_begun:
            self._has_begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while await self._reader.read(_PIECE):  # what is sent while a stream goes out is a mistake, and dropped
            pass
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._write(h11.Response(status_code=message["status"], headers=message["headers"]))
            return
        body = memoryview(message.get("body", b""))
        while body:
            self._write(h11.Data(data=bytes(body[:_PIECE])))
            body = body[_PIECE:]
            await self._drained()
        if not message.get("more_body", False):
            self._write(h11.EndOfMessage())
        await self._drained()

    def _write(self, event: h11.Event) -> None:
        self._writer.write(self._h11.send(event) or b"")

    async def _drained(self) -> None:
        async with asyncio.timeout(_STALL):
            await self._writer.drain()

    async def _refuse(self, status: int, why: str) -> None:
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"{why}\n".encode("utf-8", "replace")
        headers = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
        with contextlib.suppress(OSError, TimeoutError, h11.LocalProtocolError):
            self._write(h11.Response(status_code=status, headers=[*headers, ("connection", "close")]))
            self._write(h11.Data(data=body))
            self._write(h11.EndOfMessage())
            await self._drained()


__all__ = ["Connection", "ServedPages"]
