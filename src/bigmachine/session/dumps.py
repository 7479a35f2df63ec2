"""Machines that run short of memory: the warning, and the files of what they held, for when it is too late."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bigmachine.agent import Dumped, MemoryShort

_log = logging.getLogger("bigmachine")
#: What happens when there is no more, and what to do: of memory that others use, too, and of what a process may have.
_SHARED: Final = "the kernel kills a process: let machines keep less, make fewer calls at once, or use fewer machines"
_OWN: Final = "it gets no more (MemoryError, or abort in code in C): raise its limit, or let it keep less"
#: How the names of files end that have a profile in them.
PROFILE: Final = ".pb.gz"


def warn(machine: str, event: MemoryShort) -> None:
    """Log that memory is nearly used up."""
    waiting = f"; all waited for memory in {event.pressure:.0f} % of the time" if event.pressure else ""
    _log.warning(
        "machine %s is short of memory: %d %% of %s is in use (%s of %s), and it holds %s%s; when all is used up, %s",
        machine,
        100 * event.used / event.limit,
        event.pool,
        _size(event.used),
        _size(event.limit),
        _size(event.resident),
        waiting,
        _OWN if "RLIMIT" in event.pool else _SHARED,
    )


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _named(data: bytes, machine: str, at: float) -> bytes:
    """Say in a profile whose it is and why it was taken, so that those of several machines can be merged."""
    from bigmachine.observe import pprof

    try:
        profile = pprof.decode(data).labelled(machine=machine)
    except ValueError:
        return data  # whatever it is, it may be of use to somebody
    profile.comments.append(f"of {machine}, when its memory ran short")
    profile.began = profile.began or round(at * 1e9)
    return pprof.encode(profile)


class Dumps:
    """Writes the files of one session to `directory`, or, if that is empty, to one below that for temporary files.

    What a program holds is nobody else's business: a directory that is made here, and the files, are this user's.
    """

    def __init__(self, directory: str, session: str) -> None:
        self._directory = os.path.expanduser(directory)
        self._session = session

    def save(self, machine: str, event: Dumped) -> None:
        """Write what a machine held, and log where."""
        when = time.strftime("%H%M%S", time.localtime(event.at))
        paths = []
        try:
            directory = self._made()
            for name, sent in event.files:
                data = _named(sent, machine, event.at) if name.endswith(PROFILE) else sent
                path = os.path.join(directory, f"{machine}-{when}-{event.seq}-{name}")
                with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(data)
                paths.append(path)
        except OSError as error:
            _log.warning("what machine %s held when memory ran short could not be saved: %s", machine, error)
        if paths:
            _log.warning("what machine %s held when memory ran short was saved: %s", machine, ", ".join(paths))

    def _made(self) -> str:
        if self._directory:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            return self._directory
        path = os.path.join(tempfile.gettempdir(), f"bigmachine-{self._session}-oom")
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            found = os.lstat(path)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise
        self._directory = path
        return path
