"""What the suite installs on machines. They load this, so it must not need pytest."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import bigmachine


class Probe:
    """Answers questions about where it is, and does as it is told."""

    def __init__(self, word: str = "probe") -> None:
        self.word = word
        self.is_ready = False
        self.is_driver: bool | None = None
        self.cancelled = 0
        self._meeting = threading.Barrier(2)

    def __getstate__(self) -> dict[str, object]:
        return {"word": self.word}  # a barrier does not travel

    def __setstate__(self, state: dict[str, str]) -> None:
        Probe.__init__(self, state["word"])

    def init(self, session: bigmachine.Session) -> None:
        """Be installed: a program's machines run only after that."""
        self.is_driver = session.is_driver
        self.is_ready = True

    def facts(self) -> dict[str, object]:
        """Tell what it knows of itself."""
        return {"word": self.word, "is_ready": self.is_ready, "is_driver": self.is_driver, "pid": os.getpid()}

    def environ(self, name: str) -> str | None:
        """Give a variable of the machine's environment."""
        return os.environ.get(name)

    def args(self) -> list[str]:
        """Give the machine's command line, without the program."""
        return sys.argv[1:]

    def same(self, value: object = None) -> object:
        """Give back what it gets."""
        return value

    async def same_async(self, value: object = None) -> object:
        """Give back what it gets, on the event loop."""
        return value

    def fail(self, text: str) -> None:
        """Raise an exception that only this module has."""
        raise OddError(text, 7)

    def meet(self) -> bool:
        """Return once it is called twice at the same time."""
        self._meeting.wait(30)
        return True

    def count(self, n: int) -> Iterator[int]:
        """Stream numbers."""
        yield from range(n)

    async def linger(self, seconds: float) -> None:
        """Wait, and note if the caller gives up."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def times_cancelled(self) -> int:
        """Tell how often a caller gave up."""
        return self.cancelled

    def wait(self, seconds: float) -> None:
        """Wait in a thread. One that nobody waits for any more is in no hurry, so that its caller gives up first."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not bigmachine.current_call().cancelled():
            time.sleep(0.01)
        if time.monotonic() < end:
            time.sleep(0.5)

    def remaining(self) -> float | None:
        """Tell how much time the call has left."""
        return bigmachine.current_call().remaining()

    def caller(self) -> str:
        """Tell who calls."""
        return bigmachine.current_call().caller

    def ask(self, machine: bigmachine.Machine, value: object) -> object:
        """Call another machine."""
        return machine.call(Probe.same, value)

    def ask_caller(self, machine: bigmachine.Machine) -> str:
        """Have another machine tell who calls it."""
        return machine.call(Probe.caller)

    def ask_by_address(self, address: str, value: object) -> object:
        """Call another machine that is only known by its address."""
        return bigmachine.current_call().session.dial(address).call(Probe.same, value)

    def is_owned(self, machine: bigmachine.Machine) -> bool:
        """Tell whether a handle owns its machine here."""
        return machine.owned

    def start_another(self) -> None:
        """Try what only a driver may do."""
        bigmachine.current_call().session.start(services=[Probe()])

    def write(self, text: str) -> None:
        """Write on standard output, without an end of line."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def kill_itself(self) -> None:
        """Die as by `kill -9`."""
        os.kill(os.getpid(), signal.SIGKILL)


class OddError(Exception):
    """Known to this module only."""


class Unready:
    """Its `init` raises."""

    def init(self, session: object) -> None:
        """Raise."""
        raise OddError("not ready", 7)


class Unknown:
    """Can be pickled, and not be rebuilt on a machine."""

    def __reduce__(self) -> tuple[object, ...]:
        return (_cannot_be_found, ())


def _cannot_be_found() -> None:
    raise ModuleNotFoundError("No module named 'only_on_the_driver'")
