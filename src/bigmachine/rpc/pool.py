"""Threads for plain methods: as many as are needed, up to a bound, kept for the next call.

A thread is added when a job has waited for a millisecond and the threads there are do not get through: a crowd of
short calls is served by few threads (more would only pass the interpreter lock around), while calls that sleep or
wait each get one. All bookkeeping is on the reactor's thread; the threads only take jobs from a `SimpleQueue`, the
cheapest hand-over there is (4 us; `run_in_executor` costs 31).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from bigmachine.rpc.context import set_current
from bigmachine.rpc.reactor import Reactor

_log = logging.getLogger("bigmachine.rpc")
_PATIENCE = 0.001
#: A thread that gets through this many jobs between two looks is not in need of company.
_BRISK = 8

DEFAULT_THREADS = 256


class Job(Protocol):
    """Something to run in a thread."""

    def run(self) -> None: ...


class ThreadPool:
    """A growing pool of daemon threads."""

    def __init__(self, reactor: Reactor, limit: int = DEFAULT_THREADS, name: str = "bigmachine") -> None:
        self._reactor = reactor
        self._limit = limit
        self._name = name
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        #: For each thread: how many jobs it has taken, and how many of them it is through with.
        self._tallies: list[list[int]] = []
        self._seen = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        # Of the bound, so many may be had by threads that serve a connection, and not this pool's jobs.
        self._to_lend = limit // 4
        #: What each thread that has such a place is to do before its next call; a debugger begins to trace it so.
        self.errand: Callable[[], object] | None = None

    @property
    def size(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    def lend(self) -> bool:
        """Give a place to a thread of somebody else's, until `take_back`; False if it cannot be spared."""
        if self._is_closed or not self._to_lend or len(self._threads) >= self._limit:
            return False
        self._to_lend -= 1
        self._limit -= 1
        return True

    def take_back(self) -> None:
        """Have a place back: the thread that had it ends."""
        self._to_lend += 1
        self._limit += 1

    def submit(self, job: Job) -> None:
        """Have a job run soon; on the reactor's thread."""
        self._jobs.put(job)
        if self._is_closed:
            self._add()  # the closing of a stream that was being read: in a thread of its own, which then ends
            self._jobs.put(None)
        elif not self._threads:
            self._add()
        elif self._timer is None and len(self._threads) < self._limit:
            self._seen = self._taken()
            self._timer = self._reactor.loop.call_later(_PATIENCE, self._look)

    def _look(self) -> None:
        self._timer = None
        waiting = self._jobs.qsize()
        if not waiting or self._is_closed:
            return
        taken = self._taken()
        done, self._seen = taken - self._seen, taken
        # Those that have nothing to do have not got to their feet yet: more of them would not be faster.
        waiting -= sum(tally[0] == tally[1] for tally in self._tallies)
        if waiting > 0 and done < _BRISK * len(self._threads):
            for _ in range(min(max(1, waiting - done), self._limit - len(self._threads))):
                self._add()
        if len(self._threads) < self._limit:
            self._timer = self._reactor.loop.call_later(_PATIENCE, self._look)

    def _taken(self) -> int:
        return sum(tally[0] for tally in self._tallies)

    def _add(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        tally = [0, 0]
        args = (self._jobs, tally, self._reactor.loop)
        thread = threading.Thread(target=_work, args=args, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # The host's limit of threads: what there is must do; without any the job could never run.
            if not self._threads:
                raise
            _log.warning("this host lets the machine have %d threads only; further calls wait", len(self._threads))
            self._limit = len(self._threads)
            return
        self._threads.append(thread)
        self._tallies.append(tally)

    def close(self) -> None:
        """Let the threads end once they are idle."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for _ in self._threads:
            self._jobs.put(None)


def _work(jobs: queue.SimpleQueue[Job | None], tally: list[int], loop: asyncio.AbstractEventLoop) -> None:
    get, is_empty = jobs.get, jobs.empty
    while (job := get()) is not None:
        tally[0] += 1
        try:
            job.run()
        except BaseException:  # noqa: BLE001 (a thread's edge: a job reports its own errors, so this is ours)
            if loop.is_closed():
                _log.debug("a job outlasted the event loop that it was for", exc_info=True)
            else:
                _log.exception("a job failed")
        tally[1] += 1
        # Not kept until the next job comes: it may hold a large argument, and a call its service.
        del job
        if is_empty():
            set_current(None)


#: How a stream's producer or a job gets a thread.
Submit = Callable[[Job], None]
