"""Start a machine's process: by fork from the zygote where that is possible, otherwise by spawning an interpreter.

Either way the process has a control socket, its stdout and stderr are pipes that the agent reads, its stdin is empty,
and it is the agent's own child.

Once a machine was forked, another fork is kept in reserve: a process that is no machine yet, and waits to be told which
it is to be. The next machine does not wait for its fork (3 of its 15 ms), and the one that replaces the reserve is made
while that machine comes up. It takes 1 to 2 MiB. Modules of programs are not in it: these may be edited meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

from bigmachine.agent.commands import CONTROL_FD, program_command
from bigmachine.agent.launch import LaunchSpec, reason_to_spawn
from bigmachine.agent.preload import Preloader
from bigmachine.agent.zygote import ForkRefused, Zygote
from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bigmachine.agent.certificate import Ending
    from bigmachine.agent.reaper import Reaper
    from bigmachine.agent.scratch import Scratch

_log = logging.getLogger("bigmachine.agent")
#: After the first machines were forked, so many seconds pass before there is a reserve: these are more urgent.
_AT_REST: Final = 0.3


@frozen
class Child:
    """A machine's process, and the agent's ends of what connects the two; whoever has it owns these."""

    pid: int
    control: socket.socket
    stdout: int
    stderr: int
    ending: asyncio.Future[Ending]


class Nursery:
    """Starts the processes of one agent. `files`: how many open files a machine may have, before it asks for more."""

    def __init__(
        self,
        reaper: Reaper,
        interpreter: list[str],
        sys_path: list[str],
        zygote: Zygote | None,
        files: int,
        scratch: Scratch,
    ) -> None:
        self._reaper = reaper
        self._interpreter = interpreter
        self._sys_path = sys_path
        self._zygote = zygote
        self._preloader = None if zygote is None else Preloader(zygote, scratch)
        self._files = files
        self._reserve: Child | None = None
        self._making: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self._is_awaited = False

    async def start(self, spec: LaunchSpec) -> Child:
        """Start a process for `spec`; what it is to do it learns over its control socket.

        Raises:
            ProvisionError: if the host cannot start a process.
        """
        await self._awaited_reserve(spec)
        if (reserve := self._taken_reserve(spec)) is not None:
            self._make_reserve()
            return reserve
        child = await self._connected(spec.name, lambda fds: self._born(spec, fds))
        if self._making is None and self._may_be_forked(spec):
            self._making = asyncio.get_running_loop().call_later(_AT_REST, self._make_reserve)
        return child

    def _may_be_forked(self, spec: LaunchSpec) -> bool:
        """Tell whether the library's zygote will do for this machine."""
        zygote = self._zygote
        if zygote is None or zygote.why_not or spec.preload:
            return False
        return not reason_to_spawn(spec, zygote.interpreter, zygote.environ)

    async def _awaited_reserve(self, spec: LaunchSpec) -> None:
        """Let one machine wait for the reserve that is being made, rather than be behind it."""
        making = self._making
        if not isinstance(making, asyncio.Task) or self._is_awaited or not self._may_be_forked(spec):
            return
        self._is_awaited = True
        try:
            await asyncio.wait([making])
        finally:
            self._is_awaited = False

    def _taken_reserve(self, spec: LaunchSpec) -> Child | None:
        if self._reserve is None or not self._may_be_forked(spec):
            return None
        reserve, self._reserve = self._reserve, None
        if not reserve.ending.done():
            return reserve
        reserve.control.close()
        os.close(reserve.stdout)
        os.close(reserve.stderr)
        return None

    def _make_reserve(self) -> None:
        if isinstance(self._making, asyncio.Task):
            return
        if self._making is not None:
            self._making.cancel()  # it was to be made later
        self._making = asyncio.get_running_loop().create_task(self._keep_reserve(), name="reserve")

    async def _keep_reserve(self) -> None:
        """Have one process in reserve."""
        zygote = self._zygote
        try:
            if zygote is not None and self._reserve is None:
                self._reserve = await self._connected("in reserve", lambda fds: zygote.fork(*map(os.dup, fds)))
        except (ForkRefused, ProvisionError) as error:
            _log.info("no process is kept in reserve: %s", error)
        finally:
            self._making = None

    async def _connected(self, name: str, born: Callable[[tuple[int, int, int]], Awaitable[int]]) -> Child:
        """Make what connects a process with this one; `born` starts it with the other ends, which it leaves open."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            try:
                control, theirs_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                ours.callback(control.close)
                theirs.callback(theirs_control.close)
                stdout, theirs_stdout = _pipe(ours, theirs)
                stderr, theirs_stderr = _pipe(ours, theirs)
                with self._reaper.expecting():
                    pid = await born((theirs_control.fileno(), theirs_stdout, theirs_stderr))
                    ending = self._reaper.watch(pid)
            except OSError as error:
                raise ProvisionError(
                    f"machine {name} cannot start a process: {error}; see `ulimit -n` and `ulimit -u` there",
                    temporary=True,
                ) from error
            ours.pop_all()
            return Child(pid, control, stdout, stderr, ending)

    async def _born(self, spec: LaunchSpec, fds: tuple[int, int, int]) -> int:
        """Fork if that can be, otherwise spawn; `fds` (control, stdout, stderr) stay the caller's."""
        zygote = self._zygote
        if zygote is not None:
            why = zygote.why_not or reason_to_spawn(spec, zygote.interpreter, zygote.environ)
            if not why:
                if spec.preload and self._preloader is not None:
                    with contextlib.suppress(ForkRefused):  # it has said why, and the library's zygote remains
                        return await self._preloader.fork(spec, fds)
                try:
                    return await zygote.fork(*map(os.dup, fds))
                except ForkRefused as refusal:
                    why = str(refusal)
            if zygote.why_not:
                _log.warning("machines start by spawning from now on, which takes longer: %s", zygote.why_not)
                self._zygote = None
            else:
                _log.info("machine %s is spawned, not forked: %s", spec.name, why)
        return self._spawn(spec, fds)

    def _spawn(self, spec: LaunchSpec, fds: tuple[int, int, int]) -> int:
        control, stdout, stderr = fds
        interpreter = spec.interpreter or self._interpreter
        return os.posix_spawnp(
            interpreter[0],
            program_command(
                interpreter, _in_image(spec.sys_path) if spec.root else self._sys_path, os.getpid(), self._files
            ),
            spec.whole_environ(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_DUP2, stderr, 2),
                (os.POSIX_SPAWN_DUP2, control, CONTROL_FD),  # last: it might be the number of one of the others
            ],
        )


def _in_image(sys_path: list[str]) -> list[str]:
    """Return the folders of an image that have the library; usually none, for it is among its packages."""
    return [folder for folder in sys_path if os.path.isdir(f"{folder}/bigmachine")]


def _pipe(ours: contextlib.ExitStack, theirs: contextlib.ExitStack) -> tuple[int, int]:
    """Make a pipe that the agent reads without ever waiting."""
    read, write = os.pipe()
    ours.callback(os.close, read)
    theirs.callback(os.close, write)
    os.set_blocking(read, False)
    return read, write


__all__ = ["Child", "Nursery"]
