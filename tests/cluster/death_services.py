"""A service that ends its machine in every way that a machine can end, and one that fills its memory."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import NoReturn

import bigmachine

#: A grandchild that nothing about it gives away: a session of its own, an orphan, and an empty environment.
RECLUSE = """
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
os.write(1, str(os.getpid()).encode() + b"\\n")
os.closerange(0, 3)
os.execve(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(600)"], {})
"""


class Mortal:
    """Ends its machine."""

    def pid(self) -> int:
        return os.getpid()

    def leave(self, status: int) -> NoReturn:
        print("these are the last words", flush=True)
        os._exit(status)

    def send(self, number: int) -> None:
        for line in range(150):
            print(f"line {line}", flush=True)
        os.kill(os.getpid(), number)
        time.sleep(60)

    def segfault(self) -> None:
        ctypes.string_at(0)

    def abort(self) -> None:
        os.abort()

    def bus_error(self) -> None:
        with tempfile.TemporaryFile() as file:
            file.truncate(1 << 16)
            view = mmap.mmap(file.fileno(), 1 << 16)
            file.truncate(0)
            view[5000] = 1

    def use_cpu(self, seconds: int) -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 60))
        while True:
            pass

    def lose_main_thread(self) -> None:
        threading.Thread(target=lambda: 1 / 0).start()

    def limit_and_fill(self, size: int) -> None:
        """Fill the memory up to a limit by setrlimit(2), and end as a program does that did not ask."""
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115 (one line)
        resource.setrlimit(resource.RLIMIT_AS, (used + size,) * 2)
        try:
            bytearray(2 * size)
        except MemoryError:
            sys.excepthook(*sys.exc_info())
            os.abort()

    def nap(self, seconds: float) -> str:
        time.sleep(seconds)
        return "rested"

    def start_recluse(self) -> int:
        """Start a process that has left everything behind by which it could be found; returns its pid."""
        started = subprocess.run([sys.executable, "-S", "-c", RECLUSE], stdout=subprocess.PIPE, check=True)
        return int(started.stdout)

    def start_fork(self) -> int:
        """Fork, as multiprocessing does, into a session of its own."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.write(write, b"x")
            time.sleep(600)
            os._exit(0)
        os.read(read, 1)
        return pid

    async def block(self, how: str) -> None:
        """Stop the event loop."""
        if how == "lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        else:
            time.sleep(600)  # noqa: ASYNC251 (that is the point)

    def hold_asleep(self, seconds: int) -> str:
        """Wait in C, with the interpreter held."""
        ctypes.PyDLL(None).sleep(seconds)
        return "awake"

    def hold_busy(self, seconds: float) -> str:
        """Work in C, with the interpreter held: pieces of it without a look at anything else, a second or so each."""
        sys.set_int_max_str_digits(0)
        number = 7**350_000
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            str(number)
        return "done"


class Filler:
    """Fills its memory, in a control group of its own if it is given one."""

    def __init__(self) -> None:
        self._kept: list[bytearray] = []

    def move(self, group: str) -> None:
        with open(os.path.join(group, "cgroup.procs"), "w") as file:
            file.write(str(os.getpid()))

    def fill(self, size: int, pause: float = 0.0) -> int:
        """Take `size` bytes, a mebibyte at a time; 0: until it is killed, or has a gibibyte if nothing bounds it."""
        while len(self._kept) < (size or 1 << 30) >> 20:
            self._kept.append(bytearray(1 << 20))
            time.sleep(pause)
        return len(self._kept)

    async def fill_and_block(self, size: int) -> None:
        """Take `size` bytes, and stop the event loop."""
        self._kept.append(bytearray(b"x") * size)
        time.sleep(600)  # noqa: ASYNC251 (that is the point)

    def empty(self) -> None:
        """Let go of all, and have the allocator give it back: it keeps pages for as long as it sees fit."""
        self._kept.clear()
        with contextlib.suppress(AttributeError):  # it is glibc's
            ctypes.CDLL(None).malloc_trim(0)


class BadInit:
    """Runs out of memory in its init."""

    def init(self, session: bigmachine.Session) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        bytearray(4 << 30)

    def ready(self) -> None: ...


class KilledInit:
    """Is killed in its init."""

    def init(self, session: bigmachine.Session) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def ready(self) -> None: ...
