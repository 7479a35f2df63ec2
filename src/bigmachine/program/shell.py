"""An interactive Python inside a machine's process, in a thread of its own.

What is typed there runs in a thread, so calls go on; `await` runs on the machine's event loop. What it prints comes to
who has typed it, what others print meanwhile goes where it always goes.
"""

from __future__ import annotations

import ast
import asyncio
import code as _code
import concurrent.futures
import inspect
import sys
import traceback
import types
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.conversations import DONE, FAILED
from bigmachine.program.talk import printing_to

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from bigmachine.program.talk import Talk

_TYPED: Final = ("<console>", "<shell>")
_BANNER: Final = "Python {version} on machine {machine}. Known here: {names}. Ctrl-D leaves."


class _Shell(_code.InteractiveConsole):
    """A console whose lines come from a conversation."""

    def __init__(self, names: dict[str, Any], talk: Talk, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._talk = talk
        self._loop = loop

    def raw_input(self, prompt: str = "") -> str:
        self._talk.write(prompt)
        line = self._talk.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def write(self, data: str) -> None:
        self._talk.write(data)

    def runcode(self, code: types.CodeType) -> None:
        try:
            self.evaluate(code)
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 (whatever was typed)
            self.write(_told(error))

    def evaluate(self, code: types.CodeType) -> None:
        """Run it; on the event loop as far as it awaits."""
        with self._talk.interruptible():
            outcome = types.FunctionType(code, self.locals)()  # type: ignore[arg-type,unused-ignore]  # a dict, as it was given
        if not inspect.iscoroutine(outcome):
            return
        future = asyncio.run_coroutine_threadsafe(_guarded(outcome), self._loop)
        with self._talk.interrupted_by(future.cancel):
            try:
                error = future.result()
            except concurrent.futures.CancelledError:
                raise KeyboardInterrupt from None
        if error is not None:
            raise error


async def _guarded(work: Coroutine[Any, Any, object]) -> BaseException | None:
    """Give what it raises: SystemExit would end the event loop, and the machine with it."""
    try:
        await work
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 (it is raised where the shell is)
        return error
    return None


def _told(error: BaseException) -> str:
    """Tell an error, from the first line on that was typed."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename not in _TYPED:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def _leave(code: object = None) -> None:
    """Leave the shell; the machine goes on. Python's own would close the program's standard input."""
    raise SystemExit(code)


def run(talk: Talk, code: str, loop: asyncio.AbstractEventLoop, names: dict[str, Any]) -> None:
    """Be a shell until whoever types leaves; with `code`, only run that."""
    known = {"__name__": "__shell__", "__builtins__": __builtins__, "exit": _leave, "quit": _leave, **names}
    shell = _Shell(known, talk, loop)
    has_failed = False
    with printing_to(talk):
        try:
            if code:
                shell.evaluate(compile(code, "<shell>", "exec", shell.compile.compiler.flags, dont_inherit=True))
            else:
                version = ".".join(map(str, sys.version_info[:3]))
                shell.interact(
                    _BANNER.format(version=version, machine=names.get("machine", ""), names=", ".join(names)),
                    exitmsg="",
                )
        except SystemExit as left:
            has_failed = left.code not in (None, 0)
            if isinstance(left.code, str):
                talk.write(f"{left.code}\n")
        except BaseException as error:  # noqa: BLE001 (whatever was typed)
            has_failed = True
            talk.write(_told(error))
    talk.close(FAILED if has_failed else DONE)


__all__ = ["run"]
