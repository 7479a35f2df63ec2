"""What the Supervisor in the agent does for a person at the driver: debuggers, shells, tunnels, files. Driver only."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from bigmachine.agent.conversations import HERE
from bigmachine.errors import BigmachineError, InvalidCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from bigmachine.agent.conversations import Halt
    from bigmachine.agent.hosted import Hosted
    from bigmachine.agent.reaper import Reaper

#: From this version on Python's own debugger attaches to a process.
_REMOTE_PDB: Final = (3, 14)
_KINDS: Final = ("pdb", "shell", "attach", "debugpy")
_PIECE: Final = 1 << 20
#: For a port on the host itself.
_CONNECTING: Final = 5.0


class Conversing:
    """The methods that hold a conversation with a machine's program, or with its files."""

    _machine: Hosted
    _reaper: Reaper

    def _pid(self) -> int:
        raise NotImplementedError  # the supervisor's own

    async def halts(self) -> list[Halt]:
        """Give the debuggers of the program that wait in `breakpoint()`."""
        self._pid()
        return self._machine.conversations.halts()

    async def converse(
        self, kind: str, words: AsyncIterator[bytes], number: int | None = None, code: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """Talk to the program: give what it says, and it what comes by `words`; see `conversations`.

        `kind`: "pdb" (a debugger that waits, by its number), "shell" (runs `code`, if there is any), "attach" (stops
        the main thread), "debugpy" (has that listen on the host, and says its port).

        Raises:
            InvalidCall: if there is no such kind, or no debugger that waits.
        """
        if kind not in _KINDS:
            raise InvalidCall(f"converse({kind!r}): there is {', '.join(_KINDS)}")
        self._pid()
        talks = self._machine.conversations
        if kind == "pdb":
            sock = talks.take(number, self._machine.spec.name)
            sock.send(HERE)
        elif kind == "attach" and (command := _remote_pdb(self._machine)) is not None:
            sock = self._spawn(command)
        else:
            sock = self._machine.open_conversation(kind, code)
        said = talks.talk(sock, words, holds=kind in ("pdb", "attach"))
        async with contextlib.aclosing(said):
            async for data in said:
                yield data

    def _spawn(self, command: list[str]) -> socket.socket:
        """Start a program of the host's with a socket for its terminal; it ends by itself when that does."""
        mine, its = socket.socketpair()
        with its:
            actions = [(os.POSIX_SPAWN_DUP2, its.fileno(), fd) for fd in (0, 1, 2)]
            with self._reaper.expecting():
                pid = os.posix_spawn(command[0], command, os.environ, setpgroup=0, file_actions=actions)
                self._reaper.watch(pid)
        return mine

    async def tunnel(self, port: int, words: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Connect to a port of the machine's own host (127.0.0.1), and be that connection.

        Raises:
            BigmachineError: if nobody listens there.
        """
        self._pid()
        if type(port) is not int or not 0 < port < 65536:
            raise InvalidCall(f"tunnel({port!r}): it takes a port")
        sock = socket.socket()
        sock.setblocking(False)
        try:
            async with asyncio.timeout(_CONNECTING):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except (OSError, TimeoutError) as error:
            sock.close()
            raise BigmachineError(
                f"nobody listens on port {port} of the host of {self._machine.spec.name}: {error}"
            ) from error
        said = self._machine.conversations.talk(sock, words, holds=True)
        async with contextlib.aclosing(said):
            async for data in said:
                yield data

    # files

    def read_file(self, path: str) -> BinaryIO:
        """Give a file of the machine's host; `path` is relative to the program's working directory.

        Raises:
            BigmachineError: if it is none, or cannot be read.
        """
        self._pid()
        place = self._place(path)
        try:
            # Not to wait for a pipe that nobody writes.
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise BigmachineError(f"{place} on {self._machine.spec.name} is no file: only files are copied")
            return open(fd, "rb")
        except OSError as error:
            raise self._told(place, error, "read") from error

    def write_file(self, path: str, source: BinaryIO, mode: int = 0o600) -> str:
        """Write a file on the machine's host, whole or not at all; gives its path.

        A folder gets nothing: name the file. `mode`: its permissions.

        Raises:
            BigmachineError: if it cannot be written.
        """
        self._pid()
        place = self._place(path)
        if place.is_dir():
            raise BigmachineError(f"{place} on {self._machine.spec.name} is a folder: name the file in it")
        try:
            fd, part = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:100]}.")
            try:
                with open(fd, "wb") as file:
                    while data := source.read(_PIECE):
                        file.write(data)
                    os.fchmod(fd, mode & 0o777)
                os.replace(part, place)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(part)
                raise
        except OSError as error:
            raise self._told(place, error, "written") from error
        return str(place)

    def _place(self, path: str) -> Path:
        given: object = path
        if not isinstance(given, str) or not path or "\0" in path:
            raise InvalidCall(f"{path!r} is no path of a file")
        return Path(self._machine.spec.cwd, os.path.expanduser(path))

    def _told(self, place: Path, error: OSError, done: str) -> BigmachineError:
        name = self._machine.spec.name
        return BigmachineError(f"{place} on {name} cannot be {done}: {error.strerror or error}")


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


__all__ = ["Conversing"]
