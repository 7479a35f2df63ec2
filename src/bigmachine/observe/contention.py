"""Locks that note who had to wait for them [Go: the mutex profile], for machines that are started with that option.

`BIGMACHINE_MUTEX=1` in a machine's environment puts these locks in the place of `threading`'s before the program is
imported there. A lock that is free is taken as before, at the price of a call in Python (about 0.1 us); only one that
is not free costs a look at the clock and at the stack. Locks of `asyncio` are noted, too: there a whole task waits.

What was made before, or by `_thread.allocate_lock`, is not seen; nor is the interpreter's own lock, which the profile
"gil" shows.
"""

from __future__ import annotations

import _thread
import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final

from bigmachine.observe.profile import Frame, Profile, service_of

#: In a machine's environment.
SWITCH: Final = "BIGMACHINE_MUTEX"
KINDS: Final = (("contentions", "count"), ("delay", "nanoseconds"))
_MOST_STACKS: Final = 10_000
_DEEPEST: Final = 64

_Key = tuple[tuple[CodeType, int], ...]


class Contention:
    """Who has waited for how long."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._waits: dict[_Key, list[int]] = {}
        self._began = time.time_ns()

    def note(self, frame: FrameType | None, nanoseconds: int) -> None:
        """Count one wait of whoever runs in `frame`."""
        places: list[tuple[CodeType, int]] = []
        while frame is not None and len(places) < _DEEPEST:
            places.append((frame.f_code, frame.f_lineno or 0))
            frame = frame.f_back
        key = tuple(places)
        with self._lock:
            known = self._waits.get(key)
            if known is None:
                key = key if len(self._waits) < _MOST_STACKS else key[:1]
                known = self._waits.setdefault(key, [0, 0])
            known[0] += 1
            known[1] += nanoseconds

    def profile(self) -> Profile:
        """Give it as a profile: the stacks of those who waited."""
        profile = Profile(KINDS, period=1, began=self._began, duration=time.time_ns() - self._began)
        with self._lock:
            waits = [(key, list(values)) for key, values in self._waits.items()]
        for key, values in waits:
            stack = tuple(Frame(code.co_qualname, code.co_filename, line) for code, line in reversed(key))
            service = service_of(stack)
            profile.add(stack, values, {"service": service} if service else {})
        return profile


#: The process's own, once it is switched on: the locks of a process are all in one place.
_contention: Contention | None = None


def _waited(acquire: Callable[..., bool], blocking: bool, timeout: float) -> bool:
    """Acquire what is not free."""
    begin = time.perf_counter_ns()
    taken = acquire(blocking, timeout)
    if _contention is not None:
        _contention.note(sys._getframe(2), time.perf_counter_ns() - begin)
    return taken


class Lock:
    """`threading.Lock`, noting who waits for it."""

    __slots__ = ("__weakref__", "_at_fork_reinit", "_take", "locked", "release")

    def __init__(self) -> None:
        lock = _thread.allocate_lock()
        self._take = lock.acquire
        self.release = lock.release
        self.locked = lock.locked
        self._at_fork_reinit = lock._at_fork_reinit  # type: ignore[attr-defined]  # of threading's own use

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, as `threading.Lock.acquire` does."""
        if self._take(False):
            return True
        return _waited(self._take, blocking, timeout) if blocking else False

    def __enter__(self) -> bool:
        return self._take(False) or _waited(self._take, True, -1)

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} noted Lock at {id(self):#x}>"


class RLock:
    """`threading.RLock`, noting who waits for it. What `Condition` uses of it goes to the real one."""

    __slots__ = ("__weakref__", "_at_fork_reinit", "_is_owned", "_lock", "_release_save", "_take", "release")

    def __init__(self) -> None:
        lock: Any = _real_rlock()
        self._lock = lock
        self._take = lock.acquire
        self.release = lock.release
        self._is_owned = lock._is_owned
        self._release_save = lock._release_save
        self._at_fork_reinit = lock._at_fork_reinit

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it, as `threading.RLock.acquire` does."""
        if self._take(False):
            return True
        return _waited(self._take, blocking, timeout) if blocking else False

    def _acquire_restore(self, state: object) -> None:
        begin = time.perf_counter_ns()
        self._lock._acquire_restore(state)
        if _contention is not None and (took := time.perf_counter_ns() - begin) > _UNHINDERED_NS:
            _contention.note(sys._getframe(1), took)

    def __enter__(self) -> bool:
        return self._take(False) or _waited(self._take, True, -1)

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<noted {self._lock!r}>"


#: `_acquire_restore` cannot be tried first; what takes longer has waited.
_UNHINDERED_NS: Final = 5_000
_real_rlock = _thread.RLock


def install_if_asked() -> None:
    """Put these locks in the place of `threading`'s, if this process's environment asks for it."""
    if os.environ.get(SWITCH, "") not in ("", "0"):
        install()


def install() -> None:
    """Put these locks in the place of `threading`'s and let `asyncio`'s note waits; twice is once."""
    global _contention
    if _contention is not None:
        return
    _contention = Contention()
    threading.Lock = Lock  # type: ignore[assignment]  # as whoever calls it can only tell by its speed
    threading.RLock = RLock  # type: ignore[assignment]  # as above
    for kind in (asyncio.Lock, asyncio.Semaphore):
        kind.acquire = _noted(kind.acquire)  # type: ignore[method-assign]  # every instance's, also of subclasses


def _noted(acquire: Callable[..., Any]) -> Callable[..., Any]:
    async def noted(self: Any) -> bool:
        if not self.locked():
            return bool(await acquire(self))
        frame = sys._getframe(1)
        begin = time.perf_counter_ns()
        try:
            return bool(await acquire(self))
        finally:
            if _contention is not None:
                _contention.note(frame, time.perf_counter_ns() - begin)

    noted.__name__, noted.__qualname__ = acquire.__name__, acquire.__qualname__
    return noted


def profile() -> Profile:
    """Give what has been noted.

    Raises:
        ValueError: if these locks are not in use.
    """
    if _contention is None:
        raise ValueError(f"locks are not watched here: start machines with environ={{{SWITCH!r}: '1'}}")
    return _contention.profile()


__all__ = ["KINDS", "SWITCH", "Contention", "Lock", "RLock", "install", "install_if_asked", "profile"]
