"""Standard error, written to by a thread of its own: whoever reads it may stop for as long as he likes.

A terminal stands still after Ctrl-S, a pager when nobody turns the page. Written to by the event loop, it would stop
the keepalives, and machines would end for it. Here it only stops the output: what waits is counted, and while that is
too much no output is acknowledged to agents, so that in the end the machines that write wait.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading

_log = logging.getLogger("bigmachine")
#: So many characters may wait; beyond that agents keep the output (up to their own bound, see `agent.events`).
_CROWDED = 1024 * 1024


class Screen:
    """Texts on their way to standard error, in order. `write` is called from one thread at a time."""

    def __init__(self) -> None:
        self._texts: queue.SimpleQueue[str | threading.Event] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._is_closed = False
        # Each is changed by one thread only.
        self._taken = 0
        self._written = 0

    @property
    def is_crowded(self) -> bool:
        """Whether so much waits that no more should come."""
        return self._taken - self._written > _CROWDED

    def write(self, text: str) -> None:
        """Have a text written soon; never waits. After `close` it is dropped."""
        if self._is_closed:
            return
        self._taken += len(text)
        self._texts.put(text)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="bigmachine-output", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while True:
            item = self._texts.get()
            if isinstance(item, str):
                _to_stderr(item)
                self._written += len(item)
            else:
                item.set()
                if item is self._end:
                    return

    def flush(self, timeout: float) -> bool:
        """Wait until all is written that came before; False if that takes more than `timeout` seconds."""
        if self._thread is None:
            return True
        mark = threading.Event()
        self._texts.put(mark)
        return mark.wait(timeout)

    def close(self, timeout: float) -> None:
        """Write what waits, within `timeout` seconds, and end the thread then or as soon as it can be."""
        self._is_closed = True
        if self._thread is not None:
            self._texts.put(self._end)
            if not self._end.wait(timeout):
                _log.debug("standard error takes no output; the rest of it is lost if the program ends before that")


def _to_stderr(text: str) -> None:
    # Looked up each time: programs and test runners replace it.
    stream = sys.stderr
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        _log.debug("standard error is closed; machines' output is not shown any more")
