"""Services that the tests of faults put on machines; importable there without a test runner."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import CoroutineType
from typing import Any, NoReturn

import bigmachine
from bigmachine import program
from bigmachine.rpc import Link, TlsDialer
from bigmachine.trust import Role, client_context


def waits_for_calls(task: asyncio.Task[Any]) -> bool:
    """Tell whether a task is there to run methods, and runs none."""
    return task.get_name() == "bigmachine-call" and not isinstance(
        getattr(task.get_coro(), "cr_await", None), CoroutineType
    )


class Target:
    """Lives on a machine and does what faults are made of."""

    def __init__(self) -> None:
        self.runs = 0
        self.held: dict[str, asyncio.Event] = {}

    async def hold(self, name: str) -> str:
        """Return once `release` is called with this name."""
        event = self.held.setdefault(name, asyncio.Event())
        await event.wait()
        return name

    async def is_held(self, name: str) -> bool:
        """Tell whether a call of `hold` with this name has arrived."""
        return name in self.held

    async def release(self, name: str) -> None:
        self.held.setdefault(name, asyncio.Event()).set()

    def pid(self) -> int:
        return os.getpid()

    def echo(self, value: object) -> object:
        return value

    def add(self, a: int, b: int = 1) -> int:
        return a + b

    async def tasks(self) -> list[str]:
        """Name the tasks on the machine's event loop, but for this one."""
        others = (task for task in asyncio.all_tasks() if task is not asyncio.current_task())
        return sorted(task.get_name().rstrip("0123456789") for task in others if not waits_for_calls(task))

    async def nap(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "rested"

    def doze(self, seconds: float) -> str:
        time.sleep(seconds)
        return "rested"

    def hold_the_interpreter(self, seconds: float) -> None:
        """Let no other thread of the process run, without using the processor: as an extension may."""
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))

    async def block(self, seconds: float) -> None:
        """Let the event loop stand still, as a beginner may."""
        time.sleep(seconds)  # noqa: ASYNC251 (that is it)

    def cling(self, seconds: float) -> None:
        """Take so long to exit."""
        atexit.register(time.sleep, seconds)

    def say(self, *lines: str) -> None:
        for line in lines:
            print(line)

    def ask(self, other: bigmachine.Machine, method: str, *args: object) -> object:
        """Call another machine, and wait for it."""
        return other.call(method, *args)

    def chatter(self) -> None:
        """Write without end."""
        while True:
            print("x" * 200)

    def count(self) -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1
            time.sleep(0.001)

    def environment(self) -> str:
        """Return the environment as a process that is started here finds it."""
        return subprocess.check_output(["env"], text=True)

    def inherited(self) -> list[str]:
        """Return what a process that is started without care finds open."""
        code = (
            "import os; print(*(os.readlink(f'/proc/self/fd/{n}') for n in sorted(os.listdir('/proc/self/fd'))[:-1]))"
        )
        return subprocess.check_output([sys.executable, "-c", code], close_fds=False, text=True).split()

    # outcomes that cannot travel

    def lock(self) -> object:
        return threading.Lock()

    def stranger(self) -> object:
        return Stubborn()

    def raise_unpicklable(self) -> NoReturn:
        raise Unpicklable(threading.Lock())

    # ends

    def leave(self, status: object) -> NoReturn:
        sys.exit(status)  # type: ignore[arg-type]  # whatever a user passes

    async def leave_async(self, status: int) -> NoReturn:
        sys.exit(status)

    def interrupt(self) -> NoReturn:
        raise KeyboardInterrupt

    def die(self, status: int) -> NoReturn:
        print("these are the last words", flush=True)
        os._exit(status)

    def crash(self) -> None:
        ctypes.string_at(0)

    def start_strays(self) -> list[int]:
        """Start processes as a daemon would: in sessions of their own, one deaf, one of them with a child."""
        sleeper = "import time; time.sleep(300)"
        deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {sleeper}"
        parent = (
            "import os, time\n"
            "pid = os.fork()\n"
            "if not pid:\n    os.setsid()\n"
            "else:\n    print(pid, flush=True)\n"
            "time.sleep(300)\n"
        )
        kept = [subprocess.Popen([sys.executable, "-c", code], start_new_session=True) for code in (sleeper, deaf)]
        family = subprocess.Popen(
            [sys.executable, "-c", parent], start_new_session=True, stdout=subprocess.PIPE, text=True
        )
        assert family.stdout is not None
        return [*(process.pid for process in kept), family.pid, int(family.stdout.readline())]


class Unpicklable(Exception):
    """Has something in it that cannot travel."""


class Stubborn:
    """Leaves the machine and cannot be rebuilt anywhere."""

    def __reduce__(self) -> tuple[object, ...]:
        return _refuse, ()


def _refuse() -> NoReturn:
    raise ValueError("it does not want to be rebuilt")


class PlainInit:
    """Fails before it is up, in a thread."""

    def init(self, session: bigmachine.Session) -> None:
        raise LookupError("no data on this machine")

    def ready(self) -> None: ...


class AsyncInit:
    """Fails before it is up, on the event loop."""

    async def init(self, session: bigmachine.Session) -> None:
        await asyncio.sleep(0)
        raise LookupError("no data on this machine")


class LeavingInit:
    """Wants to end the process."""

    def init(self, session: bigmachine.Session) -> None:
        sys.exit("nothing to do here")


class LeavingAsyncInit:
    """Wants to end the process, from its event loop."""

    async def init(self, session: bigmachine.Session) -> None:
        sys.exit(3)


class LibraryInit:
    """Fails with an error of the library's own."""

    def init(self, session: bigmachine.Session) -> None:
        raise bigmachine.InvalidCall("the configuration names no table")


class KilledInit:
    """Dies before it is up."""

    def init(self, session: bigmachine.Session) -> None:
        print("about to go", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


class SlowInit:
    """Takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def init(self, session: bigmachine.Session) -> None:
        time.sleep(self.seconds)

    def ready(self) -> str:
        return "up"


class SlowAsyncInit(SlowInit):
    """The same on the event loop, which serves others meanwhile."""

    async def init(self, session: bigmachine.Session) -> None:  # type: ignore[override]  # both are allowed
        await asyncio.sleep(self.seconds)


class Intruder:
    """A machine whose code has turned against its session: it uses the certificate that it has."""

    async def ask(self, place: tuple[str, int], server_id: str, role: Role, method: str, *args: object) -> object:
        """Call anything of anybody, in this machine's name."""
        boot = program.current()
        assert boot is not None
        dialer = TlsDialer(*place, server_id, boot.identity.session, (role,), client_context(boot.identity))
        link = Link(bigmachine.current_call().session._reactor, dialer, name=server_id)
        try:
            return await link.submit(method, args, {}, 5.0)
        finally:
            link.close(ConnectionError("done"))


class Relay:
    """Passes a call on from machine to machine, and keeps what became of it here, by the call's name."""

    def __init__(self) -> None:
        self.ends: dict[str, tuple[str, float]] = {}
        self.begun: set[str] = set()
        self.left: dict[str, float | None] = {}
        self.runs: dict[str, int] = {}

    def _begin(self, name: str) -> None:
        self.left[name] = bigmachine.current_call().remaining()
        self.runs[name] = self.runs.get(name, 0) + 1
        self.begun.add(name)

    def _end(self, name: str, how: str) -> None:
        # One clock for all processes of a host.
        self.ends[name] = (how, time.monotonic())

    async def pass_on(self, name: str, path: list[bigmachine.Machine], method: str) -> str:
        """Call the rest of the path; at its end wait for ever."""
        self._begin(name)
        try:
            if path:
                result: str = await path[0].submit(f"Relay.{method}", name, path[1:], method)
                return result
            await asyncio.sleep(60)
        except BaseException as error:
            self._end(name, type(error).__name__)
            raise
        return "the end"

    def pass_on_plainly(self, name: str, path: list[bigmachine.Machine], method: str) -> str:
        """The same in a thread; at the end of the path look now and then whether it is still wanted."""
        self._begin(name)
        try:
            if path:
                result: str = path[0].call(f"Relay.{method}", name, path[1:], method)
                return result
            call = bigmachine.current_call()
            while not call.cancelled():
                time.sleep(0.002)
        except BaseException as error:
            self._end(name, type(error).__name__)
            raise
        self._end(name, "seen")
        time.sleep(0.5)  # or this might come before its callers have noticed that their time is up
        return "the end"

    def count_up(self, name: str, path: list[bigmachine.Machine], method: str) -> Iterator[int]:
        """The same as a stream: what the next one gives, at the end of the path a number now and then."""
        self._begin(name)
        try:
            if path:
                yield from path[0].call(f"Relay.{method}", name, path[1:], method)
            else:
                for number in range(100_000):
                    yield number
                    time.sleep(0.002)
        finally:
            self._end(name, "closed")

    async def has_begun(self, name: str) -> bool:
        return name in self.begun

    async def end_of(self, name: str) -> tuple[str, float] | None:
        """Tell how the call of this name ended here, and when."""
        return self.ends.get(name)

    async def left_for(self, name: str) -> float | None:
        """Tell how much time the call of this name had when it began here."""
        return self.left.get(name)

    async def runs_of(self, name: str) -> int:
        """Tell how often the call of this name was run here."""
        return self.runs.get(name, 0)


class Once:
    """Counts how often it really ran."""

    def __init__(self) -> None:
        self.runs: dict[str, int] = {}
        self.gates: dict[str, threading.Event] = {}

    def _gate(self, name: str) -> threading.Event:
        return self.gates.setdefault(name, threading.Event())

    def run(self, name: str) -> int:
        """Run until `let_go`; gives how often this has been run."""
        self.runs[name] = self.runs.get(name, 0) + 1
        assert self._gate(name).wait(30)
        return self.runs[name]

    async def run_async(self, name: str) -> int:
        """The same on the event loop."""
        self.runs[name] = self.runs.get(name, 0) + 1
        while not self._gate(name).is_set():  # noqa: ASYNC110 (one event for threads and tasks)
            await asyncio.sleep(0.002)
        return self.runs[name]

    def numbers(self, name: str) -> Iterator[int]:
        self.runs[name] = self.runs.get(name, 0) + 1
        for number in range(100_000):
            yield number
            time.sleep(0.002)

    async def let_go(self, name: str) -> None:
        self._gate(name).set()

    async def runs_of(self, name: str) -> int:
        return self.runs.get(name, 0)

    async def call_and_cut(self, other: bigmachine.Machine, name: str) -> str:
        """Call another machine, cut the connection in the middle of it, and tell what came of it."""
        call = other.submit(Once.run_async, name)
        while not await other.submit(Once.runs_of, name):  # noqa: ASYNC110 (it is on another machine)
            await asyncio.sleep(0.002)
        connection = other._program.main
        assert connection is not None
        connection.abort()
        try:
            await call
        except bigmachine.NetworkError as error:
            return type(error).__name__
        return "no error"


class Hoarder:
    """Uses up a machine's file descriptors."""

    def __init__(self) -> None:
        self._files: list[int] = []

    def take_all(self, left: int = 0) -> int:
        """Open files until no more can be opened, or `left` more."""
        try:
            while True:
                self._files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            for _ in range(left):
                os.close(self._files.pop())
            return len(self._files)

    def give_back(self) -> None:
        while self._files:
            os.close(self._files.pop())
