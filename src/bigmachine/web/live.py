"""The stream of the dashboard: once a second, what changed; nothing at all while nobody looks.

A thread begins with the first viewer and ends with the last. It looks once for all viewers; a new one is told all that
is known, the others what changed. One who does not take it (a laptop that sleeps) loses what it missed, and is told
everything when it comes back; nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from bigmachine.errors import BigmachineError
from bigmachine.machine import State
from bigmachine.session.seeing.costs import shares
from bigmachine.session.seeing.rows import Row, rounded
from bigmachine.session.seeing.status import title
from bigmachine.session.seeing.watching import CALLS, LINES, Calls, Line, Table
from bigmachine.web.changes import Names, Rows, event

if TYPE_CHECKING:
    from bigmachine.session import Session
    from bigmachine.session.timeline import Span

_log = logging.getLogger("bigmachine")
#: Between two looks.
_PERIOD: Final = 1.0
#: Two viewers who come at once are one reason to look.
_LEAST: Final = 0.1
#: Events that may wait for a viewer.
_WAITING: Final = 4
_SPANS: Final = 2000


class Viewer:
    """Somebody who looks, on an event loop of theirs."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes | None] = deque()
        self._has_come = asyncio.Event()
        #: Whether it has to be told everything.
        self.is_new = True

    def tell(self, data: bytes | None) -> bool:
        """Hand over an event, None at the end; from any thread. False if the viewer's loop has ended."""
        try:
            self._loop.call_soon_threadsafe(self._take, data)
        except RuntimeError:
            return False
        return True

    def _take(self, data: bytes | None) -> None:
        if len(self._waiting) >= _WAITING and data is not None:
            self._waiting.clear()
            self.is_new = True
        else:
            self._waiting.append(data)
        self._has_come.set()

    async def next(self) -> bytes | None:
        """Wait for the next event."""
        while not self._waiting:
            self._has_come.clear()
            await self._has_come.wait()
        return self._waiting.popleft()


class Watch:
    """Looks at a session's machines while there is a viewer."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._viewers: set[Viewer] = set()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    async def events(self) -> AsyncIterator[bytes]:
        """Tell a viewer everything, then what changes, as server-sent events, until the session ends."""
        viewer = Viewer()
        yield b"retry: 2000\n\n"
        self._join(viewer)
        try:
            while (data := await viewer.next()) is not None:
                yield data
        finally:
            self._leave(viewer)

    def close(self) -> None:
        """Tell all viewers that the session has ended."""
        with self._lock:
            self._is_closed = True
            viewers = list(self._viewers)
        for viewer in viewers:
            _end(viewer)
        self._wake.set()

    @property
    def is_looking(self) -> bool:
        """Whether it looks: nobody does without a viewer."""
        return self._thread is not None

    def _join(self, viewer: Viewer) -> None:
        with self._lock:
            if self._is_closed:
                _end(viewer)
                return
            self._viewers.add(viewer)
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="bigmachine-watch", daemon=True)
                self._thread.start()

    def _leave(self, viewer: Viewer) -> None:
        with self._lock:
            self._viewers.discard(viewer)
            if not self._viewers:
                self._wake.set()

    def _work(self) -> None:
        look = Look(self._session)
        try:
            look.begin()
            while viewers := self._still_there():
                began = time.monotonic()
                self._wake.clear()
                self._show(look, viewers)
                time.sleep(_LEAST)
                self._wake.wait(max(0.0, began + _PERIOD - time.monotonic()))
        except BigmachineError:  # the session has ended
            self.close()
        except Exception:  # noqa: BLE001 (the edge of the thread)
            _log.exception("the dashboard of the session cannot be shown any more")
            self.close()
        finally:
            look.end()
            with self._lock:
                self._thread = None
                if self._viewers and not self._is_closed:  # one has come since
                    self._thread = threading.Thread(target=self._work, name="bigmachine-watch", daemon=True)
                    self._thread.start()

    def _still_there(self) -> list[Viewer]:
        with self._lock:
            return [] if self._is_closed else list(self._viewers)

    def _show(self, look: Look, viewers: list[Viewer]) -> None:
        change = look.take()
        everything: bytes | None = None
        for viewer in viewers:
            if viewer.is_new:
                everything = everything or look.everything()
            data = everything if viewer.is_new and everything is not None else change
            viewer.is_new = False
            if not viewer.tell(data):
                self._leave(viewer)


def _end(viewer: Viewer) -> None:
    viewer.tell(event("end", {}))
    viewer.tell(None)


def watch_of(session: Session) -> Watch:
    """Give the session's watch, which all its pages share: a call is told to one listener only."""
    found = vars(session).setdefault("_watch", Watch(session))  # one operation, whichever threads come
    assert isinstance(found, Watch)
    return found


class Look:
    """What is known while somebody looks."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._table = Table(session)
        self._calls = Calls()
        self._rows = Rows()
        self._names = Names()
        self._kept_calls: deque[list[object]] = deque(maxlen=CALLS)
        self._kept_lines: deque[Line] = deque(maxlen=LINES)
        self._spans: dict[tuple[str, str], Span] = {}

    def begin(self) -> None:
        """Ask what machines wrote before."""
        for name, lines in self._table.begin().items():
            self._kept_lines.extend((0.0, name, "stdout", line[:400]) for line in lines[-10:])

    def end(self) -> None:
        """Leave no trace."""
        self._table.end()
        self._calls.follow(())

    def take(self) -> bytes:
        """Look, and say what changed."""
        rows = self._table.rows()
        cost = self._priced(rows)
        self._calls.follow(machine for machine in self._table.machines() if machine.state is not State.STOPPED)
        calls: list[list[object]] = [
            [
                self._names.of(machine),
                self._names.of(method),
                round(began, 3),
                rounded(1e3 * seconds),
                *([1] if failed else []),
            ]
            for machine, method, began, seconds, failed in self._calls.take()
        ]
        lines, missed = self._table.output.take()
        self._kept_calls.extend(calls)
        self._kept_lines.extend(lines)
        spans = self._new_spans()
        return event(
            "change",
            {
                "now": round(time.time(), 1),
                "rows": self._rows.change(rows),
                "calls": calls,
                "lines": lines,
                "missed": missed or None,
                "spans": spans,
                "cost": cost,
                "names": self._names.fresh(),  # the last, as the others make names
            },
        )

    def everything(self) -> bytes:
        """Say all that is known."""
        return event(
            "all",
            {
                "now": round(time.time(), 1),
                "session": title(self._session),
                "rows": self._rows.rows,
                "calls": list(self._kept_calls),
                "lines": list(self._kept_lines),
                "spans": [self._told(span) for span in list(self._spans.values())[-_SPANS:]],
                "cost": self._priced({}),
                "names": self._names.all,
            },
        )

    def _new_spans(self) -> list[list[object]]:
        told = []
        for span in self._session.timeline()[-_SPANS:]:
            key = (span.machine, span.phase)
            if self._spans.get(key) != span:
                self._spans[key] = span
                told.append(self._told(span))
        return told

    def _told(self, span: Span) -> list[object]:
        ended = None if span.ended is None else round(span.ended, 3)
        return [self._names.of(span.machine), self._names.of(span.phase), round(span.began, 3), ended, span.sent]

    def _priced(self, rows: dict[str, Row]) -> list[float] | None:
        """Put into each row what its machine costs; give dollars an hour and altogether, where the system tells."""
        try:
            receipt = self._session.cost()
        except Exception:  # noqa: BLE001 (the System may be anybody's)
            _log.debug("the system cannot say what its machines cost", exc_info=True)
            return None
        if receipt is None:
            return None
        for machine_id, (per_hour, so_far) in shares(receipt, rows).items():
            rows[machine_id] |= {"price": rounded(per_hour), "cost": round(so_far, 3)}
        return [round(receipt.per_hour, 4), round(receipt.total, 4)]
