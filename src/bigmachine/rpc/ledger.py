"""Outcomes of calls that may be sent again, so that each runs at most once on a machine. Pure: no clock, no I/O.

`Machine.retry_call` gives every attempt of a call the same key. The first attempt opens an entry; a later one either
waits for it or gets the outcome that is kept. What is kept is bounded, in number and in bytes: the oldest outcomes
are forgotten first, but not that there was one, and an attempt that comes after that is told so rather than run. The
newest outcome is kept whatever its size, until the next one comes: a large result is worth repeating most.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

W = TypeVar("W")
R = TypeVar("R")

KEPT = 4096
KEPT_BYTES = 64 * 2**20
#: A forgotten outcome costs some hundred bytes; a machine that has run so many retried calls since is long past it.
REMEMBERED = 65536


class Lack(enum.Enum):
    """Why a call that was begun has no outcome to give."""

    FORGOTTEN = enum.auto()  # newer ones took its place
    STREAMED = enum.auto()  # it is a stream, which is given once
    FORMER = enum.auto()  # another process began it, which this one has replaced


@dataclass(slots=True)
class Entry(Generic[W, R]):
    """One call: its outcome if it has one, and who waits for it."""

    key: bytes
    outcome: R | None = None
    size: int = 0
    is_settled: bool = False
    #: If it is settled without an outcome.
    lack: Lack = Lack.FORGOTTEN
    #: Its input was cut off with a connection: an error is no outcome of its own then, and nobody is to wait for it.
    has_broken_off: bool = False
    waiting: list[W] = field(default_factory=list)


class Ledger(Generic[W, R]):
    """The calls with a key that a machine has seen. `W`: who waits; `R`: an outcome."""

    def __init__(self, kept: int = KEPT, kept_bytes: int = KEPT_BYTES, remembered: int = REMEMBERED) -> None:
        self._kept = kept
        self._kept_bytes = kept_bytes
        self._remembered = remembered
        self._entries: OrderedDict[bytes, Entry[W, R]] = OrderedDict()
        self._settled: OrderedDict[bytes, None] = OrderedDict()  # with an outcome, the oldest first
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def open(self, key: bytes) -> Entry[W, R] | None:
        """Begin a call; None if this key has been seen: then see `find`."""
        if key in self._entries:
            return None
        entry = self._entries[key] = Entry[W, R](key)
        return entry

    def find(self, key: bytes) -> Entry[W, R]:
        """Return the entry of a key that has been seen. Settled without an outcome: it is not known any more."""
        return self._entries[key]

    def settle(self, entry: Entry[W, R], outcome: R | None, size: int) -> list[W]:
        """Note a call's outcome (None: a stream, which cannot be given twice); return who waits for it."""
        entry.is_settled = True
        waiting, entry.waiting = entry.waiting, []
        if outcome is not None:
            entry.outcome, entry.size = outcome, size
            self._settled[entry.key] = None
            self._size += size
        else:
            entry.lack = Lack.STREAMED
        self._forget()
        return waiting

    def remember(self, key: bytes) -> None:
        """Note a call that another process has begun, and came to nobody knows what."""
        self._entries.setdefault(key, Entry(key, is_settled=True, lack=Lack.FORMER))
        self._forget()

    def break_off(self, entry: Entry[W, R]) -> list[W]:
        """Note that a running call's input was cut off; return who waited for it, and would wait for nothing."""
        entry.has_broken_off = True
        waiting, entry.waiting = entry.waiting, []
        return waiting

    def withdraw(self, entry: Entry[W, R]) -> list[W]:
        """Take a call out as if it had never come: it did not run to an outcome of its own."""
        self._entries.pop(entry.key, None)
        waiting, entry.waiting = entry.waiting, []
        return waiting

    def _forget(self) -> None:
        while len(self._settled) > self._kept or (len(self._settled) > 1 and self._size > self._kept_bytes):
            key, _ = self._settled.popitem(last=False)
            entry = self._entries[key]
            self._size -= entry.size
            entry.outcome, entry.size = None, 0
        while len(self._entries) > self._remembered:
            oldest = next(iter(self._entries.values()))
            if not oldest.is_settled:
                return  # never one that is running
            del self._entries[oldest.key]
            if self._settled.pop(oldest.key, self) is None:
                self._size -= oldest.size
