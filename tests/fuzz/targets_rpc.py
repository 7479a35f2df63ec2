"""What comes over a connection: frames in pieces, whatever they hold, and the errors in them."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from bigmachine.errors import NetworkError
from bigmachine.rpc import Codec, Link, Reactor, Server, ServiceTable
from bigmachine.rpc.buffers import allocate
from bigmachine.rpc.calls import Call
from bigmachine.rpc.connection import Connection, Receiver
from bigmachine.rpc.memory import MemoryDialer
from bigmachine.rpc.streams.streamed import BYTES, ITEMS, StreamRef
from bigmachine.rpc.wire import AS_BYTES, VERSION, Decoder, Frame, Kind, WireError, head, small_frame
from bigmachine.trust import Peer, Role
from tests.fuzz import source
from tests.fuzz.source import Source

_LIMIT = 1 << 20
_PEER = Peer("5e5510ab", Role.DRIVER, "driver")
_Seen = list[tuple[int, int, int, bytes, list[bytes] | None]]


# --- frames out of bytes


def wire(data: bytes) -> None:
    """However the bytes are cut, the same frames come out, or the same error; and never more memory than allowed."""
    given = Source(data)
    size = given.one_of((64, 100, 5000, 65536))
    cuts = [given.number(2) or 1 for _ in range(given.number() % 8)] or [1 << 16]
    stream = given.rest()
    whole, broken = _decoded(stream, [len(stream) or 1], max(len(stream), 64))
    cut, broken_too = _decoded(stream, cuts, size)
    assert broken == broken_too, (broken, broken_too)
    # What was complete before the error comes only if it came in an earlier piece.
    assert cut == whole if not broken else whole == [] or cut[: len(whole)] == whole, (whole, cut)


def _decoded(stream: bytes, cuts: list[int], size: int) -> tuple[_Seen, bool]:
    asked = 0

    def bounded(count: int, as_bytes: bool) -> tuple[bytes | bytearray, memoryview]:
        nonlocal asked
        asked += count
        assert count <= _LIMIT
        return allocate(count, as_bytes)

    decoder = Decoder(memoryview(bytearray(size)), bounded, _LIMIT)
    seen: _Seen = []
    at = turn = 0
    while at < len(stream):
        into = decoder.buffer()
        piece = stream[at : at + min(cuts[turn % len(cuts)], len(into))]
        into[: len(piece)] = piece
        at, turn = at + len(piece), turn + 1
        try:
            frames = decoder.received(len(piece))
        except WireError:
            return seen, True
        for kind, flags, ident, payload, buffers in frames:
            seen.append((kind, flags, ident, bytes(payload), None if buffers is None else list(map(bytes, buffers))))
    assert asked <= _LIMIT * (1 + len(stream) // 16)
    return seen, False


def frames(given: Source, answers: bool) -> bytes:
    """Make frames that hold about what their kinds say."""
    made = bytearray()
    while not given.is_empty and len(made) < 1 << 16:
        if given.number() % 16 == 0:
            raw = given.blob()
            made += raw if source.is_tame(raw) else b""
            continue
        kind = given.number() % 12 if given.number() % 8 == 0 else given.one_of(_ANSWERS if answers else _CALLS)
        flags, ident = given.one_of((0, 0, 1, 2, 3, 128, 255)), given.one_of((1, 2, 3, 4, 5, 2**64 - 1))
        payload = _payload(given, kind)
        buffers = [given.blob() for _ in range(given.number() % 3)] if given.number() % 4 == 0 else []
        if buffers:
            entries = [len(buffer) | given.one_of((0, AS_BYTES)) for buffer in buffers]
            made += head(kind, flags, ident, payload, entries) + b"".join(buffers)
        else:
            made += small_frame(kind, flags, ident, payload)
    return bytes(made)


_CALLS = [int(kind) for kind in (Kind.CALL, Kind.CALL, Kind.ITEM, Kind.END, Kind.CREDIT, Kind.CLOSE, Kind.CANCEL)]
_ANSWERS = [int(kind) for kind in (Kind.RESULT, Kind.ERROR, Kind.ITEM, Kind.END, Kind.CREDIT, Kind.CLOSE, Kind.PONG)]


def _payload(given: Source, kind: int) -> bytes:
    if kind == Kind.CREDIT:
        return given.take(8).ljust(8, b"\0") if given.number() % 8 else given.blob()
    if kind == Kind.HELLO:
        return given.pickled((given.one_of((VERSION, 0)), given.blob(), given.number() % 5))
    if kind == Kind.CALL:
        args = tuple(given.value() for _ in range(given.number() % 3))
        kwargs = given.one_of(({}, {"a": 1}, None))
        timeout, key = given.one_of((None, 0.0, -1.0, 1e-3, "soon", 1e300)), given.one_of((None, b"key", b"other", 7))
        whole = (given.text(), args, kwargs, timeout, key)
        return given.pickled(given.one_of((whole, whole[:2])))
    if kind in (Kind.ERROR, Kind.END):
        return given.pickled(told(given)) if given.number() % 4 else b""
    if kind == Kind.RESULT and given.number() % 2:
        return given.pickled(given.one_of((ITEMS, BYTES)))
    return given.pickled(given.value())


# --- a server and a link that get them


class Service:
    """Each way in which a method may take and give; none needs a thread."""

    async def echo(self, *args: object, **kwargs: object) -> tuple[object, ...]:
        return args

    async def count(self, n: object = 3) -> AsyncIterator[int]:
        async def numbers() -> AsyncIterator[int]:
            for number in range(min(n, 1000) if isinstance(n, int) else 3):
                yield number

        return numbers()

    async def drain(self, stream: Any) -> int:
        return sum([1 async for _ in stream])

    async def fail(self, text: object = "") -> None:
        raise ValueError(text)


class _Transport(asyncio.Transport):
    """Keeps what is written, and closes when the loop comes round."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_closed = False
        self._loop = loop
        self.protocol: Connection

    def write(self, data: Any) -> None:
        if not self.is_closed:
            self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._loop.call_soon(self.protocol.connection_lost, None)


class _Complaints(logging.Handler):
    """Keeps what is logged as an error: only faults of the library are."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter().format(record))


class _World:
    """An event loop with a server on it; one for all inputs, for making it takes longer than most of them."""

    def __init__(self) -> None:
        # A fuzzer's pickles must not run what they like, and the codec looks the function up each time.
        pickle.loads = cast(Any, source.loads)
        self.complaints = _Complaints()
        library = logging.getLogger("bigmachine")
        library.addHandler(self.complaints)
        library.propagate = False
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.complaints.texts.append(repr(context)))
        self.reactor = Reactor(self.loop)
        table = ServiceTable()
        table.register("S", Service())
        codec = Codec(machine="m1", limit=_LIMIT)
        self.server = Server(table, codec=codec, reactor=self.reactor)

    def connect(self, receiver: Receiver) -> Connection:
        connection, transport = Connection(self.reactor, receiver), _Transport(self.loop)
        transport.protocol = connection
        connection.connection_made(transport)
        return connection

    def feed(self, connection: Connection, given: Source, answers: bool) -> None:
        step = given.one_of((1 << 20, 1 << 20, 1000, 40, 7))
        stream = memoryview(frames(given, answers))
        while stream and not _transport(connection).is_closed:
            into = connection.get_buffer(-1)
            piece = stream[: min(step, len(into))]
            into[: len(piece)] = piece
            stream = stream[len(piece) :]
            self.receive(connection, len(piece))

    def receive(self, connection: Connection, count: int) -> None:
        """Tell it that so much has come; as a transport does, in a callback of the loop."""
        self.loop.call_soon(connection.buffer_updated, count)
        self.turn(1)

    def turn(self, times: int = 8) -> None:
        async def turns() -> None:
            for _ in range(times):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def until(self, claim: Callable[[], object], what: str) -> None:
        for _ in range(200):
            if claim():
                return
            self.turn(4)
        raise AssertionError(what)

    def check(self) -> None:
        assert not self.complaints.texts, self.complaints.texts


def _transport(connection: Connection) -> _Transport:
    return cast(_Transport, connection._transport) if connection.is_open else _CLOSED


_CLOSED = _Transport(cast(asyncio.AbstractEventLoop, None))
_CLOSED.is_closed = True
_worlds: list[_World] = []


def _world() -> _World:
    if not _worlds:
        _worlds.append(_World())
    return _worlds[0]


def _written(data: bytes) -> list[Frame]:
    decoder = Decoder(memoryview(bytearray(max(len(data), 1))))
    decoder.buffer()[: len(data)] = data
    return decoder.received(len(data))


def channel(data: bytes) -> None:
    """A machine whose peer sends anything speaks in frames, keeps nothing of it, and serves the next one."""
    given, world = Source(data), _world()
    channel = world.server.channel(_PEER)
    channel.main = connection = world.connect(channel)
    transport = _transport(connection)
    world.feed(connection, given, False)
    world.turn()
    transport.abort()
    world.until(lambda: channel not in world.server.channels or not connection.is_open, "it is not lost")
    written = bytes(transport.written)
    decoder = Decoder(memoryview(bytearray(1 << 18)))
    for at in range(0, len(written), 1 << 16):
        piece = written[at : at + (1 << 16)]
        into = decoder.buffer()
        if len(into) < len(piece):
            break  # a large answer: what follows was checked with smaller ones
        into[: len(piece)] = piece
        decoder.received(len(piece))
    world.until(
        lambda: not (channel.runs or channel.incoming or channel.outgoing or channel.parked), "something is kept"
    )
    _serves(world)
    world.check()


def _serves(world: _World) -> None:
    channel = world.server.channel(_PEER)
    channel.main = connection = world.connect(channel)
    transport = _transport(connection)
    call = small_frame(Kind.CALL, 0, 9, pickle.dumps(("S.echo", (42,), {}, None, None), 5))
    connection.get_buffer(-1)[: len(call)] = call
    world.receive(connection, len(call))
    world.until(lambda: transport.written, "it does not answer any more")
    ((kind, _, ident, payload, _),) = _written(bytes(transport.written))
    assert (kind, ident, source.loads(payload)) == (Kind.RESULT, 9, (42,))
    transport.abort()
    world.until(lambda: not connection.is_open, "it is not lost")


def link(data: bytes) -> None:
    """A caller whose machine answers with anything has an outcome for each call, and nothing left."""
    given, world = Source(data), _world()
    link = Link(world.reactor, MemoryDialer(None, _PEER, "m1"), codec=world.server.codec, name="m1")
    link.main = connection = world.connect(link)
    transport = _transport(connection)
    link._when_changed()
    numbers = iter(range(3))
    calls: list[Call[Any]] = [
        link.submit("S.echo", (1,), {}),
        link.submit("S.count", (), {}, 1000.0),
        link.submit("S.drain", (numbers,), {}),
        link.submit("S.echo", (), {}),
    ]
    world.feed(connection, given, True)
    world.turn()
    transport.abort()
    world.until(lambda: not connection.is_open, "it is not lost")
    link.close(NetworkError("the end"))
    world.until(lambda: all(call.done() for call in calls), "a call has no outcome")
    for call in calls:
        if call.exception(0) is None and hasattr(result := call.result(0), "close"):
            result.close()
    world.until(lambda: not (link.pending or link.incoming or link.outgoing), "something is kept")
    world.check()


# --- errors


def told(given: Source) -> Any:
    """Make what an ERROR holds: about as another machine tells of an exception."""
    blob = given.one_of((None, given.pickled(ValueError("x")), given.pickled(given.value()), given.blob()))
    if blob is not None and not source.is_tame(blob):
        blob = None
    notes = given.one_of((None, [given.text()], [], given.value()))
    story = given.one_of((None, _story(given, 2), given.value()))
    return blob, given.text(), given.text(), given.text(), given.text(), notes, story


def _story(given: Source, depth: int) -> Any:
    taken = [_taken(given) for _ in range(given.number() % 4)]
    members = [_story(given, depth - 1) for _ in range(given.number() % 2)] if depth else []
    earlier = None
    if depth and given.number() & 1:
        blob = given.one_of((None, given.pickled(KeyError(given.text()))))
        earlier = (blob, given.text(), given.text(), bool(given.number() & 1), _story(given, depth - 1))
    return taken, members, earlier


def _taken(given: Source) -> tuple[Any, ...]:
    where = (given.integer(), given.integer(), given.integer(), given.integer())
    lines = tuple(given.text() for _ in range(given.number() % 3))
    return given.text(), given.text(), given.text(), where, given.integer(), lines, {given.text(): given.text()}


def errors(data: bytes) -> None:
    """An error from elsewhere becomes an exception, if it is told as the library tells it, whatever was in it."""
    world = _world()
    given = Source(data)
    flags = given.one_of((0, 0, 2))
    if given.number() % 4 == 0:
        raw = given.rest()
        if source.is_tame(raw):
            try:
                world.server.codec.load_error(raw, flags, "call")
            except Exception:  # noqa: BLE001 (no error at all: the connection ends by whatever it raises)
                return
        return
    value = told(given)
    exc = world.server.codec.load_error(pickle.dumps(value, 5), flags, given.text())
    assert isinstance(exc, BaseException)
    repr(exc)


def seeds_rpc() -> dict[str, list[bytes]]:
    """Bytes to begin with, for each target."""
    call = pickle.dumps(("S.drain", (StreamRef(2, ITEMS),), {}, None, None), 5)
    stream = small_frame(Kind.CALL, 1, 1, call) + small_frame(Kind.ITEM, 0, 2, pickle.dumps(1, 5))
    stream += head(Kind.ITEM, 0, 2, b"", [5 | AS_BYTES]) + b"12345" + small_frame(Kind.END, 0, 2)
    mixed = [bytes((seed * step + step) % 256 for step in range(300)) for seed in (1, 7, 31, 77, 130, 201)]
    large = head(Kind.RESULT, 0, 1, bytes(70_000), [100_000])
    return {
        "wire": [b"\1\0" + stream, b"\0\3\1\0\7\0\x20\0" + stream, b"\2\0" + large, b"\2\0" + large + bytes(100_016)],
        "channel": mixed,
        "link": mixed,
        "errors": [bytes([0, 1]) + each for each in mixed] + mixed,
    }
