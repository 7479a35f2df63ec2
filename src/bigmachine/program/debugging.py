"""`breakpoint()` on a machine, and shells and debuggers that somebody at the driver asks for.

A call that comes to a `breakpoint()` waits in its thread; the agent keeps the machine meanwhile. In a coroutine that
thread is the event loop's, so other calls to this machine wait, too. Whoever comes (`bigmachine pdb`) has Python's own
debugger; when they leave, however they do, the call goes on. If nobody comes in time it goes on by itself.

`PYTHONBREAKPOINT` means what it means everywhere: "0" lets a program run through, another debugger is called as it is.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.processes.control import BlockingChannel
from bigmachine.program.talk import Talk

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from bigmachine.program.editor import Pool

#: In a machine's environment: seconds, instead of what its driver finds right.
WAIT: Final = "BIGMACHINE_BREAKPOINT_WAIT"


class Debugging:
    """The conversations of this process.

    `tell` tells the agent something, with files that stay open here, from any thread; it may be changed once the event
    loop serves. `wait`: seconds that a `breakpoint()` waits for somebody; 0: for ever.

    A thread of its own takes what somebody at the driver asks for: the event loop may be busy, or stand in a
    `breakpoint()`, and that is when somebody comes to look.
    """

    #: Set once the event loop serves: it, the threads for plain methods, and what a shell knows.
    loop: asyncio.AbstractEventLoop
    pool: Pool
    names: Callable[[], dict[str, Any]]

    def __init__(self, tell: Callable[[Mapping[str, object], Sequence[int]], None], wait: float) -> None:
        self.tell = tell
        self._wait = wait
        self._numbers = itertools.count(1)

    def install(self) -> None:
        """Have `breakpoint()` wait for somebody at the driver, and listen to whoever comes unasked."""
        sys.breakpointhook = self._halt
        mine, its = socket.socketpair()
        with its:
            self.tell({"k": "asks"}, (its.fileno(),))
        threading.Thread(
            target=self._listen, args=(BlockingChannel(mine),), name="bigmachine-asked", daemon=True
        ).start()

    def _listen(self, channel: BlockingChannel) -> None:
        while (message := channel.receive()) is not None:
            for fd in message.fds:
                self._converse(fd, message.text("kind"), message.text("code"))

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
            except OSError:  # the agent is gone, and so will this process be
                mine.close()
                return None
        talk = Talk(mine, self._patience())
        if talk.await_somebody():
            from bigmachine.program.debugger import debug

            debug(talk, frame)
        else:
            self.tell({"k": "goes on", "n": number}, ())
            talk.close()
            logging.getLogger("bigmachine").warning(
                "nobody came to the breakpoint() at %s in time: the program goes on", where
            )
        return None

    def _patience(self) -> float | None:
        try:
            wait = float(os.environ.get(WAIT) or self._wait)
        except ValueError:
            wait = self._wait
        return min(wait, threading.TIMEOUT_MAX) if wait > 0 else None

    def _converse(self, fd: int, kind: str, code: str) -> None:
        """Hold a conversation that somebody asked for, in a thread of its own."""
        sock = socket.socket(fileno=fd)
        if kind == "debugpy":
            from bigmachine.program import editor

            work = partial(editor.serve, sock, self.loop, self.pool)
        else:
            work = partial(_hold, Talk(sock, is_here=True), kind, code, self.loop, self.names())
        threading.Thread(target=work, name=f"bigmachine-{kind}", daemon=True).start()


def _hold(talk: Talk, kind: str, code: str, loop: asyncio.AbstractEventLoop, names: dict[str, Any]) -> None:
    if kind == "attach":
        from bigmachine.program import attaching

        attaching.attach(talk, loop)
    else:
        from bigmachine.program import shell

        shell.run(talk, code, loop, names)


__all__ = ["WAIT", "Debugging"]
