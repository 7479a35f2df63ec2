"""The register of a user's sessions: a file for each, and the socket of each that runs, in a folder of the user's own.

    $XDG_RUNTIME_DIR/bigmachine/ID.json   what is known of a session
                                ID.sock   where its driver listens (`session.control`), while it runs

Without $XDG_RUNTIME_DIR the folder is ~/.cache/bigmachine/sessions; and where that cannot be, one in /tmp.

A driver writes its own file, by renaming a new one into its place. When a session ends it says so in its file. One that
cannot say so, because its process was killed, is known by that process: there is none with this number that was started
at that moment. What has ended is kept for a week, and the last twenty of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from typing import Any, Final, cast

from bigmachine.frozen import frozen

KEPT: Final = 20
KEPT_SECONDS: Final = 7 * 86_400.0
#: What stands in the place of an argument that may be a secret.
HIDDEN: Final = "…"
_SECRETS: Final = ("passw", "passphrase", "secret", "token", "credential", "cookie", "key", "auth")
#: Of the command line, so much is told; and a file that is larger is none of ours.
_LONGEST: Final = 200
_WORDS: Final = 50
_LARGEST: Final = 8 * 2**20
#: The longest path of a socket that the kernel takes.
_SOCKET_PATH: Final = 100
_TEXT: Final = ".json"
_SOCKET: Final = ".sock"


@frozen
class Ended:
    """How a session ended. `why`: "finished", "error", "interrupted", "exit", or "gone" if nobody could say it.

    `at`: seconds since the epoch; for "gone" when that was found out.
    """

    at: float
    why: str
    text: str


@frozen
class Record:
    """What is known of a session; times are seconds since the epoch.

    `born`: when its driver's process was started, and `place`: on which computer, as something to be compared.
    `machines`: what was last known of each, as JSON has it: name, address, host, state, phase, owned, and for those
    that have stopped when, cause and text. `cost`: dollars an hour and altogether, and of how many hosts no price is
    known.
    """

    id: str
    pid: int
    born: str
    place: str
    name: str = ""
    program: str = ""
    argv: Sequence[str] = ()
    directory: str = ""
    python: str = ""
    system: str = ""
    started: float = 0.0
    updated: float = 0.0
    machines: Sequence[Mapping[str, Any]] = ()
    cost: Mapping[str, float] | None = None
    ended: Ended | None = None

    @property
    def title(self) -> str:
        """What people call it: its name, or its program."""
        return self.name or self.program or self.id

    def told(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        told: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.ended is not None:
            told["ended"] = {"at": self.ended.at, "why": self.ended.why, "text": self.ended.text}
        return told


def read_told(told: object) -> Record:
    """Make a record of what `Record.told` gave; what it does not know is left out.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(told, dict):
        raise ValueError("a record is an object")  # noqa: TRY004 (it is about what a file says)
    names = {each.name for each in fields(Record)}
    known = {name: value for name, value in told.items() if name in names}
    try:
        if known.get("ended") is not None:
            known["ended"] = Ended(**known["ended"])
        return Record(**known)
    except TypeError as error:
        raise ValueError(f"no record: {error}") from error


# processes


@cache
def here() -> str:
    """Say which computer this is, since its last start, and which world of process numbers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        parts.append(file.read(8))
    with contextlib.suppress(OSError):
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "-".join(parts)


def born(pid: int) -> str:
    """Say when a process was started, as something to be compared; "" if there is none, or only its remains."""
    if sys.platform != "linux":
        import psutil

        try:
            return f"{psutil.Process(pid).create_time():.2f}"
        except psutil.Error:
            return ""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def is_alive(record: Record) -> bool:
    """Tell whether the session's driver is there, and has not ended the session."""
    if record.ended is not None or record.place != here():
        return False
    now = born(record.pid)
    return bool(now) and now == record.born


# the command line that a driver was started with


def without_secrets(argv: Sequence[str]) -> list[str]:
    """Give a command line with that hidden which may be a secret, judged by names; cut where it is long."""
    told: list[str] = []
    is_secret = False
    for word in argv[:_WORDS]:
        name, equals, _ = word.partition("=")
        speaks = any(each in name.lower() for each in _SECRETS)
        if is_secret and not word.startswith("-"):
            told.append(HIDDEN)
        elif speaks and equals:
            told.append(f"{name}={HIDDEN}")
        elif "://" in word and "@" in word:
            told.append(HIDDEN)  # the address of something, with a password in it
        else:
            told.append(word if len(word) <= _LONGEST else f"{word[:_LONGEST]}…")
        is_secret = speaks and not equals and word.startswith("-")
    return told if len(argv) <= _WORDS else [*told, "…"]


# files


def folders() -> Iterator[str]:
    """Give the folders where the register may be, the best one first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime):
        yield os.path.join(runtime, "bigmachine")
    given = os.environ.get("XDG_CACHE_HOME", "")
    kept = given if os.path.isabs(given) else os.path.join(os.path.expanduser("~"), ".cache")
    yield os.path.join(kept, "bigmachine", "sessions")
    # A home that cannot be written, or is another's (sudo). Whoever makes this folder first must not be believed.
    yield os.path.join(os.environ.get("TMPDIR") or "/tmp", f"bigmachine-{os.geteuid()}")  # noqa: S108


def made_folder() -> str:
    """Give the folder of the register, which is made if it has to be.

    Raises:
        OSError: if there is none that is this user's alone and can be written.
    """
    failed: OSError | None = None
    for path in folders():
        try:
            _make(path)
        except OSError as error:
            failed = error
        else:
            return path
    raise failed or FileNotFoundError("there is no folder for sessions")


def _make(path: str) -> None:
    missing: list[str] = []
    above = path
    while not os.path.lexists(above):
        missing.append(above)
        above = os.path.dirname(above)
    if missing and os.stat(above).st_uid not in (0, os.geteuid()):
        raise PermissionError(f"{above} is another user's, who could not use what this one makes there")
    for each in reversed(missing):  # `makedirs` would leave those in between open to others, as the umask has it
        with contextlib.suppress(FileExistsError):
            os.mkdir(each, 0o700)
    if not _is_ours(path):
        raise PermissionError(f"{path} is not this user's alone")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written")


def _is_ours(path: str) -> bool:
    """Tell whether it is a folder, no link to one, and nobody else can look into it or change it."""
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return False
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)
    return True


@contextlib.contextmanager
def reachable(folder: str, ident: str) -> Iterator[str]:
    """Give a path by which the kernel finds a session's socket, in a `with` block.

    The folder may be deeper than the address of a socket may be long.
    """
    path = os.path.join(folder, ident + _SOCKET)
    if len(os.fsencode(path)) <= _SOCKET_PATH or sys.platform != "linux":
        yield path
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{ident}{_SOCKET}"
    finally:
        os.close(handle)


def save(folder: str, record: Record) -> None:
    """Write a record, at once for whoever reads it.

    Raises:
        OSError: if that cannot be done.
    """
    path = os.path.join(folder, record.id + _TEXT)
    fresh = f"{path}.{os.getpid()}"
    data = json.dumps(record.told(), separators=(",", ":"), default=str).encode("utf-8", "replace")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
        finally:
            os.close(handle)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise


def drop_socket(folder: str, ident: str) -> None:
    """Take a session's socket away; it may be gone."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(folder, ident + _SOCKET))


@frozen
class Entry:
    """A session of the register, and in which folder it is."""

    folder: str
    record: Record

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.record.ended is None


def sessions() -> list[Entry]:
    """Give all sessions of this user on this computer, the oldest first; what has ended without a word is noted."""
    found: list[Entry] = []
    for folder in dict.fromkeys(folders()):
        with contextlib.suppress(OSError):
            if _is_ours(folder):
                found += _read_all(folder, time.time())
    return sorted(found, key=lambda entry: entry.record.started)


def tidy(folder: str) -> None:
    """Remove what ended long ago, and sockets of those who are gone.

    Raises:
        OSError: if the folder cannot be read.
    """
    _read_all(folder, time.time())


def _read_all(folder: str, now: float) -> list[Entry]:
    names = set(os.listdir(folder))
    entries: list[Entry] = []
    for name in sorted(names):
        if not name.endswith(_TEXT):
            if (name.endswith(_SOCKET) and name.removesuffix(_SOCKET) + _TEXT not in names) or f"{_TEXT}." in name:
                _drop_if_old(os.path.join(folder, name), now, 60.0)
            continue
        record = _read(os.path.join(folder, name))
        if record is None or record.place != here() or record.id + _TEXT != name:
            _drop_if_old(os.path.join(folder, name), now, KEPT_SECONDS)
            continue
        entries.append(Entry(folder, _judged(folder, record, now)))
    gone = _forget(folder, entries, now)
    return [entry for entry in entries if entry.record.id not in gone]


def _drop_if_old(path: str, now: float, age: float) -> None:
    with contextlib.suppress(OSError):
        if now - os.lstat(path).st_mtime > age:
            os.unlink(path)


def _read(path: str) -> Record | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            return read_told(json.loads(file.read(_LARGEST)))
    except (OSError, ValueError):
        return None


def _judged(folder: str, record: Record, now: float) -> Record:
    """Note the end of a session whose driver could not."""
    if record.ended is not None or is_alive(record):
        return record
    # It may have ended between the reading and the look at its process.
    latest = _read(os.path.join(folder, record.id + _TEXT))
    if latest is not None and latest.ended is not None:
        return latest
    gone = Ended(now, "gone", "its driver process is gone: killed or crashed")
    ended = replace(latest or record, ended=gone)
    with contextlib.suppress(OSError):
        save(folder, ended)
    drop_socket(folder, record.id)
    return ended


def _forget(folder: str, entries: Iterable[Entry], now: float) -> set[str]:
    """Remove what ended long ago, and all but the last ones; give which."""
    over = [entry.record for entry in entries if entry.record.ended is not None]
    over.sort(key=lambda record: cast(Ended, record.ended).at, reverse=True)
    gone = {
        record.id
        for number, record in enumerate(over)
        if number >= KEPT or now - cast(Ended, record.ended).at > KEPT_SECONDS
    }
    for ident in gone:
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, ident + _TEXT))
        drop_socket(folder, ident)
    return gone


__all__ = [
    "Ended",
    "Entry",
    "Record",
    "born",
    "drop_socket",
    "here",
    "is_alive",
    "made_folder",
    "reachable",
    "read_told",
    "save",
    "sessions",
    "tidy",
    "without_secrets",
]
