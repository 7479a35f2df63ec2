"""HTTP/1.1 on the RPC port: one request after the other on a connection, by the library h11.

    IDLE ──first byte──► RECEIVING ──complete──► ANSWERING ──answered──► IDLE, for the next request, or closed
                             └──refused (413, 408, malformed)──► REFUSING ──answered──► LEAVING ──► closed

While REFUSING and LEAVING what still arrives is dropped. h11 holds the details of the protocol; the states here are
those that decide about time and about reading. Requests that are pipelined wait in h11's buffer; reading stops when
too much waits there.
"""

from __future__ import annotations

import asyncio
import enum

import h11

from bigmachine.errors import InvalidCall
from bigmachine.rpc.http.bodies import Streamed, Truncated
from bigmachine.rpc.http.connection import PIECE, HttpConnection, date, too_large, too_slow
from bigmachine.rpc.http.face import Invoker, Request, Response, failure
from bigmachine.rpc.http.limits import DEFAULT_LIMITS, Limits
from bigmachine.trust import Peer


class _State(enum.Enum):
    IDLE = enum.auto()
    RECEIVING = enum.auto()
    ANSWERING = enum.auto()
    REFUSING = enum.auto()
    LEAVING = enum.auto()


class Http1(HttpConnection):
    """A server's connection that speaks HTTP/1.1; made after the TLS handshake."""

    def __init__(self, server: Invoker, peer: Peer, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(server, peer, limits)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head)
        self._state = _State.IDLE
        self._since = 0.0  # when this state began
        self._received = 0  # bytes since then
        self._head: h11.Request | None = None
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._enter(_State.IDLE)

    def data_received(self, data: bytes) -> None:
        if self._is_over or self._state in (_State.REFUSING, _State.LEAVING):
            return
        if self._state is _State.IDLE:
            self._enter(_State.RECEIVING)
        self._received += len(data)
        self._h11.receive_data(data)
        self._read_events()
        if self._state is _State.ANSWERING and self._received > self.limits.head:
            self._transport.pause_reading()

    def due(self) -> float | None:
        match self._state:
            case _State.IDLE:
                return self._since + self.limits.idle
            case _State.RECEIVING:
                return self.limits.receive_by(self._since, self._received)
            case _State.LEAVING:
                return self._since + self.limits.linger
            case _State.ANSWERING | _State.REFUSING:
                return None

    def ring(self, now: float) -> None:
        if self._state is _State.RECEIVING:
            self._refuse(too_slow())
        else:
            self.close()

    def _enter(self, state: _State) -> None:
        self._state = state
        self._since = self._loop.time()
        self._received = 0
        self.arm()

    def _read_events(self) -> None:
        while self._state is _State.RECEIVING:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                self._refuse(failure(exc.error_status_hint, InvalidCall(f"not a request of HTTP/1.1: {exc}")))
                return
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self._append(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._complete()
            else:
                return

    def _begin(self, head: h11.Request) -> None:
        self._head = head
        length = dict(head.headers).get(b"content-length", b"0")
        if head.http_version != b"1.1":  # HTTP/1.0 has no chunks, so a stream that fails would look complete
            self._refuse(failure(505, InvalidCall("only HTTP/1.1 is spoken here, and HTTP/2 if agreed on by ALPN")))
        elif int(length) > self.limits.body:  # h11 has checked that it is a number, and not an endless one
            self._refuse(too_large(self.limits.body))
        elif self._h11.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))

    def _append(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self.limits.body:
            self._refuse(too_large(self.limits.body))

    def _complete(self) -> None:
        assert self._head is not None, "h11 ends no message that it has not begun"
        request = _request_of(self._head, bytes(self._body))
        self._body = bytearray()
        self._enter(_State.ANSWERING)
        self.start(self._answer, request)

    def _refuse(self, response: Response) -> None:
        """Answer before the request is complete, or although it never was one."""
        self._body = bytearray()
        self._enter(_State.REFUSING)
        response = Response(response.status, (*response.headers, ("connection", "close")), response.body)
        self.start(self._send, response)

    async def _answer(self, request: Request) -> None:
        try:
            await self.send_answer(request, self._send)
        except Truncated:
            self.close()  # without the chunk of length zero, by which a client sees that more was to come

    async def _send(self, response: Response) -> None:
        headers = [("date", date()), *response.headers]
        body = response.body
        if isinstance(body, bytes):
            headers.append(("content-length", str(len(body))))
        if self._head is not None and self._head.method == b"HEAD":
            body = b""
        head = h11.Response(status_code=response.status, headers=headers, reason=response.reason.encode())
        await self.writable()
        if isinstance(body, bytes) and len(body) <= PIECE:
            self._write(head, h11.Data(data=body), h11.EndOfMessage())
        else:
            self._write(head)
            await self._send_body(body)
            self._write(h11.EndOfMessage())
        self._answered()

    async def _send_body(self, body: bytes | Streamed) -> None:
        if isinstance(body, Streamed):
            async for chunk in body:
                await self._send_pieces(chunk)
        else:
            await self._send_pieces(body)

    async def _send_pieces(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            await self.writable()
            self._write(h11.Data(data=bytes(view[:PIECE])))
            view = view[PIECE:]
            await asyncio.sleep(0)  # a fast client must not keep the loop from everybody else

    def _write(self, *events: h11.Event) -> None:
        data = b"".join(self._h11.send(event) or b"" for event in events)
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def _answered(self) -> None:
        """Go on to the next request, unless one of the sides wants to close or has not said all it began to say."""
        self._head = None
        if self._is_over:
            return
        if self._state is _State.REFUSING:
            self._enter(_State.LEAVING)
        elif self._h11.our_state is h11.MUST_CLOSE:
            self.close()
        else:
            self._h11.start_next_cycle()
            self._transport.resume_reading()
            is_next_here = bool(self._h11.trailing_data[0])
            self._enter(_State.RECEIVING if is_next_here else _State.IDLE)
            self._read_events()


def _request_of(head: h11.Request, body: bytes) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(head.method.decode("ascii"), head.target.decode("ascii"), headers, body)
