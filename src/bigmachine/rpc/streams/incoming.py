"""The reading end of a stream: holds what has arrived, wakes whoever waits for it, returns credit.

`put` and `end` are on the reactor's thread; `pull` and `close` may be in any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any

from bigmachine.errors import BigmachineError, DeadlineExceeded
from bigmachine.rpc.context import get_current, remaining
from bigmachine.rpc.streams.streamed import WINDOW_BYTES, WINDOW_ITEMS, Carrier
from bigmachine.rpc.turns import Turns
from bigmachine.rpc.wire import CLOSE, CREDIT, CREDIT_PAYLOAD, WireError, small_frame

_log = logging.getLogger("bigmachine.rpc")
#: Credit is given back for so much at once.
_ITEMS_BACK = WINDOW_ITEMS // 4
_BYTES_BACK = WINDOW_BYTES // 4
#: Seconds after which a thread that waits sees whether the event loop that brings the items still runs.
_LOOKS_UP = 1.0


class _Reader:
    """A thread that waits for the next item, until it is woken or its call is cancelled."""

    __slots__ = ("_lock", "is_cancelled")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.is_cancelled = False

    def wait(self, seconds: float) -> None:
        self._lock.acquire(timeout=seconds)

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # woken already, by a cancellation or an item
            self._lock.release()

    def cancel(self) -> bool:
        self.is_cancelled = True
        self.wake()
        return True


class Incoming:
    """The reading end: holds what has arrived, wakes whoever waits for it, returns credit."""

    def __init__(self, carrier: Carrier, ident: int, what: str) -> None:
        self.carrier = carrier
        self.ident = ident
        self.what = what
        self._items: deque[tuple[Any, int]] = deque()
        self._error: BaseException | None = None
        self._has_ended = False
        self._is_closed = False
        self._may_block = False  # whether somebody has begun to read elsewhere than on the carrier's loop
        self._turns = Turns()
        self._consumed_bytes = 0
        self._consumed_items = 0
        # On the reactor's thread alone, and counted as the writer does.
        self._granted_bytes = WINDOW_BYTES
        self._granted_items = WINDOW_ITEMS
        self._got_bytes = 0
        self._got_items = 0
        # How to wake each reader that waits: nearly always one, but threads may share a stream.
        self._waiting: deque[Callable[[], object]] = deque()
        self._expiry: asyncio.TimerHandle | None = None
        carrier.incoming[ident] = self

    # on the reactor's thread

    def put(self, item: Any, size: int) -> None:
        """Take in an item.

        Raises: WireError if there was no credit for it: memory is bounded by us, not by the peer's good will. The
        last item may go beyond the bytes, and one beyond either limit is not worth a connection.
        """
        if self._got_items > self._granted_items or self._got_bytes > self._granted_bytes:
            raise WireError(
                f"the stream {self.what} has {self._got_items + 1:,} items after {self._got_bytes:,} bytes, but credit "
                f"for {self._granted_items:,} items and {self._granted_bytes:,} bytes"
            )
        self._got_items += 1
        self._got_bytes += size
        self._items.append((item, size))
        if self._waiting:
            self._wake()

    def expire_in(self, seconds: float) -> None:
        """End it after so many seconds, when the deadline of its call has passed: no word of the producer is needed."""
        self._expiry = self.carrier.reactor.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._send_close()
        self.end(DeadlineExceeded(f"the stream {self.what} was not through by the deadline of its call"))

    def _forget(self) -> bool:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        return self.carrier.incoming.pop(self.ident, None) is not None

    def end(self, error: BaseException | None) -> None:
        if self._has_ended:
            return
        self._forget()
        self._error = error
        self._has_ended = True
        self._wake()

    def _wake(self) -> None:
        waiting = self._waiting
        while waiting:
            try:
                wake = waiting.popleft()
            except IndexError:  # `close` in another thread took it
                return
            wake()

    # the reader's side

    def pull(self) -> Any:
        """Return the next item; wait for it, until the deadline that is set.

        Raises: StopIteration at the end, the producer's error, DeadlineExceeded, CancelledError once if the call that
        is served here is given up; BigmachineError on the event loop that brings the items, or if that is stopped.
        """
        if not self._may_block:
            # Also if there are items already: a method that reads like this is to fail the first time it is tried.
            self._check_not_here()
            self._may_block = True
        while True:
            if self._items and not self._is_closed:  # what comes in the moment of closing stays unread
                try:
                    item, size = self._items.popleft()
                except IndexError:  # another reader, or `close`, was faster
                    continue
                # As `_take`, with a call less.
                self._consumed_bytes += size
                self._consumed_items += 1
                if self._consumed_items >= _ITEMS_BACK or self._consumed_bytes >= _BYTES_BACK:
                    self._give_credit()
                    self._turns.give()  # to the loop: so the producer goes on while the rest is read
                return item
            self._check_end()
            self._check_not_here()
            if not self.carrier.reactor.loop.is_running():
                raise BigmachineError(
                    f"the event loop that brings the items of the stream {self.what} is stopped, so none would come: "
                    "let it run, and read with 'async for' there"
                )
            left = remaining()
            if left is not None and left <= 0:
                raise DeadlineExceeded(f"the stream {self.what} had no further item before the deadline")
            self._wait(_LOOKS_UP if left is None else min(left, _LOOKS_UP))

    def _check_not_here(self) -> None:
        if self.carrier.reactor.is_here:
            raise BigmachineError(
                f"reading the stream {self.what} here would block the event loop that brings its items: use 'async "
                "for', or read it in a thread (asyncio.to_thread)"
            )

    def _wait(self, seconds: float) -> None:
        reader = _Reader()
        self._waiting.append(reader.wake)
        info = get_current()
        try:
            if info is not None:
                info.wait_for(reader)
            if not self._is_due():
                reader.wait(seconds)
        finally:
            if info is not None:
                info.leave_off(reader)
            with contextlib.suppress(ValueError, IndexError):  # it has been woken
                self._waiting.remove(reader.wake)
        if reader.is_cancelled:
            raise CancelledError(f"the call that reads the stream {self.what} was given up")

    async def pull_async(self) -> Any:
        """Return the next item; wait for it, until the deadline that is set.

        Raises: StopAsyncIteration at the end, the producer's error, DeadlineExceeded.
        """
        while True:
            if self._items and not self._is_closed and (taken := self._take()) is not None:
                return taken[0]
            try:
                self._check_end()
            except StopIteration:
                raise StopAsyncIteration from None
            left = remaining()
            if left is not None and left <= 0:
                raise DeadlineExceeded(f"the stream {self.what} had no further item before the deadline")
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            self._waiting.append(partial(self.carrier.reactor.wake, future))
            if not self._is_due():
                await asyncio.wait((future,), timeout=left) if left is not None else await future

    def _is_due(self) -> bool:
        return bool(self._items) or self._has_ended or self._is_closed

    def _check_end(self) -> None:
        if self._is_closed:
            raise StopIteration
        if self._has_ended:
            error, self._error = self._error, None
            if error is not None:
                raise error
            raise StopIteration

    def _take(self) -> tuple[Any, int] | None:
        try:
            taken = self._items.popleft()
        except IndexError:  # another reader, or `close`, was faster
            return None
        self._consumed_bytes += taken[1]
        self._consumed_items += 1
        if self._consumed_items >= _ITEMS_BACK or self._consumed_bytes >= _BYTES_BACK:
            self._give_credit()
        return taken

    def _give_credit(self) -> None:
        size, self._consumed_bytes = self._consumed_bytes, 0
        count, self._consumed_items = self._consumed_items, 0
        while not self._has_ended and (size or count):
            now = min(size, 0xFFFF_FFFF)  # one item can have more than a u32 holds
            self._post(self._grant, now, count)
            size, count = size - now, 0

    def _grant(self, size: int, count: int) -> None:
        self._granted_bytes += size
        self._granted_items += count
        self.carrier.transmit(small_frame(CREDIT, 0, self.ident, CREDIT_PAYLOAD.pack(size, count)))

    def close(self) -> None:
        """Tell the producer to stop; safe to call twice and from a finaliser."""
        if self._is_closed:
            return
        self._is_closed = True
        self._items.clear()
        if not self._has_ended:
            self._post(self._send_close)
        self._wake()

    def _send_close(self) -> None:
        if self._forget():
            self.carrier.transmit(small_frame(CLOSE, 0, self.ident))

    def _post(self, function: Callable[..., object], *args: object) -> None:
        try:
            self.carrier.reactor.post(function, *args)
        except RuntimeError:
            _log.debug("the link of the stream %s is closed", self.what)
