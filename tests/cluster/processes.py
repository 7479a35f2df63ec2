"""What a session holds on this computer, so that a test can say that a fault left nothing of it behind.

A `Footprint` is taken before a fault, while the session is quiet, and compared afterwards: processes, the descriptors
of each of them, the threads of the driver, the tasks on its event loop and on the machines', temporary files. Zygotes
are left out, as long as they are few: which modules the driver has when it starts a machine decides about them. So are
undertakers: the agent's first one is relieved by another, a few seconds after the agent has begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

import bigmachine
from bigmachine import Keepalive
from bigmachine.agent.processes.tree import look_at
from bigmachine.machine import Address
from bigmachine.systems.local import LocalSystem
from tests.cluster.fault_services import Target, waits_for_calls

T = TypeVar("T")
#: The library's zygote, and those with modules that an agent keeps.
MOST_ZYGOTES = 3
#: Threads that are there from the first time on that they are needed.
MADE_ONCE = frozenset(("bigmachine-output",))
#: Nothing that is awaited here takes longer unless it hangs.
LIMIT = 10.0
#: What the kernel and the other side still do after a caller has its answer: closing, reaping.
SETTLED = 3.0


def wait_for(claim: Callable[[], T], what: str, limit: float = LIMIT) -> T:
    """Look until something is the case, and return it."""
    end = time.monotonic() + limit
    while not (value := claim()):
        assert time.monotonic() < end, f"after {limit:g} s it is still not so: {what}"
        time.sleep(0.002)
    return value


def is_alive(pid: int) -> bool:
    """Tell whether a process is there; a zombie is not."""
    process = look_at(pid)
    return process is not None and process.state not in "ZX"


def wait_until_gone(pids: list[int], limit: float) -> float:
    """Wait until none of these processes is left; return how long it took."""
    begin = time.monotonic()
    wait_for(lambda: not any(map(is_alive, pids)), f"{pids} are gone", limit)
    return time.monotonic() - begin


def below(pid: int) -> list[int]:
    """Return the processes below `pid`, grandchildren included."""
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        if (process := look_at(int(name))) is not None and process.state not in "ZX":
            parents.setdefault(process.parent, []).append(process.pid)
    found, wanted = [], [pid]
    while wanted:
        children = parents.get(wanted.pop(), [])
        found += children
        wanted += children
    return sorted(found)


def zygotes_below(pid: int) -> list[int]:
    """Return the zygotes among the processes below `pid`."""
    return named_below(pid, "bigm-zygote")


def named_below(pid: int, name: str) -> list[int]:
    """Return the processes below `pid` that call themselves so."""
    return [process for process in below(pid) if _name(process) == name]


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    return ""


def machine_pid(machine: bigmachine.Machine) -> int:
    """Return a machine's process, as its agent knows it."""
    pid: int = machine.call("Supervisor.getpid")
    return pid


def agent_pid(machine: bigmachine.Machine) -> int:
    """Return the process of a machine's agent, which is the parent of the machine's."""
    process = look_at(machine_pid(machine))
    assert process is not None
    return process.parent


def descriptors(pid: int) -> Counter[str]:
    """Return what a process has open, with the inode numbers, which say nothing, left out."""
    found: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            target = os.readlink(entry)
            # The memory watch opens some for a moment; the agent has locked a directory for each TMPDIR there was.
            # The notes of calls that may be repeated are there from the first such call on.
            if not target.startswith(("/sys/fs/cgroup/", "/memfd:bigmachine-calls")) and "/bm-" not in target:
                found[target.partition(":[")[0]] += 1
    return found


@dataclass(frozen=True)
class Footprint:
    """What a session holds. `tasks` and `threads` by name, `descriptors` and `processes` by process."""

    processes: tuple[int, ...]
    descriptors: tuple[tuple[int, Counter[str]], ...]
    threads: tuple[str, ...]
    tasks: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]

    @classmethod
    def of(cls, session: bigmachine.Session, scratch: Path) -> Footprint:
        """Take it; `scratch` is the folder for temporary files of everything that the session consists of."""
        machines = [machine for machine in session.machines() if machine.state is bigmachine.State.RUNNING]
        agent = agent_pid(machines[0])
        tasks = [session._reactor.run(_tasks(), LIMIT)]
        tasks += [machine.call(Target.tasks) for machine in machines]
        # What one of them is forking has its name for a moment, and one that is replaced ends by itself.
        wait_for(lambda: len(zygotes_below(agent)) <= MOST_ZYGOTES, "there are no more zygotes than an agent keeps")
        zygotes, undertakers = zygotes_below(agent), named_below(agent, "bigm-undertaker")
        assert len(undertakers) <= 2, undertakers
        pids = (os.getpid(), agent, *(pid for pid in below(agent) if pid not in (*zygotes, *undertakers)))
        open_files = {pid: descriptors(pid) for pid in pids}
        open_files[agent]["socket"] -= len(zygotes)
        open_files[agent]["pipe"] -= len(undertakers)
        return cls(
            processes=pids,
            descriptors=tuple(open_files.items()),
            threads=tuple(sorted(thread.name for thread in threading.enumerate() if thread.name not in MADE_ONCE)),
            tasks=tuple(tuple(sorted(names)) for names in tasks),
            files=tuple(sorted(str(path.relative_to(scratch)) for path in scratch.rglob("*"))),
        )


@dataclass(frozen=True)
class Cluster:
    """A local session with machines that each have a `Target`, and the one folder for temporary files of them all."""

    session: bigmachine.Session
    machines: list[bigmachine.Machine]
    scratch: Path

    @property
    def machine(self) -> bigmachine.Machine:
        """The first machine."""
        return self.machines[0]

    @property
    def place(self) -> tuple[str, int]:
        """Where its agent listens."""
        address = Address.parse(self.machine.address)
        return address.host, address.port

    @property
    def machine_id(self) -> str:
        """The name in TLS by which the first machine is reached."""
        return Address.parse(self.machine.address).machine_id

    @property
    def agent_id(self) -> str:
        """The name in TLS by which the agent is reached."""
        return Address.parse(self.machine.address).agent_id

    @contextlib.contextmanager
    def unharmed(self) -> Iterator[None]:
        """Make sure that what happens inside disturbs no call and leaves nothing behind."""
        for machine in self.machines:
            call_often(machine)  # what is made for the first call, and for the first hundred, stays
        with nothing_left(self.session, self.scratch), contextlib.ExitStack() as stack:
            for machine in self.machines:
                stack.enter_context(undisturbed(machine))
            yield


@contextlib.contextmanager
def cluster_in(
    scratch: Path, n: int = 1, keepalive: Keepalive | None = None, more: Sequence[object] = ()
) -> Iterator[Cluster]:
    """Start machines, with `more` services, whose temporary files, and this process's, go to `scratch`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(scratch))
        patch.setattr(tempfile, "tempdir", None)
        with bigmachine.start(LocalSystem(keepalive=keepalive)) as session:
            machines = session.start(n, services=[Target(), *more])
            for machine in machines:
                machine.wait(bigmachine.State.RUNNING, LIMIT)
            yield Cluster(session, machines, scratch)


def call_often(machine: bigmachine.Machine) -> None:
    """Call until the link has its connections for threads that wait: to a thread of the machine's, and to its loop."""
    link = machine._program
    end = time.monotonic() + LIMIT
    machine.call(Target.echo, 1)
    while link._direct is not None and link._direct._socket is None:
        assert time.monotonic() < end, "there is no connection for threads that wait"
        machine.call(Target.echo, 1)
    machine.call(Target.is_held, "")
    if link._direct is None or not link._direct.by_loop:
        return  # the loop serves the one there is
    while link._direct_to_loop is not None and link._direct_to_loop._socket is None:
        assert time.monotonic() < end, "there is no connection for threads that wait for methods of the loop"
        machine.call(Target.is_held, "")


async def _tasks() -> list[str]:
    others = (task for task in asyncio.all_tasks() if task is not asyncio.current_task())
    names = (_steady(task.get_name()) for task in others if not waits_for_calls(task))
    # What would say that a machine takes long to start looks after a while, and ends if that has started by then.
    return [name for name in names if not name.startswith("start of ")]


def _steady(name: str) -> str:
    """Leave out the numbers that asyncio gives to tasks without a name."""
    return name.rstrip("0123456789")


@contextlib.contextmanager
def nothing_left(session: bigmachine.Session, scratch: Path) -> Iterator[None]:
    """Make sure that what happens inside leaves the session as it was."""
    before = Footprint.of(session, scratch)
    end = time.monotonic() + SETTLED
    while "dial " in str(before.tasks) and time.monotonic() < end:  # a link gets a further connection just now
        time.sleep(0.01)
        before = Footprint.of(session, scratch)
    yield
    end = time.monotonic() + SETTLED
    while not _holds_no_more(after := Footprint.of(session, scratch), before):
        if time.monotonic() > end:
            raise AssertionError("\n".join(_differences(before, after)))
        time.sleep(0.01)


@contextlib.contextmanager
def undisturbed(machine: bigmachine.Machine) -> Iterator[None]:
    """Make sure that a call to `machine` that is under way all the while comes to its end."""
    name = uuid.uuid4().hex
    call = machine.submit(Target.hold, name)
    machine.call(Target.echo, None)
    yield
    assert not call.done()
    machine.call(Target.release, name)
    assert call.result(LIMIT) == name


def _holds_no_more(after: Footprint, before: Footprint) -> bool:
    """Tell whether nothing has come. What has gone is no harm: processes on their way out, an undertaker's pipes."""
    had = dict(before.descriptors)
    others = replace(after, descriptors=(), processes=()) == replace(before, descriptors=(), processes=())
    return others and all(pid in had and not found - had[pid] for pid, found in after.descriptors)


def _differences(before: Footprint, after: Footprint) -> Iterator[str]:
    for name in Footprint.__dataclass_fields__:
        was, now = getattr(before, name), getattr(after, name)
        if was != now:
            yield f"{name} were {was}"
            yield f"{name} are now {now}"
