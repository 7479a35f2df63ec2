"""Start a machine's process: by fork from the zygote where that is possible, otherwise by spawning an interpreter.

Either way the process has a control socket, its stdout and stderr are pipes that the agent reads, its stdin is empty,
and it is the agent's own child.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING

from bigmachine.agent.commands import CONTROL_FD, program_command
from bigmachine.agent.launch import LaunchSpec, reason_to_spawn
from bigmachine.agent.processes.preload import Preloader
from bigmachine.agent.processes.scratch import make_directory
from bigmachine.agent.processes.zygote import ForkRefused, Zygote
from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from bigmachine.agent.certificate import Ending
    from bigmachine.agent.processes.reaper import Reaper
    from bigmachine.agent.processes.scratch import Scratch

_log = logging.getLogger("bigmachine.agent")


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

    async def start(self, spec: LaunchSpec) -> Child:
        """Start a process for `spec`; what it is to do it learns over its control socket.

        Raises:
            ProvisionError: if the host cannot start a process.
        """
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            try:
                control, theirs_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                ours.callback(control.close)
                theirs.callback(theirs_control.close)
                stdout, theirs_stdout = _pipe(ours, theirs)
                stderr, theirs_stderr = _pipe(ours, theirs)
                with self._reaper.expecting():
                    pid = await self._born(spec, (theirs_control.fileno(), theirs_stdout, theirs_stderr))
                    ending = self._reaper.watch(pid)
            except OSError as error:
                raise ProvisionError(
                    f"machine {spec.name} cannot start a process: {error}; see `ulimit -n` and `ulimit -u` there",
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
        make_directory(spec.scratch)  # an interpreter may use it before it comes to us
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
