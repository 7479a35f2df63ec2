"""An interactive Python inside a machine's process, in a thread of its own; and debugpy for an editor.

What is typed there runs in a thread, so calls go on; `await` runs on the machine's event loop. What it prints comes to
who has typed it, what others print meanwhile goes where it always goes.
"""

from __future__ import annotations

import ast
import asyncio
import code as _code
import contextlib
import ctypes
import inspect
import io
import json
import sys
import threading
import traceback
import types
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import DONE, FAILED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bigmachine.program.debugging import Talk

#: debugpy starts a process of its own, which takes a second.
_BANNER: Final = "Python {version} on machine {machine}. Known here: {names}. Ctrl-D leaves.\n"


class _OfThread(io.TextIOBase):
    """Standard output of which one thread's share goes elsewhere."""

    def __init__(self, talk: Talk, others: Any) -> None:
        self._talk = talk
        self._thread = threading.get_ident()
        self.others = others

    def write(self, text: str) -> int:
        if threading.get_ident() == self._thread and not self._talk.is_over:
            return self._talk.write(text)
        return int(self.others.write(text))

    def flush(self) -> None:
        self.others.flush()

    def fileno(self) -> int:
        return int(self.others.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute there
        return str(self.others.encoding)


@contextlib.contextmanager
def printing_to(talk: Talk) -> Iterator[None]:
    """Have what this thread prints go to `talk`."""
    mine = []
    for name in ("stdout", "stderr"):
        stream = _OfThread(talk, getattr(sys, name))
        setattr(sys, name, stream)
        mine.append((name, stream))
    try:
        yield
    finally:
        for name, stream in mine:
            _take_out(name, stream)


def _take_out(name: str, stream: _OfThread) -> None:
    """Put back what was there before; another shell may stand before it by now."""
    current = getattr(sys, name)
    if current is stream:
        setattr(sys, name, stream.others)
        return
    while isinstance(current, _OfThread):
        if current.others is stream:
            current.others = stream.others
            return
        current = current.others


class _Shell(_code.InteractiveConsole):
    """A console whose lines come from a conversation."""

    def __init__(self, names: dict[str, Any], talk: Talk, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._talk = talk
        self._loop = loop
        self.has_failed = False

    def raw_input(self, prompt: str = "") -> str:
        self._talk.write(prompt)
        line = self._talk.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def write(self, data: str) -> None:
        self.has_failed = True  # only errors are written so, and the banner
        self._talk.write(data)

    def runcode(self, code: types.CodeType) -> None:
        try:
            function = types.FunctionType(code, self.locals)
            outcome = function()
            if inspect.iscoroutine(outcome):
                asyncio.run_coroutine_threadsafe(outcome, self._loop).result()
        except SystemExit:
            raise
        except BaseException:  # noqa: BLE001 (whatever was typed)
            self.showtraceback()


def run(talk: Talk, code: str, loop: asyncio.AbstractEventLoop, names: dict[str, Any]) -> None:
    """Be a shell until whoever types leaves; with `code`, only run that."""
    thread = threading.get_ident()
    talk.on_interrupt = lambda: ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt)
    )
    shell = _Shell({"__name__": "__shell__", "__builtins__": __builtins__, **names}, talk, loop)
    with printing_to(talk):
        try:
            if code:
                is_open = shell.runsource(code, "<command line>", "exec")
                assert not is_open
                talk.close(FAILED if shell.has_failed else DONE)
                return
            known = ", ".join(name for name in names if not name.startswith("_"))
            version = ".".join(map(str, sys.version_info[:3]))
            shell.interact(_BANNER.format(version=version, machine=names.get("machine", ""), names=known), exitmsg="")
        except SystemExit:
            pass
        except BaseException:  # noqa: BLE001 (the edge of the thread)
            talk.write(traceback.format_exc())
            talk.close(FAILED)
    talk.close(DONE)


def listen(talk: Talk, _code: str, _loop: asyncio.AbstractEventLoop, _names: dict[str, Any]) -> None:
    """Have debugpy listen on this host, for one session, and say the port as a line of JSON."""
    try:
        import debugpy  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: T100 (optional)
    except ImportError as error:
        talk.write(json.dumps({"error": f"debugpy is not installed there: add it to the program's packages ({error})"}))
        talk.close(FAILED)
        return
    global _debugpy  # debugpy can be asked only once a process
    try:
        if _debugpy is None:
            # Frames from frozen modules confuse it otherwise, and it says so on stderr at length.
            _debugpy = int(debugpy.listen(("127.0.0.1", 0))[1])  # noqa: T100 (it is asked for)
        talk.write(json.dumps({"port": _debugpy}))
        talk.close(DONE)
    except Exception as error:  # noqa: BLE001 (whatever it is, who asked is told)
        talk.write(json.dumps({"error": f"debugpy does not listen: {type(error).__name__}: {error}"}))
        talk.close(FAILED)


_debugpy: int | None = None

__all__ = ["listen", "printing_to", "run"]
