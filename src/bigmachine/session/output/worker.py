"""A thread that does things in order: whoever waits for it is told when too much waits, and nobody else waits.

A terminal stands still after Ctrl-S, a pager when nobody turns the page, a callback may take its time. Done by the
event loop, that would stop the keepalives, and machines would end for it. Here it only stops the output: what waits is
counted, and while that is too much no output is acknowledged to agents, so that in the end the machines that write
wait.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

_log = logging.getLogger("bigmachine")
#: So many bytes may wait; beyond that agents keep the output (up to their own bound, see `agent.events`).
CROWDED = 1024 * 1024
#: What waits is written in a moment, as a rule: it has at least this, also when machines took all the time there was.
_LEAST = 0.25
#: Between two flushes, so that a burst is written in large pieces and yet soon.
_BATCH = 64 * 1024

_T = TypeVar("_T")
_Job = tuple[int, Callable[[], object]]


class Worker:
    """Does jobs in order. `post` is called from one thread at a time.

    `flush` is called after each batch of jobs, and gives the seconds until it wants to be called again, or None.
    """

    def __init__(self, flush: Callable[[], float | None]) -> None:
        self._flush = flush
        self._jobs: queue.SimpleQueue[_Job | threading.Event] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._is_closed = False
        # Each is changed by one thread only.
        self._taken = 0
        self._done = 0

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits that no more should come."""
        return self._taken - self._done > CROWDED

    def post(self, weight: int, job: Callable[[], object]) -> None:
        """Have a job done soon; never waits. After `close` it is dropped. `weight`: bytes that it holds."""
        if self._is_closed:
            return
        self._taken += weight
        self._jobs.put((weight, job))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="bigmachine-output", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        pause: float | None = None
        while True:
            weight = 0
            mark: threading.Event | None = None
            with contextlib.suppress(queue.Empty):
                item = self._jobs.get(timeout=pause)
                while not isinstance(item, threading.Event):
                    weight += item[0]
                    _guarded(item[1])
                    if weight >= _BATCH:
                        break
                    item = self._jobs.get_nowait()
                else:
                    mark = item
            pause = _guarded(self._flush)
            self._done += weight
            if mark is not None:
                mark.set()
                if mark is self._end:
                    return

    def wait(self, timeout: float) -> bool:
        """Wait until all is done that came before; False if that takes more than `timeout` seconds."""
        if self._thread is None or self._thread is threading.current_thread():
            return True
        mark = threading.Event()
        self._jobs.put(mark)
        return mark.wait(timeout)

    def close(self, stall: float, timeout: float) -> None:
        """Do what waits, for at most `timeout` seconds (or 0.25), and not if nothing moves for `stall` seconds.

        The thread ends then, or as soon as it can.
        """
        self._is_closed = True
        if self._thread is None:
            return
        self._jobs.put(self._end)
        end = time.monotonic() + max(timeout, _LEAST)
        done = -1
        while self._thread is not threading.current_thread() and done != self._done and time.monotonic() < end:
            done = self._done
            if self._end.wait(min(stall, max(0.0, end - time.monotonic()))):
                return
        if self._thread is not threading.current_thread():
            _log.warning(
                "what machines wrote last is not shown: whoever takes this program's output has stopped; the last "
                "%d bytes are lost if the program ends before it goes on",
                self._taken - self._done,
            )


def _guarded(job: Callable[[], _T]) -> _T | None:
    try:
        return job()
    except Exception:  # noqa: BLE001 (the edge of the thread: a full disk, a handler of the program's that fails)
        _log.exception("output of machines could not be shown")
        return None
