"""What a connection of either version of HTTP has: a transport, tasks that answer, one alarm, back-pressure.

The rules, which `Http1` and `Http2` rely on:

- A task answers a request. All tasks are cancelled when the connection is lost or closed, which cancels their calls.
  They live in a set and not in a TaskGroup, because a protocol's callbacks are not inside any coroutine.
- Whoever sends waits for `writable()` before each piece, so that what is buffered stays below the transport's high
  water mark, plus `Limits.backlog` for what the protocol itself answers.
- One alarm a connection. `due()` computes from the state when somebody's time is up, so the times that move with
  every byte cost nothing; only a transition that brings it forward needs `arm()`.
"""

from __future__ import annotations

import abc
import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import TypeVarTuple, cast

from bigmachine.errors import InvalidCall, NetworkError
from bigmachine.rpc.http.face import Invoker, Request, Response, answer, failure
from bigmachine.rpc.http.limits import DEFAULT_LIMITS, Limits
from bigmachine.trust import Peer

_log = logging.getLogger("bigmachine.rpc.http")
_Args = TypeVarTuple("_Args")

#: As much of a body as is handed to the transport at once; small calls of the same loop run in between.
PIECE = 64 * 1024


class Gone(Exception):
    """The client takes nothing any more; there is nobody to tell."""


class HttpConnection(asyncio.Protocol, abc.ABC):
    """The part of a server's connection that does not depend on the version of HTTP."""

    def __init__(self, server: Invoker, peer: Peer, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._server = server
        self._peer = peer
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.Transport
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        #: Nothing that still arrives is looked at.
        self._is_over = False

    # what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def eof_received(self) -> bool | None:
        self.close()  # TLS has no half-open connections, and whoever waits for an answer does not leave
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        self._disarm()
        self._cancel_all()

    # what the owner calls

    def close(self) -> None:
        """Cancel what is being answered and close; what is already written is still sent, within `Limits.linger`."""
        if self._is_over:
            return
        self._is_over = True
        self._cancel_all()
        self._disarm()
        self._transport.resume_reading()  # or it never sees the client's part of the closing
        self._transport.close()
        # asyncio's transport waits 30 s for that.
        self._alarm = self._loop.call_later(self.limits.linger, self._transport.abort)

    # what a version of HTTP defines

    @abc.abstractmethod
    def due(self) -> float | None:
        """Return the instant at which somebody's time is up as things stand, None for never."""

    @abc.abstractmethod
    def ring(self, now: float) -> None:
        """Do what is to be done at `due()`."""

    # what a version of HTTP uses

    def arm(self) -> None:
        """Set the alarm anew, after a change that can bring `due()` forward."""
        if self._is_over:
            return
        self._disarm()
        due = self.due()
        if due is not None:
            self._alarm = self._loop.call_at(due, self._rang)

    def start(self, run: Callable[[*_Args], Coroutine[object, object, None]], *args: *_Args) -> asyncio.Task[None]:
        """Run what answers a request."""
        # Not given as a coroutine: a task that is cancelled before its first step would never await it.
        task = self._loop.create_task(self._guard(run, *args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def send_answer(self, request: Request, send: Callable[[Response], Coroutine[object, object, None]]) -> None:
        """Answer a request with what `send` makes of the response, and close that."""
        response = await answer(self._server, self._peer, request)
        try:
            await send(response)
        finally:
            await response.aclose()

    async def writable(self) -> None:
        """Wait until the transport takes more.

        Raises: Gone when it does not for `Limits.stall`; the connection is then aborted.
        """
        while not self._can_write.is_set():
            try:
                async with asyncio.timeout(self.limits.stall):
                    await self._can_write.wait()
            except TimeoutError as exc:
                self._transport.abort()
                raise Gone(f"it took nothing for {self.limits.stall:g} s") from exc

    def _rang(self) -> None:
        self._alarm = None
        now = self._loop.time()
        due = self.due()
        if due is not None and now >= due:
            self.ring(now)
        self.arm()

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _guard(self, run: Callable[[*_Args], Coroutine[object, object, None]], *args: *_Args) -> None:
        try:
            await run(*args)
        except Gone as exc:
            _log.debug("gave up on %s: %s", self._peer, exc)
        except Exception:  # noqa: BLE001 (a task's edge)
            _log.exception("could not answer %s: this is a bug in bigmachine, the connection is closed", self._peer)
            self._transport.abort()


def date() -> str:
    """Return the time of day as the Date header has it (RFC 9110, 6.6.1)."""
    return formatdate(time.time(), usegmt=True)


def too_large(size: int) -> Response:
    """Make the reply to a body above `Limits.body`."""
    return failure(413, InvalidCall(f"the body is larger than {size:,} bytes: send bulk data from Python, in binary"))


def too_slow() -> Response:
    """Make the reply to a request that does not become complete."""
    return failure(408, NetworkError("the request did not arrive in time: send it faster, or in smaller parts"))


def too_much() -> Response:
    """Make the reply to a body that is too much together with the others of its connection."""
    return failure(503, NetworkError("too much is being sent on this connection at once: try again in a moment"))
