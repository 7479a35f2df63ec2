"""The called side of one link: its calls under way and its streams."""

from __future__ import annotations

import logging
import pickle
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any

from bigmachine.errors import AuthenticationError, BigmachineError, InvalidCall, NetworkError
from bigmachine.rpc.codec import UNSAID, Encoded
from bigmachine.rpc.connection import Connection
from bigmachine.rpc.lanes import BULK, MAIN, TOKEN_SIZE, Lanes
from bigmachine.rpc.ledger import Lack
from bigmachine.rpc.losses import OutcomeGone
from bigmachine.rpc.names import TRACE_KEYWORD, shown
from bigmachine.rpc.pool import Job
from bigmachine.rpc.runs import FramedRun
from bigmachine.rpc.services import NotYetOpen
from bigmachine.rpc.streams.outgoing import Outgoing
from bigmachine.rpc.streams.streamed import StreamRef
from bigmachine.rpc.wire import (
    CALL,
    CANCEL,
    ERROR,
    HELLO,
    KEPT,
    OVERSIZED,
    PING,
    PONG,
    RESULT,
    STREAMED,
    VERSION,
    Buffer,
    Frame,
    WireError,
    kind_of,
    readdress,
    size_of,
    small_frame,
)

if TYPE_CHECKING:
    from bigmachine.rpc.server import Server
    from bigmachine.trust import Peer

_log = logging.getLogger("bigmachine.rpc")
#: A call that came before its service: name, args, kwargs, timeout, key, ids of its streams, size.
Early = tuple[str, tuple[Any, ...], dict[str, Any], float | None, bytes | None, tuple[int, ...], int]
_new = object.__new__
#: After so many frames that came one by one it is a call at a time that is made here.
_ALONE = 3
_LACKS = {
    Lack.FORGOTTEN: "has run on {machine}, and its outcome, which was kept for a while, has made room for newer ones",
    Lack.STREAMED: "on {machine} began a stream for an earlier attempt, which was lost with that one's connection: a "
    "stream is not given twice. Make a new call, or have the method return a value instead",
    Lack.FORMER: "was begun on {machine} by a process that another one has replaced since (Supervisor.exec): what came "
    "of it is not known, and it is not begun again. Make a new call if it may run twice",
}


class Channel(Lanes):
    """One peer's calls to this server."""

    def __init__(self, server: Server, peer: Peer) -> None:
        super().__init__()
        self.server = server
        self.peer = peer
        self.reactor = server.reactor
        self.codec = server.codec
        self.runs: dict[int, FramedRun] = {}
        self._alone = 0  # so many frames came alone, one after the other
        self._early: dict[int, tuple[float, Early]] = {}  # since when they wait for the machine's services
        self.token: bytes = b""
        self._home_token: bytes = b""  # of the link that this one's is beside
        #: The link's connections for one call at a time, each with its channel; and the streams that such calls came
        #: to, until they have a reader.
        self.directs: dict[Connection, Channel] = {}
        self.parked: dict[int, Outgoing] = {}
        server.channels.add(self)

    def __str__(self) -> str:
        return str(self.peer)

    def run_in_thread(self, job: Job) -> None:
        self.server.pool.submit(job)

    # frames

    def frames(self, connection: Connection, frames: list[Frame]) -> None:
        """Take frames from the peer."""
        for index, (kind, flags, ident, payload, buffers) in enumerate(frames):
            if kind == CALL:
                self._call(flags, ident, payload, buffers)
            elif kind == CANCEL:
                self._cancel(ident)
            elif kind == PING:
                connection.send(small_frame(PONG, 0, ident))
            elif kind == HELLO:
                self._hello(connection, payload)
                if connection.receiver is not self:  # a bulk lane: what follows is for its link's channel
                    connection.receiver.frames(connection, frames[index + 1 :])
                    return
            elif kind > PONG:
                self.stream_frame(kind, flags, ident, payload, buffers)
        if len(frames) > 1:
            connection.hold()  # the replies to several calls leave together, once each has had its first turn
        self._alone = self._alone + 1 if len(frames) == 1 else 0
        if self.server.workers.queue:
            self.server.workers.work()

    def _hello(self, connection: Connection, payload: Buffer) -> None:
        version, token, lane = pickle.loads(payload)
        if version != VERSION:
            raise WireError(f"the peer speaks version {version} of the protocol, this side {VERSION}")
        connection.stops_reading_when_full = True
        if lane == MAIN:
            self.token, self._home_token = token[:TOKEN_SIZE], token[TOKEN_SIZE:]
            self.main = connection
            return
        owner = self.server.link_of(self.peer, token)
        if owner is None:
            raise WireError("a further lane came for a link that is not there")
        self.server.channels.discard(self)
        if lane == BULK:
            connection.receiver = owner
            owner.bulk = connection
        else:
            from bigmachine.rpc.waiting.channel import DirectChannel

            connection.receiver = DirectChannel(owner, connection)

    def home(self) -> Channel | None:
        """Find the channel of the link that this one's is beside: streams go by that."""
        home = self.server.link_of(self.peer, self._home_token) if self._home_token else None
        return home if home is not None and home.main is not None else None

    def reader_is_there(self, ident: int) -> None:
        if (stream := self.parked.pop(ident, None)) is not None:
            stream.start()

    def _call(  # noqa: C901, PLR0912 (hot: no call more)
        self,
        flags: int,
        ident: int,
        payload: Buffer,
        buffers: list[bytes | bytearray] | None,
        early: Early | None = None,
    ) -> None:
        if flags & OVERSIZED:
            self._refuse(ident, self.codec.large_call(payload))
            return
        fed_by: tuple[int, ...] = ()
        server = self.server
        if early is not None:
            name, args, kwargs, timeout, key, fed_by, size = early
        else:
            try:
                call = pickle.loads(payload) if buffers is None else pickle.loads(payload, buffers=buffers)
                name, args, kwargs, timeout, key = call + UNSAID if len(call) == 2 else call
            except BaseException as exc:  # noqa: BLE001 (a user's constructor, on the event loop)
                self._refuse(ident, not_rebuilt(exc))
                return
            size = len(payload) + (sum(map(len, buffers)) if buffers else 0)
            if flags & STREAMED:
                fed_by = tuple(arg.ident for arg in (*args, *kwargs.values()) if type(arg) is StreamRef)
                args = tuple(self._open(arg, name) for arg in args)
                kwargs = {word: self._open(arg, name) for word, arg in kwargs.items()}
        try:
            method = server.method(self.peer, name)
        except NotYetOpen:
            self._wait(ident, (name, args, kwargs, timeout, key, fed_by, size))
            return
        except BigmachineError as exc:
            if isinstance(exc, AuthenticationError):  # otherwise it is no method, and names that are none are unbounded
                self._count_refused(self.server.table.find(name).name, size)
            self._refuse(ident, exc)
            return
        if kwargs and TRACE_KEYWORD in kwargs:
            from bigmachine.rpc.spans import traced  # only where a caller traces

            method = traced(method, kwargs.pop(TRACE_KEYWORD))
        run = _new(FramedRun)
        run.begin(self, ident, method, args, kwargs, timeout, fed_by, size)
        if key is not None and not self._is_first(run, key):
            return
        self.runs[ident] = run
        if method.gate is not None and not method.gate.enter(run):
            return
        if not method.is_async:
            server.pool.submit(run)
        elif timeout is None:  # as below, in fewer steps
            workers = server.workers
            run.context = workers.context.copy()
            workers.queue.append(run)  # its worker is called when all that came with it is there
        else:
            self._enqueue(run)

    def _wait(self, ident: int, early: Early) -> None:
        """Keep a call until the machine has its services: it has been started anew, and the driver brings them."""
        if not self._early:
            self.server.table.when_open(self._begin_early)
        self._early[ident] = time.monotonic(), early

    def _begin_early(self) -> None:
        waiting, self._early = self._early, {}
        for ident, (since, (name, args, kwargs, timeout, key, fed_by, size)) in waiting.items():
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - since))
            self._call(0, ident, b"", None, (name, args, kwargs, left, key, fed_by, size))
        self.server.workers.work_soon()

    def _open(self, arg: object, name: str) -> object:
        return self.open_stream(arg.ident, arg.kind, f"to {shown(name)}") if type(arg) is StreamRef else arg

    def _is_first(self, run: FramedRun, key: bytes) -> bool:
        """Tell whether a call with a key is to be run; otherwise see to its outcome."""
        ledger = self.server.ledger
        run.entry = ledger.open(key)
        if run.entry is not None:
            if self.server.on_key is not None:
                self.server.on_key(key, run.method.name)
            return True
        entry = ledger.find(key)
        if not entry.is_settled and entry.has_broken_off:
            self._count_refused(run.method.name, run.size)
            self._refuse(run.ident, _broken_off(run.method.name))  # it may run on for long, to no outcome
        elif not entry.is_settled:
            entry.waiting.append((self, run.ident))
        elif entry.outcome is None:
            self._count_refused(run.method.name, run.size)
            self._refuse(run.ident, self._gone(run, entry.lack))
        else:
            self.transmit(readdress(entry.outcome, run.ident))
        return False

    def _gone(self, run: FramedRun, lack: Lack) -> OutcomeGone:
        machine = self.codec.machine or "the machine"
        return OutcomeGone(f"{run.method.name} {_LACKS[lack].format(machine=machine)}")

    def start(self, run: FramedRun) -> None:
        """Begin to run a method."""
        if run.method.is_async:
            self.begin(run, None)
        else:
            self.server.pool.submit(run)

    def begin(self, run: FramedRun, coroutine: Any) -> None:
        """Have a worker begin an async method, or go on with what a plain one has returned."""
        run.coroutine = coroutine
        self._enqueue(run)
        self.server.workers.work_soon()

    def _enqueue(self, run: FramedRun) -> None:
        workers = self.server.workers
        run.context = workers.context.copy()
        if run.deadline is not None and (left := run.remaining()) is not None:
            run.timer = self.reactor.loop.call_later(left, run.expire)
        workers.queue.append(run)

    def _cancel(self, ident: int) -> None:
        for channel in self.directs.values():
            channel._cancel(ident)
        if (home := self.home()) is not None:
            home._cancel(ident)
        self.reader_is_there(ident)  # and does not want it
        self._early.pop(ident, None)
        run = self.runs.pop(ident, None)
        if run is not None:
            run.cancel()
        if (outgoing := self.outgoing.get(ident)) is not None:
            outgoing.close()

    def _refuse(self, ident: int, exc: BigmachineError) -> None:
        self.transmit(self.codec.error(ident, exc, ours=True))

    def _count_refused(self, method: str, size: int) -> None:
        self.server.statistics.of(method).count(0.0, True, size, 0)

    # outcomes

    def reply(self, run: FramedRun, encoded: Encoded) -> None:
        """Send a call's outcome to whoever still wants it."""
        small = encoded if type(encoded) is bytes else None
        if small is not None:
            self.over(run, small[6] == ERROR, len(small))
        else:
            self.over(run, False, size_of(encoded))
        if run.method.gate is not None:
            run.leave()
        if self.runs.pop(run.ident, None) is not None:
            if small is not None and self.main is not None:
                self.main.send(small)  # as `transmit`, with a call less
                if self._alone >= _ALONE and not self.runs:
                    self.reactor.polling.expect()
            else:
                self.transmit(encoded)
        if run.entry is not None:
            self._settle(run, encoded)

    def _settle(self, run: FramedRun, encoded: Encoded) -> None:
        assert run.entry is not None
        ledger = self.server.ledger
        if (run.cancelled() or run.entry.has_broken_off) and kind_of(encoded) == ERROR:
            # It failed because it was given up, or its input broke off: not an outcome of its own.
            waiting = ledger.withdraw(run.entry)
            encoded = self.codec.error(0, _broken_off(run.method.name), ours=True)
        else:
            waiting = ledger.settle(run.entry, encoded, size_of(encoded))
        for channel, ident in waiting:
            channel.transmit(readdress(encoded, ident))

    def over(self, run: FramedRun, failed: bool, size: int) -> None:
        """Count a run."""
        run.task = run.context = None  # that holds the run: a circle, that only the collector would find
        if run.timer is not None:
            run.timer.cancel()
        statistics = self.server.statistics
        stats = statistics.methods.get(run.method.name) or statistics.of(run.method.name)
        stats.count(perf_counter() - run.began, failed, run.size, size)

    def stream(self, run: FramedRun, source: object, kind: str) -> None:
        """Begin to send a call's outcome item by item; its service's next run begins when the source is through."""
        run.args, run.kwargs = (), {}
        self.over(run, False, 0)
        if run.entry is not None:
            for channel, ident in self.server.ledger.settle(run.entry, None, 0):
                channel._refuse(ident, self._gone(run, run.entry.lack))
        wanted = self.runs.pop(run.ident, None) is not None and self.main is not None
        home = self.home() if wanted else None
        stream = Outgoing(home or self, run.ident, source, kind, run.method.name, info=run, done=run.leave)
        if home is not None:
            home.parked[run.ident] = stream
            self.transmit(self.codec.result(RESULT, STREAMED | KEPT, run.ident, (kind, home.token), run.method.name))
            return
        stream.start()
        if wanted:
            # By the stream's own lane: an item must not come before it.
            self.transmit(self.codec.result(RESULT, STREAMED, run.ident, kind, run.method.name), stream.is_bulk)
        else:
            stream.close()

    # the connection

    def lost(self, connection: Connection, error: Exception | None) -> None:
        """A connection has ended: what its peer waits for is not wanted any more, but for calls it may repeat."""
        if connection is self.bulk:
            self.bulk = None
            if self.main is not None:
                self.main.abort(error)  # frames of its calls may be lost: the caller has to know
            return
        self.main = None
        self._early.clear()
        self.server.channels.discard(self)
        self._end_further_lanes(error)
        for run in list(self.runs.values()):
            if run.entry is None:
                run.cancel()
                continue
            if any(ident in self.incoming for ident in run.fed_by):  # what has come whole is its input all the same
                for channel, ident in self.server.ledger.break_off(run.entry):
                    channel._refuse(ident, _broken_off(run.method.name))
        self.runs.clear()
        self.end_streams(NetworkError(f"the connection of {self.peer.id} was lost"))

    def _end_further_lanes(self, error: Exception | None) -> None:
        if self.bulk is not None:
            self.bulk.abort(error)
        for direct in list(self.directs):
            direct.abort(error)
        for ident in list(self.parked):
            self.reader_is_there(ident)  # and is gone: they end with the other streams


def _broken_off(method: str) -> NetworkError:
    return NetworkError(f"{method} broke off: whoever called first gave it up, or was lost")


def not_rebuilt(exc: BaseException) -> InvalidCall:
    """Say that a call cannot be unpickled on this side."""
    hint = "its traceback is the cause of this error"
    if isinstance(exc, ImportError):
        hint = "is the module on the machine, too?"
    elif isinstance(exc, AttributeError):
        hint = "define classes and functions before the program reaches bigmachine.start() or driver.start()"
    error = InvalidCall(f"an argument could not be rebuilt on the machine: {type(exc).__name__}: {exc}; {hint}")
    error.__cause__ = exc
    return error
