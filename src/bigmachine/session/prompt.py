"""A debugger's prompt at the driver's own terminal, for machines that wait in `breakpoint()`.

It opens only where it cannot get in anybody's way: standard input and error are this terminal's, the program is in its
foreground, no interactive Python runs there, and the main thread waits for something else than what is typed (`busy`).
Looked at again before anything is read; where it is not so, the machine waits until it is, or until somebody comes from
another terminal, who is always given what is open here. One machine at a time.

Meanwhile the terminal does not turn Ctrl-C into a signal, which would end the program: it interrupts what runs on the
machine. Twice in a row, it is the program's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import ASKS, DONE, END, FAILED, HERE, INTERRUPT
from bigmachine.errors import BigmachineError
from bigmachine.session.terminal import is_free

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from bigmachine.agent.conversations import Halt
    from bigmachine.machine import Machine
    from bigmachine.rpc import Stream
    from bigmachine.session.session import Session

    Held = tuple[Stream[bytes], asyncio.Queue[bytes]]

_LOOK: Final = 0.3
_TWICE: Final = 1.0
_MARKS: Final = bytes.maketrans(b"", b""), ASKS + DONE + FAILED + HERE


class Prompt:
    """The one prompt of a session. On its event loop, but for `close`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: deque[tuple[Machine, Halt]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._machine: Machine | None = None
        self._said: Stream[bytes] | None = None
        self._words: asyncio.Queue[bytes] = asyncio.Queue()
        self._modes: list[Any] | None = None
        self._interrupted = 0.0
        self._is_given_up = False

    def halted(self, machine: Machine, halt: Halt) -> None:
        """A machine waits: open a prompt as soon as that is possible."""
        self._waiting.append((machine, halt))
        if self._task is None and sys.stdin is not None and sys.stdin.isatty():
            self._task = self._session._reactor.spawn(self._serve(), "prompt")

    def give_up(self, machine: Machine) -> Held | None:
        """Give the conversation with this machine to somebody who has come from elsewhere, if it is open here."""
        if self._machine is not machine or self._said is None:
            return None
        self._is_given_up = True
        held = self._said, self._words
        self._said = None
        if self._task is not None:
            self._task.cancel()
        return held

    def close(self) -> None:
        """Leave the terminal as it was; from any thread."""
        modes, self._modes = self._modes, None
        if modes is not None:
            import termios

            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, modes)

    async def _serve(self) -> None:
        try:
            while self._waiting:
                if not is_free():
                    await asyncio.sleep(_LOOK)
                    await self._forget()
                    continue
                machine, halt = self._waiting.popleft()
                with contextlib.suppress(BigmachineError):  # somebody else was faster, or it has stopped
                    await self._talk(machine, halt)
        finally:
            self._task = None
            if self._waiting:
                self._task = self._session._reactor.spawn(self._serve(), "prompt")

    async def _forget(self) -> None:
        """Drop those that do not wait any more."""
        machine, halt = self._waiting[0]
        try:
            there = await machine.submit("Supervisor.halts")
        except BigmachineError:
            there = []
        if halt not in there and self._waiting and self._waiting[0][1] is halt:
            self._waiting.popleft()

    async def _talk(self, machine: Machine, halt: Halt) -> None:
        words: asyncio.Queue[bytes] = asyncio.Queue()
        self._words = words
        said = await machine.submit("Supervisor.converse", "pdb", _given(words), halt.number)
        self._machine, self._said, self._is_given_up = machine, said, False
        self._session._reactor.loop.add_reader(0, self._typed)
        try:
            self._take_terminal()
            async for data in said:
                self._show(data.translate(*_MARKS).decode("utf-8", "replace"))
        finally:
            self._session._reactor.loop.remove_reader(0)
            self.close()
            self._machine = self._said = None
            if self._is_given_up:
                self._show(f"\n(machine {machine.name}: this goes on in another terminal)\n")
            else:
                said.close()

    def _take_terminal(self) -> None:
        import termios

        with contextlib.suppress(OSError, termios.error):
            modes = termios.tcgetattr(0)
            self._modes = [*modes[:6], list(modes[6])]
            modes[3] &= ~termios.ISIG
            modes[6][termios.VEOL] = INTERRUPT  # a line ends there, so that it is read at once
            termios.tcsetattr(0, termios.TCSADRAIN, modes)

    def _typed(self) -> None:
        """Take a line; unless it is meant for the program."""
        if not is_free():
            self._session._reactor.loop.remove_reader(0)
            self.close()
            self._session._reactor.loop.call_later(_LOOK, self._look_again, self._said)
            return
        try:
            data = os.read(0, 65536)
        except OSError:
            data = b""
        if INTERRUPT in data:
            now = time.monotonic()
            if now - self._interrupted < _TWICE:
                self.close()
                os.kill(os.getpid(), signal.SIGINT)
            self._interrupted = now
            data = INTERRUPT + b"\n"
        self._words.put_nowait(data or END + b"\n")

    def _look_again(self, said: Stream[bytes] | None) -> None:
        if said is None or said is not self._said:
            return
        if not is_free():
            self._session._reactor.loop.call_later(_LOOK, self._look_again, said)
            return
        self._take_terminal()
        self._session._reactor.loop.add_reader(0, self._typed)

    def _show(self, text: str) -> None:
        self._session._display.do(partial(_to_stderr, text))


async def _given(words: asyncio.Queue[bytes]) -> AsyncGenerator[bytes, None]:
    while data := await words.get():
        yield data


def _to_stderr(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()


__all__ = ["Prompt"]
