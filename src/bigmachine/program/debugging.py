"""`breakpoint()` on a machine, and shells into it: conversations whose other end the agent has (`conversations` there).

A call that comes to a `breakpoint()` waits in its thread; the agent keeps the machine meanwhile. In a coroutine that
thread is the event loop's, so other calls to this machine wait, too. Whoever comes (`bigmachine pdb`) has Python's own
debugger; when they leave, however they do, the call goes on. If nobody comes in time it goes on by itself.

`PYTHONBREAKPOINT` means what it means everywhere: "0" lets a program run through, another debugger is called as it is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import ASKS, DONE, END, HERE, INTERRUPT

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

#: Tells the agent something, with files that stay open here; from any thread.
Tell = "Callable[[Mapping[str, object], Sequence[int]], None]"
#: What the driver has configured, in the machine's environment; and the default, in seconds.
WAIT: Final = "BIGMACHINE_BREAKPOINT_WAIT"
_WAIT: Final = 3600.0
_PIECE: Final = 64 * 1024
_CONTROL: Final = INTERRUPT + END + HERE


class Talk:
    """A program's end of a conversation, as a file of text to read from and to write to.

    `wait`: seconds until somebody has come; None where somebody is there already.
    """

    encoding = "utf-8"

    def __init__(self, sock: socket.socket, wait: float | None = None) -> None:
        self._sock = sock
        self._wait = wait
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._has_come = threading.Event()
        self._asks = False
        #: What Ctrl-C does while no line is asked for.
        self.on_interrupt: Callable[[], object] | None = None
        self.is_over = False
        threading.Thread(target=self._hear, name="bigmachine-talk", daemon=True).start()

    def await_somebody(self) -> bool:
        """Wait until somebody has come; False if nobody does in time."""
        return self._has_come.wait(self._wait) and not self.is_over

    def readline(self, _size: int = -1) -> str:
        """Ask for a line and wait for it; empty once nobody is there any more.

        Raises:
            KeyboardInterrupt: if Ctrl-C comes in its place.
        """
        if self.is_over:
            return ""
        self._asks = True
        try:
            self._send(ASKS)
            line = self._lines.get()
        finally:
            self._asks = False
        if line is None:
            self.is_over = True
            return ""
        if line == INTERRUPT.decode():
            raise KeyboardInterrupt
        return line

    def write(self, text: str) -> int:
        """Say something; it is dropped once nobody is there any more."""
        self._send(text.encode("utf-8", "replace"))
        return len(text)

    def flush(self) -> None:
        """Nothing waits here."""

    def isatty(self) -> bool:
        """Tell that no cursor can be moved there."""
        return False

    def close(self, last: bytes = b"") -> None:
        """Have the last word."""
        self.is_over = True
        self._send(last)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(data)

    def _hear(self) -> None:
        """Take in what comes, in a thread of its own: also Ctrl-C while the program is at work."""
        rest = b""
        with self._sock, contextlib.suppress(OSError):
            while data := self._sock.recv(_PIECE):
                self._has_come.set()
                *lines, rest = (rest + data.replace(HERE, b"")).split(b"\n")
                for line in lines:
                    self._take(line)
        self._lines.put(None)
        if not self._has_come.is_set():
            self.is_over = True
            self._has_come.set()

    def _take(self, line: bytes) -> None:
        if INTERRUPT in line and not self._asks and self.on_interrupt is not None:
            self.on_interrupt()
        elif INTERRUPT in line:
            self._lines.put(INTERRUPT.decode())
        elif END in line:
            self._lines.put(None)
        else:
            self._lines.put(line.decode("utf-8", "replace") + "\n")


class Debugging:
    """The conversations of this process. `tell` may be changed once the event loop serves."""

    def __init__(self, tell: Callable[[Mapping[str, object], Sequence[int]], None]) -> None:
        self.tell = tell
        self._numbers = itertools.count(1)

    def install(self) -> None:
        """Have `breakpoint()` wait for somebody at the driver."""
        sys.breakpointhook = self._halt

    def _halt(self, *args: object, **kwargs: object) -> object:
        if os.environ.get("PYTHONBREAKPOINT"):
            return sys.__breakpointhook__(*args, **kwargs)  # noqa: T100 (what the user has chosen)
        frame = sys._getframe(1)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        number = next(self._numbers)
        mine, its = socket.socketpair()
        with its:
            thread = threading.current_thread().name
            try:
                self.tell({"k": "halted", "n": number, "where": where, "thread": thread}, (its.fileno(),))
            except OSError:
                mine.close()
                return None
        talk = Talk(mine, _patience())
        if talk.await_somebody():
            _debug(talk, frame)
        else:
            self.tell({"k": "goes on", "n": number}, ())
            talk.close()
            _log().warning("nobody came to the breakpoint at %s in time: the program goes on", where)
        return None

    def converse(self, fd: int, kind: str, code: str, loop: asyncio.AbstractEventLoop, names: dict[str, Any]) -> None:
        """Hold a conversation that somebody asked for; on the event loop. `names`: what a shell knows."""
        talk = Talk(socket.socket(fileno=fd))
        if kind == "attach":
            loop.call_soon(_stop_here, talk)
            return
        from bigmachine.program import shell

        work = shell.listen if kind == "debugpy" else shell.run
        threading.Thread(
            target=work, args=(talk, code, loop, names), name=f"bigmachine-{kind or 'shell'}", daemon=True
        ).start()


def _stop_here(talk: Talk) -> None:
    """Stop the thread that runs this, the event loop's."""
    talk.write("This is the thread of the machine's event loop. Set breakpoints (b file:line) and continue.\n")
    _debug(talk, sys._getframe())


def _debug(talk: Talk, frame: FrameType) -> None:
    import pdb  # noqa: T100 (this is the debugger)

    class Debugger(pdb.Pdb):
        """Python's debugger, that leaves the program alone when its user leaves."""

        def do_quit(self, arg: str) -> bool | None:
            """Leave; the program goes on without breakpoints."""
            self.clear_all_breaks()
            self.set_continue()
            talk.close(DONE)
            return True

        do_q = do_exit = do_EOF = do_detach = do_quit  # noqa: N815 (the names are pdb's)

        def do_continue(self, arg: str) -> bool | None:
            """Go on to the next breakpoint; without one, the conversation is over."""
            done = super().do_continue(arg)
            if not self.breaks:
                talk.close(DONE)
            return done

        do_c = do_cont = do_continue

        def default(self, line: str) -> Any:
            """Run a line of Python; what it prints is for who has typed it."""
            from bigmachine.program.shell import printing_to

            with printing_to(talk):
                return super().default(line)

    debugger = Debugger(stdin=talk, stdout=talk, nosigint=True, readrc=False)  # type: ignore[arg-type]  # it reads lines and writes
    debugger.use_rawinput = False
    debugger.prompt = "(Pdb) "
    debugger.set_trace(frame)


def _patience() -> float:
    try:
        return float(os.environ.get(WAIT, "") or _WAIT)
    except ValueError:
        return _WAIT


def _log() -> Any:
    import logging

    return logging.getLogger("bigmachine")


__all__ = ["WAIT", "Debugging", "Talk"]
