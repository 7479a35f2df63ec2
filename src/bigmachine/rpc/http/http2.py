"""HTTP/2 on the RPC port: many requests at once on a connection, by the library h2.

Each request is a stream, and each stream goes through

    RECEIVING ──complete──► ANSWERING ──answered──► gone
        └──refused (413, 408, 503)──► REFUSING ──answered, complete or out of patience──► gone

A reset from either side ends it at once, and cancels its call. h2 holds the details of the protocol and both windows
of flow control. What arrives is acknowledged at once, as bodies are bounded by `Limits`; what is sent waits for the
window of its stream, for that of the connection, and for the transport.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from bigmachine.rpc.http.bodies import Streamed, Truncated
from bigmachine.rpc.http.connection import PIECE, Gone, HttpConnection, date, too_large, too_much, too_slow
from bigmachine.rpc.http.face import Invoker, Request, Response
from bigmachine.rpc.http.limits import DEFAULT_LIMITS, Bucket, Limits
from bigmachine.trust import Peer

_log = logging.getLogger("bigmachine.rpc.http")

#: What a client may send before we take it up. The protocol's own 64 KiB halves the speed of large bodies already on
#: a local network.
_STREAM_WINDOW = 2**20
_CONNECTION_WINDOW = 2**24


class _State(enum.Enum):
    RECEIVING = enum.auto()
    ANSWERING = enum.auto()
    REFUSING = enum.auto()


@dataclass(slots=True, eq=False)
class _Stream:
    id: int
    method: str
    path: str
    headers: dict[str, str]
    since: float  # when this state began
    state: _State = _State.RECEIVING
    body: bytearray = field(default_factory=bytearray)
    received: int = 0
    is_complete: bool = False  # the client has sent all of the request
    is_answered: bool = False
    task: asyncio.Task[None] | None = None
    window_moved: asyncio.Event = field(default_factory=asyncio.Event)


class Http2(HttpConnection):
    """A server's connection that speaks HTTP/2; made after the TLS handshake."""

    def __init__(self, server: Invoker, peer: Peer, limits: Limits = DEFAULT_LIMITS) -> None:
        super().__init__(server, peer, limits)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self._streams: dict[int, _Stream] = {}
        self._held = 0  # bytes of all bodies
        self._idle_since = 0.0
        self._resets: Bucket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._idle_since = self._loop.time()
        self._resets = Bucket(self.limits.resets, self.limits.reset_rate, self._idle_since)
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.limits.streams,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: self.limits.head,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
            },
        )
        self._h2.decoder.max_header_list_size = self.limits.head
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW - self._h2.inbound_flow_control_window)
        self._flush()
        self.arm()

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        try:
            events = self._h2.receive_data(data)
        except Exception as exc:  # noqa: BLE001 (besides ProtocolError, h2 lets a few others out on malformed frames)
            _log.debug("%s broke HTTP/2 and is disconnected: %r", self._peer, exc)
            self._flush()  # h2 has left a GOAWAY there
            super().close()
            return
        for event in events:
            self._on_event(event)
        self._flush()
        if self._transport.get_write_buffer_size() > self.limits.backlog:
            _log.debug("%s makes us answer but reads nothing: disconnected", self._peer)
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._streams.clear()

    def close(self) -> None:
        if not self._is_over:
            self._go_away(h2.errors.ErrorCodes.NO_ERROR)

    def due(self) -> float | None:
        if not self._streams:
            return self._idle_since + self.limits.idle
        return min((at for stream in self._streams.values() if (at := self._due_of(stream)) is not None), default=None)

    def ring(self, now: float) -> None:
        if not self._streams:
            self.close()
        for stream in list(self._streams.values()):
            due = self._due_of(stream)
            if due is None or now < due:
                continue
            if stream.state is _State.RECEIVING:
                self._refuse(stream, too_slow())
            else:
                self._reset(stream, h2.errors.ErrorCodes.NO_ERROR)
        self._flush()

    def _due_of(self, stream: _Stream) -> float | None:
        if stream.state is _State.RECEIVING:
            return self.limits.receive_by(stream.since, stream.received)
        is_draining = stream.state is _State.REFUSING and stream.is_answered
        return stream.since + self.limits.linger if is_draining else None

    # what arrives

    def _on_event(self, event: h2.events.Event) -> None:
        if self._is_over:
            return
        match event:
            case h2.events.RequestReceived():
                self._begin(event)
            case h2.events.DataReceived():
                self._append(event)
            case h2.events.StreamEnded():
                self._complete(self._streams.get(event.stream_id))
            case h2.events.StreamReset():
                self._on_reset(event)
            case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                for stream in self._streams.values():
                    stream.window_moved.set()
            case h2.events.ConnectionTerminated():
                super().close()  # h2 sends nothing after a GOAWAY, so nothing that is under way can be answered

    def _begin(self, event: h2.events.RequestReceived) -> None:
        headers: dict[str, str] = {}
        for raw_name, raw_value in event.headers:
            name, value = bytes(raw_name).decode("latin-1"), bytes(raw_value).decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        headers.setdefault("host", headers.get(":authority", ""))
        method, path = headers.get(":method", ""), headers.get(":path", "")
        stream = _Stream(event.stream_id, method, path, headers, self._loop.time())
        self._streams[stream.id] = stream
        length = headers.get("content-length", "0").partition(",")[0]
        if int(length) > self.limits.body:  # h2 has checked that it is a number
            self._refuse(stream, too_large(self.limits.body))
        elif headers.get("expect", "").lower() == "100-continue":
            self._h2.send_headers(stream.id, [(b":status", b"100")])
        self.arm()

    def _append(self, event: h2.events.DataReceived) -> None:
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.state is not _State.RECEIVING:
            return
        stream.body += event.data
        stream.received += len(event.data)
        self._held += len(event.data)
        if len(stream.body) > self.limits.body:
            self._refuse(stream, too_large(self.limits.body))
        elif self._held > self.limits.bodies:
            self._refuse(stream, too_much())

    def _complete(self, stream: _Stream | None) -> None:
        if stream is None:
            return
        stream.is_complete = True
        if stream.state is _State.RECEIVING:
            request = Request(stream.method, stream.path, stream.headers, bytes(stream.body))
            stream.body = bytearray()
            self._enter(stream, _State.ANSWERING)
            stream.task = self.start(self._answer, stream, request)
        elif stream.is_answered:
            self._forget(stream)

    def _on_reset(self, event: h2.events.StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            self._forget(stream)
        if not self._resets.take(self._loop.time()):
            _log.debug("%s opens and resets streams without end: disconnected", self._peer)
            self._go_away(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)

    # what is sent

    async def _answer(self, stream: _Stream, request: Request) -> None:
        async def send(response: Response) -> None:
            await self._send(stream, response)

        try:
            await self.send_answer(request, send)
        except Truncated:
            self._reset(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
            self._flush()

    def _refuse(self, stream: _Stream, response: Response) -> None:
        """Answer before the request is complete."""
        self._drop_body(stream)
        self._enter(stream, _State.REFUSING)
        stream.task = self.start(self._send, stream, response)

    async def _send(self, stream: _Stream, response: Response) -> None:
        headers = [(":status", str(response.status)), ("date", date()), *response.headers]
        if isinstance(response.body, bytes):
            headers.append(("content-length", str(len(response.body))))
        body = b"" if stream.method == "HEAD" else response.body
        await self.writable()
        self._h2.send_headers(stream.id, headers, end_stream=body == b"")
        if isinstance(body, Streamed):
            await self._send_stream(stream, body)
        else:
            await self._send_pieces(stream, body, is_all=True)
        self._flush()
        self._answered(stream)

    async def _send_stream(self, stream: _Stream, body: Streamed) -> None:
        self._flush()  # the status is known before the first item is
        async for chunk in body:
            await self._send_pieces(stream, chunk)
            await asyncio.sleep(0)  # a fast client must not keep the loop from everybody else
        self._h2.end_stream(stream.id)

    async def _send_pieces(self, stream: _Stream, data: bytes, *, is_all: bool = False) -> None:
        view = memoryview(data)
        patient_until = self._loop.time() + self.limits.stall
        while view:
            await self.writable()
            room = self._h2.local_flow_control_window(stream.id)
            if room <= 0:
                await self._window_moves(stream, patient_until)
                continue
            piece, view = view[: min(PIECE, room)], view[min(PIECE, room) :]
            self._send_frames(stream, piece, end_stream=is_all and not view)
            patient_until = self._loop.time() + self.limits.stall
            if view:
                await asyncio.sleep(0)

    def _send_frames(self, stream: _Stream, data: memoryview, *, end_stream: bool) -> None:
        size = self._h2.max_outbound_frame_size
        for start in range(0, len(data), size):
            is_last = start + size >= len(data)
            self._h2.send_data(stream.id, data[start : start + size], end_stream=end_stream and is_last)
        self._flush()

    async def _window_moves(self, stream: _Stream, deadline: float) -> None:
        """Wait for a change of the windows, which may concern other streams only."""
        self._flush()
        stream.window_moved.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await stream.window_moved.wait()
        except TimeoutError as exc:
            self._reset(stream, h2.errors.ErrorCodes.CANCEL)
            self._flush()
            raise Gone(f"it left its window closed for {self.limits.stall:g} s") from exc

    def _answered(self, stream: _Stream) -> None:
        stream.is_answered = True
        if stream.is_complete:
            self._forget(stream)
        else:
            self._enter(stream, stream.state)  # patience starts now

    # the ends

    def _enter(self, stream: _Stream, state: _State) -> None:
        stream.state = state
        stream.since = self._loop.time()
        self.arm()

    def _reset(self, stream: _Stream, code: h2.errors.ErrorCodes) -> None:
        if not self._is_over:
            self._h2.reset_stream(stream.id, code)
        self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        if self._streams.pop(stream.id, None) is None:
            return
        self._drop_body(stream)
        if stream.task is not None and stream.task is not asyncio.current_task():
            stream.task.cancel()
        self._idle_since = self._loop.time()
        self.arm()

    def _drop_body(self, stream: _Stream) -> None:
        self._held -= stream.received
        stream.received = 0
        stream.body = bytearray()

    def _go_away(self, code: h2.errors.ErrorCodes) -> None:
        self._h2.close_connection(code)
        self._flush()
        super().close()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)
