"""A program's end of a conversation, whose other end its agent has; see `bigmachine.agent.conversations`."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import queue
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import ASKS, END, HERE, INTERRUPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_PIECE: Final = 64 * 1024
_sharing: Final = threading.Lock()
_listening: Final[list[Talk]] = []
#: Whom what is printed is for; tasks that a shell starts on the event loop inherit it.
_listener: contextvars.ContextVar[Talk | None] = contextvars.ContextVar("bigmachine_listener", default=None)


class Talk:
    """A conversation, as a file of text to read from and to write to.

    `wait`: seconds until somebody has to have come, None: for ever; `is_here`: somebody is there already.
    """

    encoding = "utf-8"

    def __init__(self, sock: socket.socket, wait: float | None = None, *, is_here: bool = False) -> None:
        self._sock = sock
        self._wait = wait
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._has_come = threading.Event()
        self._lock = threading.Lock()
        self._interrupt: Callable[[], object] | None = None
        self._asks = False
        self.is_over = False
        if is_here:
            self._send(HERE)  # so that who asked knows that this is under way
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
        with self._lock:
            self._asks = True
        try:
            self._send(ASKS)
            line = self._lines.get()
        finally:
            with self._lock:
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

    def on_interrupt(self, act: Callable[[], object] | None) -> None:
        """Have Ctrl-C do this from now on, while no line is asked for."""
        with self._lock:
            self._interrupt = act

    @contextlib.contextmanager
    def interrupted_by(self, act: Callable[[], object] | None) -> Iterator[None]:
        """Have Ctrl-C do this meanwhile."""
        before = self._interrupt
        self.on_interrupt(act)
        try:
            yield
        finally:
            self.on_interrupt(before)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Have Ctrl-C raise KeyboardInterrupt in this thread; what waits in C comes back first."""
        thread = ctypes.c_ulong(threading.get_ident())
        is_thrown = False

        def throw() -> None:
            nonlocal is_thrown
            is_thrown = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(KeyboardInterrupt))

        try:
            with self.interrupted_by(throw):
                yield
        except KeyboardInterrupt:
            is_thrown = False
            raise
        finally:
            if is_thrown:
                # It came in the last moment, and is not meant for what comes now. To take it back by
                # SetAsyncExc(thread, NULL) makes CPython 3.11 look for it at every instruction from then on.
                with contextlib.suppress(KeyboardInterrupt):
                    for _ in range(1000):
                        pass

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
        if INTERRUPT in line:
            with self._lock:
                if self._asks:
                    self._lines.put(INTERRUPT.decode())
                elif self._interrupt is not None:
                    self._interrupt()
        elif END in line:
            self._lines.put(None)
        else:
            self._lines.put(line.decode("utf-8", "replace") + "\n")


class _Shared:
    """Standard output, of which goes elsewhere what somebody has asked for in a conversation."""

    def __init__(self, others: Any) -> None:
        self.others = others

    def __getattr__(self, name: str) -> Any:
        return getattr(self.others, name)

    def write(self, text: str) -> int:
        talk = _listener.get()
        if talk is not None and not talk.is_over:
            return talk.write(text)
        return int(self.others.write(text))

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


@contextlib.contextmanager
def printing_to(talk: Talk) -> Iterator[None]:
    """Have what this thread prints, and the tasks that it starts, go to `talk`."""
    with _sharing:
        _listening.append(talk)
        for name in ("stdout", "stderr"):
            if not isinstance(getattr(sys, name), _Shared):
                setattr(sys, name, _Shared(getattr(sys, name)))
    token = _listener.set(talk)
    try:
        yield
    finally:
        _listener.reset(token)
        with _sharing:
            _listening.remove(talk)
            for name in ("stdout", "stderr"):
                if not _listening and isinstance(stream := getattr(sys, name), _Shared):
                    setattr(sys, name, stream.others)


__all__ = ["Talk", "printing_to"]
