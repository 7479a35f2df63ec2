"""Temporary directories of machines: each process of a machine has one of its own, and it ends with it.

An agent makes one directory in the temporary directory of its host, `bm-` and six characters, and each of its machines
one in that; TMPDIR, TMP and TEMP name it there. So whatever a program puts into its temporary directory,
files, folders and sockets, can be found and removed when the process has ended, however that was: by the agent, and
when the agent ends by its undertaker.

If both are killed, or the host is switched off, the next agent's end finds what is left (`remove_abandoned`): a
directory of this form, this user and this host, that is not locked. The lock (flock) is held as long as the agent
lives; it also keeps systemd-tmpfiles from removing files of a machine that runs for weeks.

Names are short, for the path of a Unix socket has 107 bytes at most (macOS: 103), and that of a listener of
`multiprocessing` is `_SOCKET` longer than the directory's. Where such a path only fits without a directory of ours,
there is none.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Final

from bigmachine.agent.processes.removal import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import ThreadPoolExecutor

#: What programs look up, in the order in which `tempfile` does.
NAMES: Final = ("TMPDIR", "TEMP", "TMP")
_ELSEWHERE: Final = ("/tmp", "/var/tmp")  # noqa: S108 (what is made there is our own)
_FORM: Final = re.compile(r"bm-[0-9a-f]{6}")
#: A file in the agent's directory that holds the name of the host: others may see the same file system.
_HOST: Final = ".host"
#: A directory is made before it is locked; one that is younger than so many seconds may not be locked yet.
_YOUNG: Final = 60.0
_PATH: Final = 103 if sys.platform == "darwin" else 107
_OURS: Final = len("/bm-123456/1234")
_SOCKET: Final = len("/pymp-12345678/listener-12345678")
#: Seconds for the files of one machine. What is left then is the undertaker's, or stays where it is.
_LONG: Final = 600.0
#: Seconds for looking through a host's temporary directory, which may hold millions of files of others.
_LOOK: Final = 1.0


class Scratch:
    """The directories of one agent. `announce` is told of each directory that is to be removed when the agent ends.

    On the agent's loop, but for `end`.
    """

    def __init__(self, announce: Callable[[str], None] | None = None) -> None:
        self._announce = announce
        self._bases: dict[str, str] = {}  # by the directory that they are in
        self._locks: list[int] = []
        self._count = 0
        self._aside: ThreadPoolExecutor | None = None

    def assign(self, environ: Mapping[str, str], cwd: str = "/") -> str:
        """Name a directory for a process that starts with `environ` in `cwd`; empty: it can have none of its own.

        Whoever it is for makes it (`make_directory`): on a busy disk that takes milliseconds, which this loop has not.
        """
        for parent in _parents(environ, cwd):
            if not _is_short(parent):
                return ""
            with contextlib.suppress(OSError):
                base = self._base(parent)
                self._count += 1
                return f"{base}/{self._count}"
        return ""

    def drop(self, path: str) -> None:
        """Remove the directory of a process that has ended, in a thread: a disk may take its time."""
        if not path:
            return
        if self._aside is None:
            from concurrent.futures import ThreadPoolExecutor  # not in the undertaker

            self._aside = ThreadPoolExecutor(1, "bigm-scratch")
        self._aside.submit(lambda: remove(path, time.monotonic() + _LONG))

    def end(self, until: float) -> None:
        """Remove all of them, and what agents have left here that were killed. For the end, in any thread."""
        remove_all(list(self._bases.values()), until)
        while self._locks:
            os.close(self._locks.pop())

    def _base(self, parent: str) -> str:
        base = self._bases.get(parent)
        if base is None:
            base = _made_in(parent)
            self._bases[parent] = base  # first of all: `end` may come at any time
            if self._announce is not None:
                self._announce(base)
            self._lock(base)
        return base

    def _lock(self, base: str) -> None:
        import fcntl

        with contextlib.suppress(OSError):  # without it the next agent keeps its hands off, too
            fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
            self._locks.append(fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mark = os.open(_HOST, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=fd)
            try:
                os.write(mark, _this_host())
            finally:
                os.close(mark)


def make_directory(path: str) -> bool:
    """Make the directory that was assigned, if it is not there; False if that cannot be, or none was."""
    if not path:
        return False
    for _ in range(2):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            return True
        except FileNotFoundError:  # somebody has cleaned up there
            with contextlib.suppress(OSError):
                os.mkdir(os.path.dirname(path), 0o700)
        except OSError:
            return False
        else:
            return True
    return False


def directory_environ(path: str) -> dict[str, str]:
    """Give the variables by which a program finds its temporary directory; none for an empty path."""
    return dict.fromkeys(NAMES, path) if path else {}


def remove_all(bases: Iterable[str], until: float) -> None:
    """Remove these directories of an agent that ends, and those beside them whose agents were killed."""
    parents = {os.path.dirname(base): None for base in bases}
    for base in bases:
        _remove_base(base, until)
    for parent in parents:
        remove_abandoned(parent, until)


def _remove_base(base: str, until: float) -> None:
    """Remove an agent's directory, and last what it is known by: who stops on the way leaves it to be found."""
    try:
        with os.scandir(base) as entries:
            machines = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # it is gone
        return
    left = [machine for machine in machines if not remove(machine, until)]
    if not left:
        remove(base, until)


def remove_abandoned(parent: str, until: float) -> None:
    """Remove the directories that agents of this user and host have left in `parent`, and which nobody holds."""
    end = min(until, time.monotonic() + _LOOK)
    found: list[str] = []
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if _FORM.fullmatch(entry.name):
                found.append(entry.path)
            if time.monotonic() >= end:
                break
    for path in found:
        with contextlib.suppress(OSError), _held(path) as is_abandoned:
            if is_abandoned:
                _remove_base(path, until)


@contextlib.contextmanager
def _held(path: str) -> Iterator[bool]:
    """Lock an agent's directory; True if it is one that no agent has any more.

    Raises:
        OSError: if it is locked, or cannot be looked at.
    """
    import fcntl

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            yield False
            return
        mark = os.open(_HOST, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
        try:
            is_ours = os.read(mark, 256) == _this_host()
            is_young = time.time() < os.fstat(mark).st_mtime + _YOUNG
        finally:
            os.close(mark)
        if is_ours and not is_young:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield is_ours and not is_young
    finally:
        os.close(fd)


def _made_in(parent: str) -> str:
    """Make an agent's directory.

    Raises:
        OSError: if nothing can be made there.
    """
    while True:
        base = os.path.join(parent, f"bm-{os.urandom(3).hex()}")
        with contextlib.suppress(FileExistsError):
            os.mkdir(base, 0o700)
            return base


def _parents(environ: Mapping[str, str], cwd: str) -> Iterator[str]:
    """Give the directories to try: what the process itself would take, then the agent's own choice."""
    named = [each.get(name) for each in (environ, os.environ) for name in NAMES]
    for path in dict.fromkeys((*named, *_ELSEWHERE)):
        if path and "\n" not in path:  # the undertaker is told in lines
            yield os.path.normpath(os.path.join(cwd, path))


def _is_short(parent: str) -> bool:
    size = len(os.fsencode(parent)) + _SOCKET
    return not size <= _PATH < size + _OURS


def _this_host() -> bytes:
    return os.fsencode(os.uname().nodename)


__all__ = ["NAMES", "Scratch", "directory_environ", "make_directory", "remove_abandoned", "remove_all"]
