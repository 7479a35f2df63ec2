"""The calling side: a link to one machine or agent that dials when it has something to say.

A link that breaks is dialled again for the next call. Calls that were sent before have an unknown outcome: whoever
owns the link gives a verdict (`MachineStopped` if the machine is gone, otherwise NetworkError); calls that still wait
to be sent go out on the new connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import pickle
import threading
import time
from asyncio.events import _get_running_loop
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from threading import get_ident
from time import perf_counter
from typing import Any

from bigmachine.errors import (
    BigmachineError,
    DeadlineExceeded,
    InvalidCall,
    NetworkError,
)
from bigmachine.rpc.calls import Call
from bigmachine.rpc.codec import Codec, Encoded
from bigmachine.rpc.connection import Connection
from bigmachine.rpc.connector import Connector, Dialer
from bigmachine.rpc.context import get_deadline
from bigmachine.rpc.losses import fresh, not_rebuilt
from bigmachine.rpc.names import shown
from bigmachine.rpc.near import Near
from bigmachine.rpc.pool import Job, ThreadPool
from bigmachine.rpc.reactor import Reactor
from bigmachine.rpc.statistics import MethodStats, Statistics
from bigmachine.rpc.streams.arguments import Feed, are_plain, take_streams
from bigmachine.rpc.streams.outgoing import Outgoing
from bigmachine.rpc.streams.streamed import BYTES
from bigmachine.rpc.streams.unsent import close_unsent
from bigmachine.rpc.waiting.direct import ELSEWHERE, Direct
from bigmachine.rpc.waiting.solo import Solo
from bigmachine.rpc.wire import (
    CALL,
    CANCEL,
    CREDIT,
    CREDIT_PAYLOAD,
    ERROR,
    KEPT,
    LARGE,
    OVERSIZED,
    PONG,
    RESULT,
    STREAMED,
    Buffer,
    Frame,
    size_of,
    small_frame,
)

_log = logging.getLogger("bigmachine.rpc")
_new = object.__new__
#: More event loops than these that call the same machine at once go by the reactor's.
_MOST_NEARS = 16
#: Arguments above this are logged, once a minute at most; nothing is refused [Go: rpc/client.go].
_LARGE_CALL = 64 * 2**20 + 64 * 1024
_NOTE_PAUSE = 60.0


#: Says what a lost connection means for the calls that were sent over it.
Verdict = Callable[[BigmachineError], Awaitable[BaseException]]


#: Sees a call before it is sent; True if it has taken care of it.
Tamper = Callable[["Link", Call[Any], Encoded], bool]


class Link(Connector):
    """Calls to one peer. `submit` and `close` may be called from any thread."""

    def __init__(
        self,
        reactor: Reactor,
        dialer: Dialer,
        *,
        codec: Codec | None = None,
        name: str = "",
        is_held: bool = False,
    ) -> None:
        super().__init__(reactor, dialer, codec or Codec(machine=name), name)
        self._verdict: Verdict | None = None
        #: Whether calls wait: the machine is not up yet.
        self._is_held = is_held
        self._idents = itertools.count(1)
        #: Calls that it carries.
        self.pending: dict[int, Call[Any]] = {}
        self._waiting: dict[int, Encoded] = {}  # for a connection
        self._held: dict[int, Encoded] = {}  # for `release`
        self._for_bulk: dict[int, Encoded] = {}  # for the bulk lane
        self._feeds: dict[int, list[Feed]] = {}  # streams among the arguments of calls that are not sent yet
        self._judged: set[Call[Any]] = set()  # sent over a connection that was lost; what that means is being found out
        self.statistics = Statistics(threading.Lock())
        #: Connected, neither held nor closed nor doubted.
        self.is_ready = False
        # The connections of other event loops that call.
        self._nears: dict[asyncio.AbstractEventLoop, Near] = {}
        self._latest: Near | None = None  # of them
        # Connections for threads that wait: one that a thread of the peer's serves, if it has one for us; and one for
        # the methods that its loop serves better.
        dial = getattr(dialer, "dial_blocking", None)
        # One for lone calls of who does not wait in a thread.
        has_threads = getattr(dialer, "reaches_threads", False)
        self._solo = Solo(self, dialer.dial_marked) if has_threads else None  # type: ignore[attr-defined]
        self._direct = None if dial is None else Direct(self, partial(dial, is_marked=True))
        self._direct_to_loop = None if dial is None else Direct(self, dial)
        self._pool: ThreadPool | None = None
        self._next_note = 0.0
        self._tamper: Tamper | None = None

    # from any thread

    def submit(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
        key: bytes | None = None,
        is_urgent: bool = False,
    ) -> Call[Any]:
        """Send a call; one that `is_urgent` also while the link is held.

        Raises: InvalidCall if an argument cannot be pickled; DeadlineExceeded if the deadline has passed already.
        """
        limit = get_deadline()
        if limit is not None:
            timeout = _time_left(limit, timeout, method)
        ident = next(self._idents)
        call: Call[Any] = _new(Call)
        call.begin(ident, method, self)
        encoded: Encoded | None = self.codec.small_call(ident, method, args, kwargs, timeout, key)
        if encoded is None:
            encoded = self._encode(ident, method, args, kwargs, timeout, key)
        if key is not None:
            call.has_key = True
        reactor = self.reactor
        here = get_ident()
        if here == reactor.thread_id:
            self.begin(call, encoded, timeout, is_urgent)
            return call
        near = self._latest
        if near is None or near.thread_id != here or not near.loop.is_running():
            near = self._near_here(here)
        if near is not None and not (self._feeds and ident in self._feeds):
            if near.link is not None and near.link.is_ready:
                call.near = near
                near.offers[ident] = (call, encoded, timeout)
                if not near.is_guarded:
                    near.guard()
                return call
            near.want()
        try:
            reactor.post(self.begin, call, encoded, timeout, is_urgent)
        except RuntimeError:
            self._feeds.pop(ident, None)  # no loop is left to close them on
            call.fail(fresh(self._closed or NetworkError(f"the event loop of the link to {self.name} has ended")))
        return call

    def _encode(
        self,
        ident: int,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        timeout: float | None,
        key: bytes | None,
    ) -> Encoded:
        """Encode a call with whatever arguments; the streams among them are noted."""
        feeds: list[Feed] = []
        if not are_plain(args, kwargs):
            by_value = self.codec.by_value
            args, kwargs, feeds = take_streams(args, kwargs, self._idents.__next__, by_value=by_value)
        try:
            encoded = self.codec.call(CALL, STREAMED if feeds else 0, ident, method, args, kwargs, timeout, key)
        except InvalidCall:
            if feeds:
                with contextlib.suppress(RuntimeError):  # the loop has ended: the collector closes them
                    self.reactor.post(close_unsent, self, feeds)
            raise
        if feeds:
            self._feeds[ident] = feeds
        return encoded

    def _near_here(self, thread_id: int) -> Near | None:
        # Asking asyncio is a system call in Python 3.11 (`getpid`): a fortieth of what a call costs its caller.
        loop = _get_running_loop()
        near = None if loop is None else self._nears.get(loop) or self._near(loop)
        if near is not None:
            near.thread_id = thread_id
            self._latest = near
        return near

    def _near(self, loop: asyncio.AbstractEventLoop) -> Near | None:
        for ended in [other for other in self._nears if other.is_closed()]:
            self._nears.pop(ended, None)
        # Within a process both ends of a connection are on one event loop, and the server has its own.
        if len(self._nears) >= _MOST_NEARS or self._direct is None:
            return None
        near = self._nears[loop] = Near(self, loop)
        return near

    def call(self, method: str, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Send a call and wait for its outcome."""
        return self.submit(method, args, kwargs, timeout).result()

    def call_directly(self, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Make a call by the connection for threads that wait; ELSEWHERE if it has to be submitted instead.

        Raises: what the method raises; MachineStopped, NetworkError, InvalidCall.
        """
        # With other calls under way the loop is awake, and gets through more of them than a thread each; unless they
        # are large, for then it is busy.
        direct = self._direct
        if direct is None or not self.is_ready or (self.pending and not self._is_carrying()):
            return ELSEWHERE
        if method in direct.by_loop:
            direct = self._direct_to_loop
            assert direct is not None
        return direct.call(method, args, kwargs)

    def _is_carrying(self) -> bool:
        """Tell whether large values are on their way."""
        bulk = self.bulk
        return bulk is not None and bulk.is_carrying

    # for that connection, on its caller's thread

    def next_ident(self) -> int:
        """Return an id for a call."""
        return next(self._idents)

    def watch(self) -> None:
        """Have the heartbeat watch the connection while something is waited for."""
        if not self._heartbeat.is_on:
            self.reactor.post(self._heartbeat.start)

    def adopt(self, call: Call[Any], kind: str, seconds: float | None) -> Call[Any]:
        """Make a call's outcome the stream that the peer keeps for it; `seconds`: what its deadline leaves."""
        return self._passed(call, self._adopt, seconds, kind, b"")

    def lost_directly(self, call: Call[Any], cause: BigmachineError) -> Call[Any]:
        """Have it judged what became of a call whose connection broke."""
        return self._passed(call, self._lost_directly, cause)

    def _passed(self, call: Call[Any], function: Callable[..., object], *args: Any) -> Call[Any]:
        try:
            self.reactor.post(function, call, *args)
        except RuntimeError:
            call.fail(fresh(self._closed or NetworkError(f"the event loop of the link to {self.name} has ended")))
        return call

    def oversized(self, method: str, payload: Buffer) -> InvalidCall:
        """Say that a result is above the limit."""
        return self.codec.too_large(f"the result of {method} on {self.name}", int(bytes(payload)), " here")

    def close(self, error: BaseException) -> None:
        """End the link for good; what is pending or comes later fails with `error`."""
        if self.reactor.is_here:
            self._close(error)
        else:
            try:
                self.reactor.post(self._close, error)
            except RuntimeError:
                _log.debug("the loop of the link to %s has ended already", self.name)

    def give_up(self, call: Call[Any]) -> None:
        """Tell the peer that nobody waits for a call's outcome."""
        try:
            self.reactor.post(self._forget, call.ident)
        except RuntimeError:
            _log.debug("the loop of the link to %s has ended already", self.name)

    # for connections of other event loops

    def beside(self, reactor: Reactor) -> Link:
        """Make a link to the same peer on another event loop; this one's owner gives its verdicts, too."""
        link = Link(reactor, self._dialer, codec=self.codec, name=self.name)
        link.statistics = self.statistics
        link.far = self
        link._idents = self._idents  # its streams come here
        link.tamper_with(self._tamper)
        if self._verdict is not None:
            verdict = self._verdict

            async def judge(cause: BigmachineError) -> BaseException:
                there = asyncio.run_coroutine_threadsafe(_awaited(verdict(cause)), self.reactor.loop)
                return await asyncio.wrap_future(there)

            link.judge_with(judge)
        return link

    # on the reactor's thread

    def judge_with(self, verdict: Verdict) -> None:
        """Have `verdict` say what a lost connection means; to be set before the first call."""
        self._verdict = verdict

    def release(self) -> None:
        """Let the calls go that waited for the machine to be up."""
        self._is_held = False
        held, self._held = self._held, {}
        for ident, encoded in held.items():
            self._enter(ident, encoded)
        self._check_ready()

    def refuse_held(self, cause: BigmachineError) -> None:
        """Fail the calls that wait for the machine to be up; others may wait after them."""
        held, self._held = self._held, {}
        calls = [call for ident in held if (call := self.pending.pop(ident, None)) is not None]
        for ident in held:
            self._drop_feeds(ident)
        self._tell(calls, [], cause)

    def begin(self, call: Call[Any], encoded: Encoded, timeout: float | None, is_urgent: bool = False) -> None:
        """Begin to carry a call."""
        if not call.unclaimed:  # it has been given up
            self._drop_feeds(call.ident)
            return
        if self.is_ready and type(encoded) is bytes and not self._feeds:
            # What nearly every call is: the rest of this function, and of those below, in the fewest steps.
            call.size = len(encoded)
            self.pending[call.ident] = call
            if timeout is not None:
                call.timer = self.reactor.loop.call_later(timeout, self._expire, call, timeout)
            if not self._heartbeat.is_on:
                self._heartbeat.start()
            if len(self.pending) == 1:
                self._send_alone(call, encoded)
            else:
                self.main.send(encoded)  # type: ignore[union-attr]  # there is one, if the link is ready
            return
        if self._closed is not None:
            self._drop_feeds(call.ident)
            call.fail(fresh(self._closed))
            return
        call.size = size_of(encoded)
        if call.size > _LARGE_CALL:
            self._note_large(call)
        self.pending[call.ident] = call
        if timeout is not None:
            call.timer = self.reactor.loop.call_later(timeout, self._expire, call, timeout)
        self._heartbeat.start()
        if self._is_held and not is_urgent:
            self._held[call.ident] = encoded
        else:
            self._enter(call.ident, encoded)

    def _send_alone(self, call: Call[Any], encoded: bytes) -> None:
        # What may be sent again is looked up on the peer's loop.
        if self._solo is None or call.has_key or not self._solo.send(call, encoded):
            self.main.send(encoded)  # type: ignore[union-attr]  # as above
        self.reactor.polling.expect()

    def _note_large(self, call: Call[Any]) -> None:
        now = time.monotonic()
        if now >= self._next_note:
            self._next_note = now + _NOTE_PAUSE
            size = call.size / 2**20
            _log.warning(
                "the arguments of %s to %s have %.0f MiB: a stream needs less memory", call.name, self.name, size
            )

    def _enter(self, ident: int, encoded: Encoded) -> None:
        if self.main is not None and not self._is_doubted:
            self._send(ident, encoded)
        else:
            self._waiting[ident] = encoded
            if self.main is None:
                self._begin_dialling()
            else:
                self._hurry()

    def _check_ready(self) -> None:
        is_free = not self._is_held and self._tamper is None and not self._is_doubted
        self.is_ready = self.main is not None and self._closed is None and is_free

    def tamper_with(self, tamper: Tamper | None) -> None:
        """Have `tamper` see each call before it is sent (fault injection); None ends that. From any thread."""
        self._tamper = tamper
        self._check_ready()
        for near in list(self._nears.values()):
            if near.link is not None:
                near.link.tamper_with(tamper)

    def _send(self, ident: int, encoded: Encoded) -> None:
        if self._tamper is not None and self._tamper(self, self.pending[ident], encoded):
            return
        self.pass_on(ident, encoded)

    def pass_on(self, ident: int, encoded: Encoded, *, is_now: bool = False) -> None:
        """Send a call as it is; on the loop's thread. `is_now`: also a large one does not wait for its lane."""
        feeds = self._feeds.get(ident) if self._feeds else None
        if (
            not is_now
            and self.bulk is None
            and (type(encoded) is not bytes or (feeds and any(f.kind == BYTES for f in feeds)))
        ):
            self._for_bulk[ident] = encoded
            self._open_bulk()
        else:
            self._send_now(ident, encoded)

    def _send_now(self, ident: int, encoded: Encoded) -> None:
        feeds = self._feeds.pop(ident, None) if self._feeds else None
        if feeds is None:
            self.transmit(encoded)
            return
        by_bulk = self.has_bulk  # the call and its streams on one lane: an item must not come before its call
        self.transmit(encoded, by_bulk)
        for feed in feeds:
            what = f"to {self.name}"
            stream = Outgoing(
                self,
                feed.ident,
                feed.source,
                feed.kind,
                what,
                is_bulk=by_bulk,
                closes=feed.closes,
                context=feed.context,
                fed_to=ident,
            )
            stream.start()

    def _expire(self, call: Call[Any], timeout: float) -> None:
        if call.fail(DeadlineExceeded(f"{call.name} on {self.name} had no outcome within {timeout:.3g} s")):
            self._forget(call.ident)

    def _drop_feeds(self, ident: int) -> None:
        """Close the streams among the arguments of a call that was not sent."""
        if self._feeds and (feeds := self._feeds.pop(ident, None)) is not None:
            close_unsent(self, feeds)

    def _forget(self, ident: int) -> None:
        self._drop_feeds(ident)
        is_unsent = any(place.pop(ident, None) for place in (self._waiting, self._held, self._for_bulk))
        call = self.pending.pop(ident, None)
        if call is None:
            if (incoming := self.incoming.get(ident)) is not None:
                incoming.close()
            return
        _stop_timer(call)
        self._count_failed(call)
        if not is_unsent:
            cancel = small_frame(CANCEL, 0, ident)
            self.transmit(cancel)
            if self.bulk is not None:
                self.transmit(cancel, True)  # it must not come before its call, which may have gone that way
            for outgoing in [o for o in self.outgoing.values() if o.fed_to == ident]:
                outgoing.give_up()

    def _count_failed(self, call: Call[Any]) -> None:
        """Count a call that ended without a word of the peer: by its deadline, given up, or lost."""
        self.statistics.of(call.method).count(perf_counter() - call.sent_at, True, 0, call.size)

    def run_in_thread(self, job: Job) -> None:
        if self._pool is None:
            self._pool = ThreadPool(self.reactor, name="bigmachine-stream")
        self._pool.submit(job)

    # frames

    def frames(self, connection: Connection, frames: list[Frame]) -> None:  # noqa: C901, PLR0912 (hot: no call more)
        if self._is_doubted and (connection is self.main or connection is self.bulk):
            self._heard_in_doubt()
        pending = self.pending
        # Calls of one method that went well are counted together if they come one after the other.
        stats: MethodStats | None = None
        method, came, went = None, 0, 0
        woken = self.reactor.woken
        now = perf_counter()
        try:
            for kind, flags, ident, payload, buffers in frames:
                if kind == RESULT and not flags:
                    call = pending.pop(ident, None)
                    if call is None:
                        continue
                    if call.timer is not None:
                        call.timer.cancel()
                    if call.method is not method:
                        if stats is not None:
                            stats.settle(came, went)
                        method, came, went = call.method, 0, 0
                        stats = self.statistics.of(method)
                    stats.note(now - call.sent_at)  # type: ignore[union-attr]  # there is one for this method
                    came += len(payload)
                    went += call.size
                    try:
                        value = pickle.loads(payload) if buffers is None else pickle.loads(payload, buffers=buffers)
                    except BaseException as exc:  # noqa: BLE001 (a user's constructor, on the event loop)
                        call.fail(not_rebuilt(exc, call.name))
                    else:
                        call.finish(value, woken)
                    if buffers is not None:
                        came += sum(map(len, buffers))
                        if connection is self.main:
                            self._wish_for_bulk(payload, buffers)
                elif kind > PONG:
                    self.stream_frame(kind, flags, ident, payload, buffers)
                    if buffers and connection is self.main:
                        self._wish_for_bulk(payload, buffers)
                elif kind in (RESULT, ERROR):
                    self._special(kind, flags, ident, payload, now)
        finally:
            if stats is not None:
                stats.settle(came, went)
        if len(frames) > 1:
            connection.hold()  # whoever is woken now may well call again: that leaves together

    def _wish_for_bulk(self, payload: Buffer, buffers: list[bytes | bytearray]) -> None:
        """Open the bulk lane for the next one, if this one was large."""
        if len(payload) + sum(map(len, buffers)) > LARGE:
            self._open_bulk()

    def _special(self, kind: int, flags: int, ident: int, payload: Buffer, now: float) -> None:
        """Take an outcome that is not just a value."""
        call = self.pending.pop(ident, None)
        if call is None:
            if kind == RESULT and flags & STREAMED:
                self.transmit(small_frame(CANCEL, 0, ident))  # nobody wants it any more
            return
        seconds = None if call.timer is None else call.timer.when() - self.reactor.loop.time()
        _stop_timer(call)
        self.statistics.of(call.method).count(now - call.sent_at, kind == ERROR, len(payload), call.size)
        try:
            if kind == ERROR:
                call.fail(self.codec.load_error(payload, flags, call.name))
            elif flags & OVERSIZED:
                call.fail(self.oversized(call.name, payload))
            elif flags & KEPT:
                far: Link = self.far  # type: ignore[assignment]  # a link is beside a link
                far._passed(call, far._adopt, seconds, *pickle.loads(payload))
            else:
                what = f"{call.name} on {self.name}"
                call.finish(self.open_stream(ident, pickle.loads(payload), what, seconds))
        except BaseException:
            self.pending[ident] = call  # the connection ends for it: that is what becomes of the call
            raise

    # connections

    def is_waiting(self) -> bool:
        """Tell whether calls or streams wait for something to come."""
        is_direct = any(direct.is_waiting for direct in (self._direct, self._direct_to_loop) if direct is not None)
        return bool(is_direct or self.pending or self.incoming or self.outgoing)

    def _drop_further(self) -> None:
        if self._solo is not None:
            self._solo.drop()
        for direct in (self._direct, self._direct_to_loop):
            if direct is not None:
                direct.drop()

    def _has_unsent(self) -> bool:
        return bool(self._waiting)

    def _adopt(self, call: Call[Any], seconds: float | None, kind: str, token: bytes) -> None:
        """Take a stream that the peer keeps; `token`: for which connection, if it is known."""
        if self.main is None or (token and token != self._token):
            self._lost_directly(call, NetworkError(f"the connection to {self.name} was lost with the stream"))
            return
        stream = self.open_stream(call.ident, kind, f"{call.name} on {self.name}", seconds)
        self._heartbeat.start()
        self.begin_reading(call.ident)
        if not call.finish(stream):
            stream.close()  # it was given up

    def begin_reading(self, ident: int) -> None:
        """Tell the peer that the stream that it keeps has a reader now."""
        self.transmit(small_frame(CREDIT, 0, ident, CREDIT_PAYLOAD.pack(0, 0)))

    def lost_alone(self, call: Call[Any], cause: BigmachineError) -> None:
        """Have it judged what became of a lone call, if it has not been given up."""
        if self.pending.pop(call.ident, None) is not None:
            self._lost_directly(call, cause)

    def _lost_directly(self, call: Call[Any], cause: BigmachineError) -> None:
        self.reactor.spawn(self._judge([call], [], cause), f"judge {self.name}")

    def _when_changed(self) -> None:
        self._check_ready()
        if self.main is not None and not self._is_doubted:
            waiting, self._waiting = self._waiting, {}
            for ident, encoded in waiting.items():
                self._send(ident, encoded)
            for near in list(self._nears.values()):
                near.greet_again()

    def _when_bulk_is_settled(self) -> None:
        large, self._for_bulk = self._for_bulk, {}
        for ident, encoded in large.items():
            self._send_now(ident, encoded)

    def _when_down(self, cause: BigmachineError) -> None:
        self.is_ready = False
        self._drop_further()
        self._waiting.update(self._for_bulk)  # nothing of them was sent
        self._for_bulk = {}
        sent = [call for i, call in self.pending.items() if i not in self._waiting and i not in self._held]
        for call in sent:
            del self.pending[call.ident]
            self._drop_feeds(call.ident)  # there are some only if it was held up on its way here
        streams = list(self.incoming.values())
        self.incoming.clear()
        for outgoing in list(self.outgoing.values()):
            outgoing.close()
        if sent or streams:
            self.reactor.spawn(self._judge(sent, streams, cause), f"judge {self.name}")

    async def _judge(self, calls: list[Call[Any]], streams: list[Any], cause: BigmachineError) -> None:
        error: BaseException = cause
        self._judged.update(calls)
        try:
            if self._closed is None and self._verdict is not None:
                error = await self._verdict(cause)
        except Exception:  # noqa: BLE001 (whoever waits must hear of the loss, whatever becomes of the verdict)
            _log.exception("what the loss of the connection to %s means could not be found out", self.name)
        finally:
            self._judged.difference_update(calls)
            self._tell(calls, streams, error)

    def _tell(self, calls: list[Call[Any]], streams: list[Any], error: BaseException) -> None:
        if self._closed is not None:
            error = self._closed
        for call in calls:
            _stop_timer(call)
            self._count_failed(call)
            call.fail(fresh(error))
        for stream in streams:
            stream.end(fresh(error))

    async def _when_not_dialled(self, cause: BigmachineError) -> None:
        waiting, self._waiting = self._waiting, {}
        calls = [call for ident in waiting if (call := self.pending.pop(ident, None)) is not None]
        for ident in waiting:
            self._drop_feeds(ident)
        await self._judge(calls, [], cause)

    def _close(self, error: BaseException) -> None:
        if self._closed is not None:
            return
        self._closed = error
        self.is_ready = False
        self._heartbeat.stop()
        self._drop_further()
        for dialling in (self._dialling, self._dialling_bulk):
            if dialling is not None:
                dialling.cancel()
        for near in list(self._nears.values()):
            near.close(error)
        pending, self.pending = self.pending, {}
        self._waiting.clear()
        self._held.clear()
        self._for_bulk.clear()
        for ident in list(self._feeds):
            self._drop_feeds(ident)
        for call in pending.values():
            self._count_failed(call)  # those that are judged are counted there
        for call in (*pending.values(), *self._judged):
            _stop_timer(call)
            call.fail(fresh(error))
        self.end_streams(error)
        self.close_lanes()
        if self._pool is not None:
            self._pool.close()


async def _awaited(awaitable: Awaitable[BaseException]) -> BaseException:
    return await awaitable


def _time_left(limit: float, timeout: float | None, method: str) -> float:
    left = limit - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded(f"{shown(method)} was not sent: its deadline had passed")
    return left if timeout is None else min(left, timeout)


def _stop_timer(call: Call[Any]) -> None:
    if call.timer is not None:
        call.timer.cancel()
