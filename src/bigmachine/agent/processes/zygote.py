"""The agent's side of the zygote: a process that has imported what machines need, and forks one on request.

It is forked off the agent itself, while that has nothing but modules; the loop comes later (`attach`). A request is a
message with three files (control, stdout, stderr); the answer is the pid of a machine that has become the agent's own
child, or why it was refused. A zygote that does not answer is killed and not used again: machines are spawned from then
on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Final

from bigmachine.agent.processes.tree import threads

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from bigmachine.agent.processes.control import Message
    from bigmachine.agent.processes.loop_channel import LoopChannel

#: A zygote may import torch (2.6 s measured, without byte code far more) before it answers the first time.
PATIENCE: Final = 60.0
_STALE: Final = "the files of its modules have changed"


class ForkRefused(Exception):
    """There is no fork to be had; the message says why. The caller spawns."""


class Zygote:
    """A zygote's process. `interpreter` runs it, `environ` is what that was started with."""

    def __init__(
        self, pid: int, sock: socket.socket, interpreter: list[str], environ: dict[str, str], why_not: str = ""
    ) -> None:
        self.pid = pid
        self.interpreter = interpreter
        self.environ = environ
        self._sock = sock
        self._channel: LoopChannel | None = None
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._why_not = why_not

    @classmethod
    def fork_off(cls, become: Callable[[socket.socket], NoReturn], interpreter: list[str]) -> Zygote:
        """Fork it off this process, which `interpreter` runs; there, call `become` with its end of the channel.

        Where that cannot be, what this gives can fork nothing, and says why (`why_not`).
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        why_not, pid = "", 0
        with theirs:
            if (count := threads()) != 1:
                why_not = f"the agent began with {count} threads, and a fork might hang: does a .pth file start one?"
            else:
                try:
                    pid = os.fork()
                except OSError as error:
                    why_not = f"the zygote could not be forked: {error}"
                if pid == 0 and not why_not:
                    _begin(become, ours, theirs)
        if why_not:
            ours.close()
        return cls(pid, ours, interpreter, dict(os.environ), why_not)

    def sprout(self, orders: Mapping[str, object]) -> Zygote:
        """Fork another zygote off this one, that does what `orders` say (see `program.preload`) before it forks.

        Raises:
            ForkRefused: if this one cannot be used.
        """
        if self._channel is None or self._loop is None or self._why_not:
            raise ForkRefused(self._why_not or "the zygote is not attached")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        sprout = Zygote(0, ours, self.interpreter, self.environ)
        sprout.attach(self._loop)
        born: asyncio.Future[int] = self._loop.create_future()
        born.add_done_callback(sprout._on_birth)
        self._waiting.append(born)
        self._channel.send({"k": "sprout", **orders}, (theirs.detach(),))
        return sprout

    def _on_birth(self, born: asyncio.Future[int]) -> None:
        error = born.exception()
        if error is not None:
            self._give_up(str(error))
            return
        self.pid = born.result()
        if self._why_not:  # it was ended before it was there
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to talk to it."""
        if self._why_not:
            return
        from bigmachine.agent.processes.loop_channel import LoopChannel

        self._loop = loop
        self._channel = LoopChannel(self._sock, loop, self._on_message, self._on_end)

    @property
    def why_not(self) -> str:
        """Why it cannot be used any more; empty as long as it can."""
        return self._why_not

    @property
    def is_stale(self) -> bool:
        """Whether it cannot be used any more because files of its modules have changed."""
        return self._why_not == _STALE

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for a fork of it."""
        return not self._waiting

    async def fork(self, control: int, stdout: int, stderr: int) -> int:
        """Fork a machine that has these files and become its parent; gives its pid. The files are closed here.

        Raises:
            ForkRefused: if it does not come about.
        """
        # All that has asked before a look at the files of its modules is content with that look.
        return await self._ask({"k": "fork", "t": time.monotonic_ns()}, (control, stdout, stderr))

    async def undertake(self, pipe: int) -> int:
        """Fork an undertaker that reads `pipe` (it is closed here) and become its parent; gives its pid.

        Raises:
            ForkRefused: if it does not come about.
        """
        return await self._ask({"k": "undertake"}, (pipe,))

    async def _ask(self, body: Mapping[str, object], fds: tuple[int, ...]) -> int:
        if self._channel is None or self._loop is None or self._why_not:
            for fd in fds:
                os.close(fd)
            raise ForkRefused(self._why_not or "the zygote is not attached")
        future: asyncio.Future[int] = self._loop.create_future()
        self._waiting.append(future)
        timer = self._loop.call_later(PATIENCE, self._give_up, f"the zygote did not answer for {PATIENCE:.0f} s")
        try:
            self._channel.send(body, fds)
            return await future
        finally:
            timer.cancel()

    def close(self) -> None:
        """End it: it exits when its socket closes, unless it is stuck."""
        self._give_up("the zygote was ended")

    def _on_message(self, message: Message) -> None:
        for fd in message.fds:
            os.close(fd)
        if message.kind == "forked" and self._waiting:
            _resolve(self._waiting.popleft(), message.number("pid"))
        elif message.kind == "stale":
            self._give_up(_STALE)
        elif message.kind == "refused":
            self._give_up(message.text("why"))

    def _on_end(self) -> None:
        self._abandon("the zygote died")

    def _give_up(self, why: str) -> None:
        if self._why_not:
            return
        # Its socket is open, so it has not been reaped, and the pid is its own.
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._abandon(why)

    def _abandon(self, why: str) -> None:
        self._why_not = why
        if self._channel is not None:
            self._channel.close()
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(ForkRefused(why))


def _begin(become: Callable[[socket.socket], NoReturn], ours: socket.socket, theirs: socket.socket) -> NoReturn:
    """Be the child, and never come back to where the agent goes on."""
    try:
        ours.close()
        become(theirs)
    except BaseException:  # noqa: BLE001 (the edge of the process)
        traceback.print_exc()
    finally:
        os._exit(1)


def _resolve(future: asyncio.Future[int], pid: int) -> None:
    if not future.done():
        future.set_result(pid)


__all__ = ["PATIENCE", "ForkRefused", "Zygote"]
