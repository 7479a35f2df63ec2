"""Stop a thread of this process where it is, for somebody who has come to look.

The main thread, which is the event loop's, is stopped between two of its instructions, also when it is busy; it is
woken if it waits. Other threads can be stopped from Python 3.12 on; before, they can be looked at while they run.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import DONE
from bigmachine.program.debugger import Debugger

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

    from bigmachine.program.talk import Talk

_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
#: For a thread to come to its next instruction; in C that may take as long as it likes.
_STOPPING: Final = 10.0


def attach(talk: Talk, loop: asyncio.AbstractEventLoop) -> None:
    """Ask which thread, if there are several that are at work, and stop it."""
    threads = _threads()
    main = threading.main_thread()
    busy = [each for each in threads if each is main or _is_at_work(each)]
    chosen = busy[-1] if len(busy) == 1 else _choose(talk, busy)
    if chosen is None:
        talk.close(DONE)
    elif chosen is main:
        _stop_main(talk, loop)
    else:
        _stop_other(talk, chosen)


def _threads() -> list[threading.Thread]:
    own = threading.current_thread()
    return [each for each in threading.enumerate() if each is not own and not each.name.startswith("bigmachine-talk")]


def _is_at_work(thread: threading.Thread) -> bool:
    """Tell whether something of the program's runs there, rather than the library, which waits for work."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_OURS, "<frozen")) and os.path.basename(name) not in ("threading.py", "queue.py"):
            return True
        frame = frame.f_back
    return False


def _choose(talk: Talk, threads: list[threading.Thread]) -> threading.Thread | None:
    frames = sys._current_frames()
    for number, thread in enumerate(threads, 1):
        talk.write(f"{number:3} {thread.name}: {_place(frames.get(thread.ident or 0))}\n")
    while True:
        talk.write("number of the thread to stop: ")
        try:
            line = talk.readline()
        except KeyboardInterrupt:
            return None
        if not line:
            return None
        if line.strip().isdigit() and 0 < int(line) <= len(threads):
            return threads[int(line) - 1]


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "it has no Python code"
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _stop_main(talk: Talk, loop: asyncio.AbstractEventLoop) -> None:
    stopped = threading.Event()

    def stop(_: object) -> int:
        stopped.set()
        if not talk.is_over:
            Debugger(talk).set_trace(_outer(sys._getframe(1)))
        return 0

    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(stop)
    _kept.append(call)  # the interpreter holds no reference to it
    ctypes.pythonapi.Py_AddPendingCall(call, None)
    loop.call_soon_threadsafe(_here)
    if not stopped.wait(_STOPPING):
        talk.write("The main thread is in C code, and stops when it comes back from there; Ctrl-C leaves.\n")


def _here() -> None:
    """Stand for the event loop, which waits in C: a line at which the debugger can stop."""
    pass  # noqa: PIE790 (this is the machine's event loop: set breakpoints by "b FILE:LINE", and continue)


def _outer(frame: FrameType | None) -> FrameType | None:
    """Leave out the frames of this module, but for the one that stands for the event loop."""
    while frame is not None and frame.f_code.co_filename == __file__ and frame.f_code.co_name != "_here":
        frame = frame.f_back
    return frame


def _stop_other(talk: Talk, thread: threading.Thread) -> None:
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        talk.write(f"The thread {thread.name} has ended.\n")
        talk.close(DONE)
        return
    if not hasattr(threading, "settrace_all_threads"):
        talk.write(
            f"Python {sys.version_info[0]}.{sys.version_info[1]} cannot stop the thread {thread.name}: it goes on "
            "while you look at where it was. A breakpoint() in its code stops it.\n"
        )
        look = _Look(talk)
        look.reset()
        look.interaction(frame, None)
        talk.close(DONE)
        return
    debugger = Debugger(talk)

    def trace(its: FrameType, _event: str, _arg: Any) -> Any:
        if threading.get_ident() != thread.ident:
            sys.settrace(None)
            return None
        threading.settrace(None)
        debugger.set_trace(its)
        return its.f_trace

    while frame is not None:
        frame.f_trace = trace
        frame = frame.f_back
    threading.settrace_all_threads(trace)


class _Look(Debugger):
    """Looks at frames of a thread that goes on."""

    def leave(self) -> None:
        self._talk.close(DONE)

    def do_continue(self, arg: str) -> bool | None:
        """Leave."""
        return self.do_quit(arg)

    do_c = do_cont = do_next = do_n = do_step = do_s = do_return = do_r = do_until = do_unt = do_continue


_kept: Final[list[object]] = []

__all__ = ["attach"]
