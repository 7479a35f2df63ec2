"""Busy polling: who waits for something that is about to come looks for it, rather than sleep.

Who sleeps has to be woken, and a round trip wakes somebody at either end: where machine and driver have a core each,
that is most of the time a small call takes (`docs/performance.md`). So a thread that has sent its one call looks for
the outcome for a moment, and one that has answered looks for the next call. It does so only for a call that is alone:
where more are under way nobody sleeps for long, and what comes together costs less.

Looking is worth it while it succeeds and while the core has nothing better to do, so the past decides (`Odds`). The
kernel does the same before it halts a processor (Linux, Documentation/virt/guest-halt-polling.rst). Between two looks
the core is given to whoever else is ready, `sched_yield`; that this took a while says that somebody is.
"""

from __future__ import annotations

import asyncio
import select
import socket
from contextvars import Context
from time import perf_counter
from typing import Final

from bigmachine.rpc.turns import STEP_BACK

#: Seconds for which is looked at most.
_LIMIT: Final = 200e-6
#: What has come within so many seconds, while nobody looked, is a sign that looking would have paid.
_SOON: Final = 400e-6
#: So many signs in a row make a beginning; and what a look in vain takes of the credit, in looks that succeeded.
_START: Final = 16
#: More credit than this is not given: so many looks in a row may be in vain, divided by `_START`.
_FULL: Final = 64
#: A core is shared with somebody if stepping back takes longer than this.
_SHARED: Final = 15e-6
#: What such a look takes of the credit.
_SHARED_PRICE: Final = 4
#: When the core's others have used the credit up there is no look for so many signs: `_START`, twice as many each
#: time, and this at most.
_LONGEST_PAUSE: Final = 1024
#: A connection's call is alone if fewer than this were made since its last one, by the numbers that calls have.
_ALONE: Final = 3
_CAN_LOOK: Final = STEP_BACK is not None and hasattr(select, "poll")


class Odds:
    """What the past says of whether looking pays."""

    __slots__ = ("_credit", "_has_looked", "_pause")

    def __init__(self) -> None:
        self._credit = 1 - _START
        self._pause = _START
        self._has_looked = False

    def favour(self) -> bool:
        """Tell whether to look for what is expected now."""
        self._has_looked = self._credit > 0 and _CAN_LOOK
        return self._has_looked

    def decline(self) -> None:
        """Note that what is expected now is not looked for, whatever the odds."""
        self._has_looked = False

    def came(self, waited: float) -> None:
        """Note that what was expected has come, after so many seconds."""
        if self._has_looked:
            if waited > _LIMIT:
                self._credit -= _START
            elif self._credit < _FULL:
                self._credit += 1
            else:
                self._pause = _START
        elif waited <= _SOON:
            self._credit += 1

    def shared(self, seconds: float) -> bool:
        """Note that somebody else had the core for so long; True if looking goes on."""
        if seconds < _LIMIT:
            self._credit -= _SHARED_PRICE
            if self._credit > 0:
                return True
        self._has_looked = False
        self._credit = 1 - self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        return False


class PollingLoop:
    """Keeps an event loop from sleeping while something is expected; on its thread."""

    __slots__ = ("_context", "_is_looking", "_loop", "_odds", "_since", "is_expecting", "is_off")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._odds = Odds()
        self._since = 0.0
        self._is_looking = False
        self._context = Context()
        self.is_expecting = False
        #: For a loop whose thread is not the one that waits: it would only be in its way.
        self.is_off = False

    def expect(self) -> None:
        """Something should come soon: what was waited for until now does not matter any more."""
        if self.is_off:
            return
        self._since = perf_counter()
        self.is_expecting = True
        if self._odds.favour() and not self._is_looking:
            self._is_looking = True
            self._loop.call_soon(self._look, context=self._context)

    def came(self) -> None:
        """Something has come, while it was expected."""
        self.is_expecting = False
        self._odds.came(perf_counter() - self._since)

    def _look(self) -> None:
        # That there is something to do next is what makes the loop see what has come without sleeping.
        if self.is_expecting and (now := perf_counter()) - self._since < _LIMIT:
            STEP_BACK()  # type: ignore[misc]  # there is one, or nobody looks
            took = perf_counter() - now
            if took < _SHARED or self._odds.shared(took):
                self._loop.call_soon(self._look, context=self._context)
                return
        self._is_looking = False


class PollingSocket:
    """Keeps the one thread that reads a socket from sleeping while something is expected."""

    __slots__ = ("_last", "_odds", "_poll", "_since")

    def __init__(self, sock: socket.socket) -> None:
        self._odds = Odds()
        self._since = 0.0
        self._last = 0
        if _CAN_LOOK:
            self._poll = select.poll()
            self._poll.register(sock, select.POLLIN)

    def expect(self, ident: int) -> None:
        """Wait, for a moment at most, for what comes after the call `ident` was sent, or answered."""
        self._since = since = perf_counter()
        last, self._last = self._last, ident
        if ident - last >= _ALONE:
            self._odds.decline()
        elif self._odds.favour():
            poll = self._poll.poll
            while not poll(0) and (now := perf_counter()) - since < _LIMIT:
                STEP_BACK()  # type: ignore[misc]  # there is one, or nobody looks
                took = perf_counter() - now
                if took >= _SHARED and not self._odds.shared(took):
                    break

    def came(self) -> None:
        """It has come."""
        self._odds.came(perf_counter() - self._since)
