"""What the tests of waiting callers put on machines; importable there without a test runner."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Iterator

from bigmachine import Machine, current_call


class Waited:
    """Methods of every kind, and what became of their callers."""

    def __init__(self) -> None:
        self.begun = 0
        self.told: list[str] = []

    def where(self) -> str:
        """Name the thread that runs this."""
        return threading.current_thread().name

    async def where_async(self) -> str:
        return threading.current_thread().name

    def size(self, n: int) -> bytes:
        return bytes(n)

    def which(self) -> int:
        """Give the number of the thread that runs this."""
        return threading.get_ident()

    def which_and_much(self, n: int) -> tuple[int, bytes]:
        """Give the number of the thread that runs this, beside so many bytes."""
        return threading.get_ident(), bytes(n)

    def take(self, data: bytes) -> int:
        return len(data)

    def fail(self, text: str) -> None:
        raise KeyError(text)

    def count(self, n: int) -> Iterator[int]:
        yield from range(n)

    async def count_async(self, n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    def hold(self, limit: float) -> None:
        """Go on until nobody waits any more."""
        self.begun += 1
        end = time.monotonic() + limit
        while not current_call().cancelled() and time.monotonic() < end:
            time.sleep(0.001)
        self.told.append("hold" if current_call().cancelled() else "held out")

    def hold_there(self, machine: Machine, limit: float) -> None:
        """Have another machine hold."""
        self.begun += 1
        try:
            machine.call(Waited.hold, limit)
        except BaseException as exc:
            self.told.append(type(exc).__name__)
            raise

    def ask(self, machine: Machine) -> str:
        """Ask another machine."""
        return machine.call(Waited.where)

    async def seen(self) -> tuple[int, list[str]]:
        return self.begun, self.told
