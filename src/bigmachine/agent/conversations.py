"""Conversations between a person at the driver and a machine's program: its debuggers that wait, and its shells.

The program's end is a socket, which it passes to the agent (a debugger that waits in `breakpoint()`) or gets from it
(a shell that somebody asks for). The agent's end is copied to and from a pair of streams of one call, so everything
goes through the session's own connection, and works also while the program's event loop stands still: in a breakpoint
of a coroutine it does.

What is said is text in UTF-8, with these characters between: `ASKS` from the program when it wants a line; `HERE` to it
when somebody has come, and from it when it has taken up what was asked for; `INTERRUPT` and `END` where a person at a
terminal presses Ctrl-C and Ctrl-D; `DONE` or `FAILED` from the program as its last word. With an editor it is the Debug
Adapter Protocol, after `HERE`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Final

from bigmachine.errors import BigmachineError, InvalidCall
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

HERE: Final = b"\x00"
INTERRUPT: Final = b"\x03"
END: Final = b"\x04"
ASKS: Final = b"\x05"
DONE: Final = b"\x06"
FAILED: Final = b"\x15"
_PIECE: Final = 64 * 1024
#: A program whose loop stands still takes no shell; and nobody is kept waiting for that for ever.
MOST: Final = 32


@frozen
class Halt:
    """A debugger that waits for somebody: `where` is its file and line, `since` seconds since the epoch."""

    number: int
    where: str
    thread: str
    since: float


class Conversations:
    """Those of one machine, on its agent's event loop."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Halt, socket.socket]] = {}
        self._held = 0

    @property
    def holds_program(self) -> bool:
        """Whether a debugger may hold the program, so that its silence says nothing."""
        return bool(self._waiting or self._held)

    def halts(self) -> list[Halt]:
        """Give the debuggers that wait."""
        return [halt for halt, _ in self._waiting.values()]

    def wait(self, number: int, where: str, thread: str, fd: int) -> Halt | None:
        """Keep the agent's end of a debugger that waits; None if there are too many, which then go on."""
        if len(self._waiting) >= MOST or number in self._waiting:
            socket.socket(fileno=fd).close()
            return None
        halt = Halt(number, where, thread, time.time())
        self._waiting[number] = (halt, socket.socket(fileno=fd))
        return halt

    def go_on(self, number: int) -> None:
        """A debugger has waited for long enough."""
        found = self._waiting.pop(number, None)
        if found is not None:
            found[1].close()

    def take(self, number: int | None, machine: str) -> socket.socket:
        """Take the debugger of this number, or the one that has waited longest.

        Raises:
            InvalidCall: if none waits.
        """
        if not self._waiting and self._held:
            raise InvalidCall(f"somebody debugs machine {machine} already, and nothing else waits there")
        if not self._waiting:
            raise InvalidCall(
                f"machine {machine} waits in no breakpoint(): it tells when it does; `bigmachine attach {machine}` "
                "stops it where it is"
            )
        chosen = next(iter(self._waiting)) if number is None else number
        if chosen not in self._waiting:
            there = ", ".join(str(each) for each in self._waiting)
            raise InvalidCall(f"machine {machine} has no breakpoint {chosen} that waits: there is {there}")
        return self._waiting.pop(chosen)[1]

    def close(self) -> None:
        """The program is gone."""
        while self._waiting:
            self._waiting.popitem()[1][1].close()

    async def talk(
        self, sock: socket.socket, words: AsyncIterator[bytes], machine: str, patience: float | None, *, holds: bool
    ) -> AsyncGenerator[bytes, None]:
        """Copy `words` to a program and give what it says, until one of the two has enough; closes `sock`.

        `patience`: seconds for it to say something at first; `holds`: it may hold the program.

        Raises:
            BigmachineError: if nothing comes within `patience`.
        """
        self._held += holds
        copying: asyncio.Task[None] | None = None
        try:
            reader, writer = await asyncio.open_connection(sock=sock)
            try:
                copying = asyncio.get_running_loop().create_task(_copy(words, writer))
                with contextlib.suppress(ConnectionError):
                    async with asyncio.timeout(patience):
                        data = await reader.read(_PIECE)
                    while data:
                        yield data
                        data = await reader.read(_PIECE)
            except TimeoutError:
                raise BigmachineError(
                    f"the program of machine {machine} has not answered for {patience:g} s: its event loop is busy, or "
                    f"waits in breakpoint(); see `bigmachine stack --machine {machine}`, `bigmachine pdb {machine}`"
                ) from None
            finally:
                if copying is not None:
                    copying.cancel()
                writer.close()
        finally:
            self._held -= holds


async def _copy(words: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        try:
            async for data in words:
                writer.write(data)
                await writer.drain()
        finally:
            # The program reads the end of it, which means the same, whether a person left or a connection broke.
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()


__all__ = ["ASKS", "DONE", "END", "FAILED", "HERE", "INTERRUPT", "Conversations", "Halt"]
