"""Python's own debugger for somebody who is elsewhere, and who leaves the program as it was."""

from __future__ import annotations

import pdb  # noqa: T100 (this is the debugger)
import traceback
from typing import TYPE_CHECKING, Any

from bigmachine.agent.conversations import DONE
from bigmachine.program.talk import Talk, printing_to

if TYPE_CHECKING:
    from types import FrameType


class Debugger(pdb.Pdb):
    """Stops the thread that calls `set_trace`, until its user has it go on or leaves."""

    def __init__(self, talk: Talk) -> None:
        super().__init__(stdin=talk, stdout=talk, nosigint=True, readrc=False)  # type: ignore[arg-type]  # as much of files as it uses
        self.use_rawinput = False
        self.prompt = "(Pdb) "
        self._talk = talk
        # While the program goes on to its next breakpoint, Ctrl-C stops it at its next line.
        talk.on_interrupt(self.set_step)

    def onecmd(self, line: str) -> bool:
        """Do what was typed; Ctrl-C interrupts it."""
        with self._talk.interruptible():
            return super().onecmd(line)

    def default(self, line: str) -> None:
        """Run a line of Python; what it prints is for who has typed it, and for nobody else."""
        source = line.removeprefix("!").strip()
        frame = self.curframe
        assert frame is not None
        try:
            with printing_to(self._talk):
                value = _run(source, frame, getattr(self, "curframe_locals", frame.f_locals))
            if value is not None:
                self.message(repr(value))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 (whatever was typed)
            self.error(traceback.format_exception_only(error)[-1].strip())

    def leave(self) -> None:
        """Let the program go on, without breakpoints of this conversation."""
        self.clear_all_breaks()
        self.set_continue()
        self._talk.close(DONE)

    def do_quit(self, arg: str) -> bool | None:
        """Leave; the program goes on."""
        self.leave()
        return True

    do_q = do_exit = do_EOF = do_detach = do_quit  # noqa: N815 (the names are pdb's)

    def do_continue(self, arg: str) -> bool | None:
        """Go on to the next breakpoint; without one, the conversation is over."""
        done = super().do_continue(arg)
        if not self.breaks:
            self._talk.close(DONE)
        return done

    do_c = do_cont = do_continue

    def do_run(self, arg: str) -> bool | None:
        """Tell that this program is not started here."""
        self.error("a machine's program is started by its driver")
        return None

    do_restart = do_run

    def do_interact(self, arg: str) -> bool | None:
        """Tell where there is more room."""
        self.error("'bigmachine shell MACHINE' opens an interactive Python; here, any line of Python is run")
        return None


def _run(source: str, frame: FrameType, local: Any) -> object:
    try:
        code = compile(source, "<pdb>", "eval")
    except SyntaxError:
        code = compile(f"{source}\n", "<pdb>", "exec")
    return eval(code, frame.f_globals, local)  # noqa: S307 (this is what a debugger is for)


def debug(talk: Talk, frame: FrameType) -> None:
    """Stop the thread that calls this at the next line of `frame`, which is one of its own."""
    Debugger(talk).set_trace(frame)


__all__ = ["Debugger", "debug"]
