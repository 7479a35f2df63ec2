"""Sessions inside the test's own process, with services to call; and what must be left of them: nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import bigmachine
from bigmachine.session import Session
from bigmachine.system import Keepalive
from bigmachine.systems.inprocess import InprocessSystem

#: Clocks that a test need not wait for.
QUICK = Keepalive(interval=0.02, timeout=0.5, lease=0.3)


class Echo:
    """Does what it is told."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __reduce__(self) -> tuple[object, ...]:
        return (Echo, ())  # events do not travel

    def same(self, value: object = None) -> object:
        self.calls += 1
        return value

    async def same_async(self, value: object = None) -> object:
        return value

    def fail(self, error: Exception) -> None:
        raise error

    def wait(self) -> bool:
        """Wait until the test lets it end."""
        self.begun.set()
        return self.may_end.wait(10)

    async def sleep(self, seconds: float) -> None:
        self.begun.set()
        await asyncio.sleep(seconds)

    def caller(self) -> str:
        return bigmachine.current_call().caller

    def ask(self, machine: bigmachine.Machine, value: object) -> object:
        return machine.call(Echo.same, value)

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)


@contextmanager
def inside(system: InprocessSystem | None = None, name: str = "") -> Iterator[tuple[InprocessSystem, Session]]:
    """Give a system and its session; afterwards no thread of it may be left."""
    before = set(threading.enumerate())
    system = system or InprocessSystem()
    session = bigmachine.start(system, name=name)
    try:
        yield system, session
    finally:
        session.shutdown()
    eventually(lambda: not new_threads(before), f"threads are left: {new_threads(before)}")


def new_threads(before: set[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread not in before]


def eventually(condition: Callable[[], object], claim: str, timeout: float = 5.0) -> None:
    """Wait until a condition holds, and fail with `claim` if it does not within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, claim
        time.sleep(0.002)


def echo_of(system: InprocessSystem, number: int = 0) -> Echo:
    """Return the service object on a machine, to look at and to let its methods end."""
    service = system.machines()[number].service("Echo")
    assert isinstance(service, Echo)
    return service
