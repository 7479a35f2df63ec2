"""The undertaker: a tiny process that sees to it that nothing of an agent outlives the agent, however that ends.

An agent that is killed by -9 cannot end anything. Its machines die with it, by the kernel's hand (`prctl`), but not
what they started, and what called setsid is nobody's child any more. So the agent forks, before it has imported much,
a process that does nothing but read a pipe that only the agent writes to. It is in a session of its own, so no signal
to the agent's group or terminal reaches it. When the pipe ends, or the agent has given no sign of life for its lease
and some seconds more (it was stopped, say, and so would be every clock that it keeps), the undertaker kills

- the agent itself, if it still stands there,
- the processes with a mark (see below) that keep a resource tracker from its work, if there is one,
- the agent's control group with all in it, where there is one, and removes it, and
- every process that has the agent's mark, or one of its machines', in its environment, until a look finds none,

removes the temporary directories of the agent's machines (`scratch`), and ends. Without a control group, one kind of
process escapes it: one that has called setsid and emptied its environment. While the agent lives, it is found as a
child of the agent, which inherits orphans; the kernel gives these to init before anybody hears of the agent's death,
and to be their subreaper the undertaker would have to be the agent's parent. Noting all descendants every second would
miss those of the last one. When the agent ends in peace it says so (`part`), and the undertaker only removes: the
control group, and these directories.

What the agent writes are lines: `mark TEXT`, `group DIRECTORY`, `scratch DIRECTORY`, `limit SECONDS`, an empty one as a
sign of life, `done`, `leave`.

Where there is a zygote, another process takes over once the first machines are on their way: a fork of the zygote,
which shares its memory with that and the machines. The first one's, which the agent was forked from and has gone on to
change, is by then its own alone: 4.7 MiB.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from bigmachine.agent.processes import control_groups
from bigmachine.agent.processes.scratch import remove_all
from bigmachine.agent.processes.trackers import TIDYING, trackers

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What has a mark may start something else before it dies, so a look is repeated, but not for ever.
_SWEEP: Final = 2.0
#: The agent waits for so long, at its end, until the undertaker is done.
_PATIENCE: Final = 0.3
#: So long it removes files, at most; nobody waits for it.
_CLEARING: Final = 600.0
#: What ends a group, or all processes of a terminal or a computer, in peace.
_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Undertaker:
    """The agent's side: what it tells the process. May be used from any thread."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe
        self._said: list[str] = []
        self._changing = threading.Lock()

    @classmethod
    def engage(cls) -> Undertaker | None:
        """Fork it; call this while the process has one thread, and little in its memory. None if that cannot be."""
        read, write = os.pipe()
        agent = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)
        try:
            pid = os.fork()
            if pid == 0:
                serve_as_undertaker(read, agent)
        except OSError:
            os.close(read)
            os.close(write)
            return None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(read)
        os.set_blocking(write, False)
        return cls(pid, write)

    def mark(self, text: str) -> None:
        """Have it find processes with `text` in their environment: a whole NAME=VALUE, or the beginning of one."""
        self._order(f"mark {text}")

    def group(self, directory: str) -> None:
        """Have it kill and remove this control group."""
        self._order(f"group {directory}")

    def scratch(self, directory: str) -> None:
        """Have it remove this directory with all in it."""
        self._order(f"scratch {directory}")

    def limit(self, seconds: float) -> None:
        """Have it act when there was no sign of life (`live`) for so long."""
        self._order(f"limit {seconds}")

    def live(self) -> None:
        """Give a sign of life."""
        self._say("")

    def relieve(self, pid: int, pipe: int) -> None:
        """Let it go without doing anything, for another one (`serve_as_undertaker`) is there, at the end of `pipe`."""
        with self._changing:
            if self._pipe < 0:  # the agent ends, and this one sees to it
                os.close(pipe)
                return
            os.set_blocking(pipe, False)
            before, self.pid, self._pipe = self._pipe, pid, pipe
            for line in self._said:
                self._say(line)
            with contextlib.suppress(OSError):
                os.write(before, b"leave\n")
            os.close(before)

    def part(self, *, is_done: bool) -> bool:
        """Let it go, and wait until it has done its work. `is_done`: no child of the agent is left.

        True if it is still at it: it has much to remove.
        """
        with self._changing:
            if is_done:
                self._say("done")
            with contextlib.suppress(OSError):
                os.close(self._pipe)
            self._pipe = -1
        end = time.monotonic() + _PATIENCE
        with contextlib.suppress(ChildProcessError):
            while not os.waitpid(self.pid, os.WNOHANG)[0] and time.monotonic() < end:
                time.sleep(0.0005)
            return time.monotonic() >= end
        return False

    def _order(self, line: str) -> None:
        self._said.append(line)
        self._say(line)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it was killed, or stands still: then there is no help to be had from it
            os.write(self._pipe, os.fsencode(f"{line}\n"))


def serve_as_undertaker(pipe: int, agent: int) -> NoReturn:
    """Be the undertaker, in a fresh fork of the agent or of its zygote."""
    try:
        os.setsid()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        _keep_only(pipe)
        os.chdir("/")
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text("bigm-undertaker")
        _attend(pipe, agent)
    finally:
        os._exit(0)


def _keep_only(pipe: int) -> None:
    """Close everything else: the agent's ends of pipes must end with the agent."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        if fd != pipe:
            os.dup2(null, fd)
    for fd in map(int, os.listdir("/dev/fd")):
        if fd > 2 and fd != pipe:
            with contextlib.suppress(OSError):
                os.close(fd)


def _attend(pipe: int, agent: int) -> None:
    orders = _Orders()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while poll.poll(orders.patience):
        data = os.read(pipe, 65536)
        if not data:
            break
        orders.take(data)
        if orders.is_relieved:
            return
    if os.getppid() == agent and not orders.is_done:
        os.kill(agent, signal.SIGKILL)
    if not orders.is_done:
        _let_tidy(orders.marks)
    for directory in orders.groups:
        control_groups.kill(directory)
    if not orders.is_done:
        sweep(orders.marks)
    for directory in orders.groups:
        control_groups.remove(directory, _SWEEP)
    remove_all(orders.scratch, time.monotonic() + _CLEARING)


class _Orders:
    """What the agent has said so far. `patience` is in milliseconds, as poll(2) takes it."""

    def __init__(self) -> None:
        self.marks: list[bytes] = []
        self.groups: list[str] = []
        self.scratch: list[str] = []
        self.patience: float | None = None
        self.is_done = False
        self.is_relieved = False
        self._rest = b""

    def take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            verb, _, word = line.partition(b" ")
            if verb == b"mark":
                self.marks.append(word)
            elif verb == b"group":
                self.groups.append(os.fsdecode(word))
            elif verb == b"scratch":
                self.scratch.append(os.fsdecode(word))
            elif verb == b"limit":
                self.patience = float(word) * 1000
            elif verb == b"done":
                self.is_done = True
            elif verb == b"leave":
                self.is_relieved = True


def _let_tidy(marks: list[bytes]) -> None:
    """Give resource trackers a moment to remove what nobody uses any more, once all others are dead."""
    end = time.monotonic() + TIDYING
    while time.monotonic() < end:
        found = set(_marked(marks))
        tidying = trackers(found)
        if not tidying:
            return
        for pid in found - tidying:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def sweep(marks: list[bytes], limit: float = _SWEEP) -> None:
    """Kill every process that has one of these marks in its environment, until there is none; for `limit` seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = list(_marked(marks))
        if not found:
            return
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _marked(marks: list[bytes]) -> Iterator[int]:
    own = os.getpid()
    wanted = tuple(marks)
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return
    for pid in pids:
        if pid != own and any(entry.startswith(wanted) for entry in _environment(pid)):
            yield pid


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # of a zombie it is empty
            return file.read().split(b"\0")
    except OSError:
        return []


__all__ = ["Undertaker", "serve_as_undertaker", "sweep"]
