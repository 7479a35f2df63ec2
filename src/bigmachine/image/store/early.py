"""An environment that programs run in while a part of its files is still on its way.

Every file has its place, size and mode from the beginning, so whoever looks sees a whole environment. A file that has
not come is held by a lease (fcntl(2), F_SETLEASE): whoever opens it, in whatever language and process, waits in the
kernel until the lease is let go of, and that happens when the file's content is there and has been verified. So a
program finds what the image's digest says, or waits; it never finds anything else.

The kernel waits for a lease no longer than `/proc/sys/fs/lease-break-time` (45 s by default). Before that is over,
`Early` is broken: whoever made it ends the programs in it, and they do not come to read what is not there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bigmachine.frozen import frozen
from bigmachine.image.manifest import File

_LEASE_TIME: Final = "/proc/sys/fs/lease-break-time"
#: The kernel would wait longer, for safety's sake, than a file may keep a program waiting; both in seconds.
_MARGIN: Final = 10.0
_PATIENCE: Final = 30.0
_STEP: Final = 0.5
#: Descriptors that an agent needs for everything else.
_SPARE: Final = 1024
#: fcntl(2): the signal that tells that somebody waits. Python has no name for it.
_F_SETSIG: Final = 10

#: Told why an environment cannot be completed.
Broken = Callable[[str], None]


@frozen
class Awaited:
    """A file that has not come: where it will be, and the descriptor by which its content is written."""

    place: str
    descriptor: int
    born: int


def patience() -> float:
    """Give the seconds that a file may keep a program waiting here; 0 where files cannot be held."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return 0.0
    try:
        limit = float(Path(_LEASE_TIME).read_text())
    except (OSError, ValueError):
        return 0.0
    return _PATIENCE if limit >= _PATIENCE + _MARGIN else 0.0


def has_room(count: int) -> bool:
    """Whether this process may have so many more files open; it is allowed to, if the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _SPARE + len(os.listdir("/proc/self/fd"))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return True
    if hard != resource.RLIM_INFINITY and hard < wanted:
        return False
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return True
    return False


class Early:
    """The environment at `root`. `broken` is called at most once, from a thread, if a file is awaited for too long."""

    def __init__(self, root: Path, claim: int, broken: Broken) -> None:
        self.root = root
        self._claim = claim
        self._broken = broken
        self._lock = threading.Lock()
        self._awaited: dict[tuple[str, str], Awaited] = {}
        self._taken: set[tuple[str, str]] = set()
        self._over = threading.Event()

    def hold(self, layer: str, file: File, place: str) -> None:
        """Make a file that whoever opens it waits for.

        Raises:
            OSError: if it cannot be made, or not be held: not every file system can.
        """
        mode = 0o555 if file.executable else 0o444
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.ftruncate(descriptor, file.size)
            # By default the kernel would send SIGIO, of which a process dies; this one is ignored.
            fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BaseException:
            os.close(descriptor)
            raise
        self._awaited[layer, file.path] = Awaited(place, descriptor, os.fstat(descriptor).st_mtime_ns)

    def take(self, layer: str, path: str) -> Awaited | None:
        """Give a file that has not come, to be written by the caller alone; None if it has, or is none of these."""
        key = (layer, path)
        with self._lock:
            if key in self._taken or key not in self._awaited:
                return None
            self._taken.add(key)
            return self._awaited[key]

    def give_back(self, layer: str, path: str) -> None:
        """Say that a file that was taken could not be written: it is to be taken again."""
        with self._lock:
            self._taken.discard((layer, path))

    def came(self, layer: str, path: str) -> None:
        """Let go of a file that was taken: its content is whole and verified."""
        with self._lock:
            awaited = self._awaited.pop((layer, path))
            self._taken.discard((layer, path))
        # Byte code that is made of it meanwhile is valid for as long as the time stays the same.
        os.utime(awaited.descriptor, ns=(awaited.born, awaited.born))
        fcntl.fcntl(awaited.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(awaited.descriptor)

    def left(self) -> list[tuple[str, str]]:
        """Name what has not come, by layer and path."""
        with self._lock:
            return list(self._awaited)

    def watch(self, limit: float) -> None:
        """Begin to see that nobody waits for a file for longer than `limit` seconds."""
        threading.Thread(target=self._watch, args=(limit,), name="bigmachine-early", daemon=True).start()

    def _watch(self, limit: float) -> None:
        since: dict[tuple[str, str], float] = {}
        while not self._over.wait(_STEP):
            now = time.monotonic()
            with self._lock:
                wanted = {key for key, each in self._awaited.items() if _is_wanted(each.descriptor)}
                is_complete = not self._awaited
            if is_complete:
                return
            since = {key: since.get(key, now) for key in wanted}
            late = next((path for (_, path), began in since.items() if now - began > limit), None)
            if late is not None:
                self._broken(f"{late}, which the program opened, has not come within {limit:.0f} s")
                return

    def close(self) -> None:
        """Let go of everything; whoever is in it has to have ended."""
        self._over.set()
        with self._lock:
            left, self._awaited = self._awaited, {}
        for each in left.values():
            os.close(each.descriptor)
        os.close(self._claim)


def _is_wanted(descriptor: int) -> bool:
    """Whether somebody waits for a file: the kernel then says what the lease will be reduced to."""
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK


__all__ = ["Awaited", "Broken", "Early", "has_room", "patience"]
