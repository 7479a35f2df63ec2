"""Calls about a machine that its agent answers (`Supervisor.ping`), from the machine's launch to its end.

Agent and link are shared with other machines, so what a link does for its own machine's calls is done here: a call
waits until the agent has the machine, and fails at once when the machine stops.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bigmachine.errors import BigmachineError, DeadlineExceeded
from bigmachine.rpc import Call, Link
from bigmachine.rpc.context import get_deadline


@dataclass(frozen=True, slots=True, eq=False)
class _Early:
    """A call that came before the launch; `limit` is the instant of its deadline."""

    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    limit: float | None


class Asked:
    """One machine's calls to its agent. May be used from any thread."""

    def __init__(self, agent: Link) -> None:
        self.reactor = agent.reactor
        self._agent = agent
        self._lock = threading.Lock()
        self._is_open = False
        self._error: Callable[[], BaseException] | None = None
        self._early: dict[Call[Any], _Early] = {}
        self._under_way: dict[Call[Any], None] = {}
        self._sent_for: dict[Call[Any], Call[Any]] = {}

    def submit(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        """Call the agent, or do so as soon as it has the machine.

        Raises: as `Link.submit`.
        """
        with self._lock:
            if not self._is_open and self._error is None:
                early = Call[Any](0, method, self)
                limit = get_deadline()
                self._early[early] = _Early(method, args, kwargs, limit)
                if limit is not None:
                    self.reactor.post(self._expire_at, limit, early)
                return early
        return self._send(method, args, kwargs, None)

    def _send(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None) -> Call[Any]:
        call = self._agent.submit(method, args, kwargs, timeout)
        self._under_way[call] = None
        call.add_done_callback(self._is_done)
        if self._error is not None:  # it stopped meanwhile
            call.fail(self._error())
        return call

    def _is_done(self, call: Call[Any]) -> None:
        self._under_way.pop(call, None)

    def open(self) -> None:
        """The agent has the machine: let the calls go."""
        with self._lock:
            self._is_open = True
            early, self._early = self._early, {}
        if early:
            self.reactor.post(self._send_early, early)

    def close(self, error: Callable[[], BaseException]) -> None:
        """The machine has stopped: fail all calls, each with an `error()` of its own."""
        with self._lock:
            self._error = error
            early, self._early = self._early, {}
        for call in early:
            call.fail(error())
        for call in tuple(self._under_way):
            if call.fail(error()):
                self._agent.give_up(call)

    # on the reactor's thread

    def _send_early(self, calls: dict[Call[Any], _Early]) -> None:
        for early, what in calls.items():
            left = None if what.limit is None else what.limit - time.monotonic()
            if early.done():
                continue
            try:
                sent = self._send(what.method, what.args, what.kwargs, left)
            except BigmachineError as exc:
                early.fail(exc)
            else:
                self._sent_for[early] = sent
                sent.add_done_callback(functools.partial(self._pass_on, early))

    def _pass_on(self, early: Call[Any], sent: Call[Any]) -> None:
        self._sent_for.pop(early, None)
        if sent.cancelled():
            early.cancel()
        elif (error := sent.exception()) is not None:
            early.fail(error)
        else:
            early.finish(sent.result())

    def _expire_at(self, limit: float, early: Call[Any]) -> None:
        self.reactor.loop.call_later(max(0.0, limit - time.monotonic()), self._expire, early)

    def _expire(self, early: Call[Any]) -> None:
        if early.fail(DeadlineExceeded(f"{early.name} had no outcome before its deadline")):
            self.give_up(early)

    # for a call that is given up

    def give_up(self, call: Call[Any]) -> None:
        """Its caller does not want the outcome any more."""
        with self._lock:
            self._early.pop(call, None)
        sent = self._sent_for.pop(call, None)
        if sent is not None:
            sent.cancel()
