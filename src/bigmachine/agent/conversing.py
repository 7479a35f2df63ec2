"""What the Supervisor in the agent does for a person at the driver: debuggers, shells, files. For the driver alone."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from bigmachine.agent.conversations import ASKS, END, HERE, INTERRUPT
from bigmachine.errors import BigmachineError, InvalidCall
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from bigmachine.agent.conversations import Halt
    from bigmachine.agent.hosted import Hosted
    from bigmachine.agent.processes.reaper import Reaper

#: From this version on Python's own debugger attaches to a process.
_REMOTE_PDB: Final = (3, 14)
_KINDS: Final = ("pdb", "shell", "attach", "debugpy")
#: For a program to take up a conversation: its event loop may be busy. debugpy takes a second or two to be imported.
_TAKING_UP: Final = 15.0
#: Python's own debugger attaches once the program's main thread comes to its next instruction.
_ATTACHING: Final = 60.0
_PROMPT: Final = b"(Pdb) "


@frozen
class FileInfo:
    """A file on a machine's host: its whole path, its bytes, its permissions."""

    path: str
    size: int
    mode: int


class Conversing:
    """The methods that hold a conversation with a machine's program, or with its files."""

    _machine: Hosted
    _reaper: Reaper

    def _pid(self) -> int:
        raise NotImplementedError  # this is a mixin: the Supervisor, which inherits it, knows its process

    async def halts(self) -> list[Halt]:
        """Give the debuggers of the program that wait in `breakpoint()`."""
        self._pid()
        return self._machine.conversations.halts()

    async def converse(
        self, kind: str, words: AsyncIterator[bytes], number: int | None = None, code: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """Talk to the program: give what it says, and it what comes by `words`; see `conversations`.

        `kind`: "pdb" (a debugger that waits, by its number), "shell" (runs `code`, if there is any), "attach" (stops
        a thread where it is), "debugpy" (speaks the Debug Adapter Protocol with an editor).

        Raises:
            InvalidCall: if there is no such kind, or no debugger that waits.
            BigmachineError: if the program does not take it up in time.
        """
        if kind not in _KINDS:
            raise InvalidCall(f"converse({kind!r}): there is {', '.join(_KINDS)}")
        self._pid()
        talks = self._machine.conversations
        patience: float | None = _TAKING_UP
        command: list[str] | None = None
        if kind == "pdb":
            sock, patience = talks.take(number, self._machine.spec.name), None
            sock.send(HERE)
        elif kind == "attach" and (command := _remote_pdb(self._machine)) is not None:
            (sock, pid), patience = self._spawn(command), _ATTACHING
            words = _typed(words, pid)
        else:
            sock = self._machine.open_conversation(kind, code)
        said = talks.talk(sock, words, self._machine.spec.name, patience, holds=kind != "shell")
        async with contextlib.aclosing(said):
            async for data in said:
                yield data + ASKS if command is not None and data.endswith(_PROMPT) else data

    def _spawn(self, command: list[str]) -> tuple[socket.socket, int]:
        """Start a program of the host's with a socket for its terminal; it ends by itself when that does."""
        mine, its = socket.socketpair()
        with its:
            actions = [(os.POSIX_SPAWN_DUP2, its.fileno(), fd) for fd in (0, 1, 2)]
            with self._reaper.expecting():
                pid = os.posix_spawn(command[0], command, os.environ, setpgroup=0, file_actions=actions)
                self._reaper.watch(pid)
        return mine, pid

    # files

    def stat_file(self, path: str) -> FileInfo:
        """Tell about a file of the machine's host; `path` is relative to the program's working directory.

        Raises:
            BigmachineError: if it is none.
        """
        self._pid()
        place = self._place(path)
        try:
            found = place.stat()
        except OSError as error:
            raise self._told(place, error, "read") from error
        if not stat.S_ISREG(found.st_mode):
            raise self._no_file(place)
        return FileInfo(str(place), found.st_size, found.st_mode & 0o777)

    def read_file(self, path: str) -> BinaryIO:
        """Give a file of the machine's host.

        Raises:
            BigmachineError: if it is none, or cannot be read.
        """
        self._pid()
        place = self._place(path)
        try:
            # Not to wait for a pipe that nobody writes.
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise self._told(place, error, "read") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._no_file(place)
        return open(fd, "rb")

    def write_file(self, path: str, pieces: Iterator[bytes], mode: int = 0o600, name: str = "") -> FileInfo:
        """Write a file on the machine's host, whole or not at all.

        `mode`: its permissions; `name`: how it is called, if `path` is a folder.

        Raises:
            BigmachineError: if it cannot be written.
        """
        self._pid()
        place = self._place(path)
        if place.is_dir() and name and os.path.basename(name) == name:
            place /= name
        if place.is_dir():
            raise BigmachineError(f"{place} on {self._machine.spec.name} is a folder: name the file in it")
        size = 0
        try:
            fd, part = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:100]}.")
            try:
                with open(fd, "wb", buffering=0) as file:
                    for piece in pieces:
                        size += len(piece)
                        _write_all(file.fileno(), piece)
                    os.fchmod(fd, mode & 0o777)
                os.replace(part, place)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(part)
                raise
        except OSError as error:
            raise self._told(place, error, "written") from error
        return FileInfo(str(place), size, mode & 0o777)

    def _place(self, path: str) -> Path:
        given: object = path
        if not isinstance(given, str) or not path or "\0" in path:
            raise InvalidCall(f"{path!r} is no path of a file")
        return Path(self._machine.spec.cwd, os.path.expanduser(path))

    def _told(self, place: Path, error: OSError, done: str) -> BigmachineError:
        name = self._machine.spec.name
        return BigmachineError(f"{place} on {name} cannot be {done}: {error.strerror or error}")

    def _no_file(self, place: Path) -> BigmachineError:
        return BigmachineError(f"{place} on {self._machine.spec.name} is no file: only files are copied")


def _write_all(fd: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(fd, view) :]


async def _typed(words: AsyncIterator[bytes], pid: int) -> AsyncGenerator[bytes, None]:
    """Give what is typed to a program that takes it for the input of a terminal."""
    async for data in words:
        if INTERRUPT in data:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        elif END in data:
            return
        else:
            yield data.replace(HERE, b"")


def _remote_pdb(machine: Hosted) -> list[str] | None:
    """Give the command that attaches Python's own debugger to the program; None where its Python has none."""
    command = machine.spec.interpreter or [sys.executable]
    version = sys.version_info[:2]
    named = re.search(r"python(\d+)\.(\d+)$", command[0])
    if machine.spec.interpreter and named is not None:
        version = (int(named[1]), int(named[2]))
    if version < _REMOTE_PDB:
        return None
    return [*command[:1], "-u", "-m", "pdb", "-p", str(machine.pid)]


__all__ = ["Conversing", "FileInfo"]
