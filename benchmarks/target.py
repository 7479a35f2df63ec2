"""The service that the benchmarks call."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, BinaryIO

import measure

from bigmachine import Machine


class Target:
    """Everything that is measured on a machine."""

    def __init__(self) -> None:
        self._block: Any = None
        self._data = b""

    def pin(self, core: int) -> None:
        """Keep the machine's process on one core."""
        measure.pin(core)

    def pid(self) -> int:
        return os.getpid()

    def cpu_time(self) -> float:
        """Return the CPU time that the machine's process has used, in seconds."""
        return time.process_time()

    # small calls

    def echo(self, value: int) -> int:
        return value

    async def echo_async(self, value: int) -> int:
        return value

    def fail(self) -> None:
        """Raise what a method may raise."""
        raise ValueError("as it was asked to")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # from machine to machine

    async def time_calls(self, other: Machine, n: int) -> list[float]:
        """Time calls of another machine's async method."""
        return await measure.timed_async(lambda: other.submit(Target.echo_async, 1), n)

    def time_sync_calls(self, other: Machine, n: int) -> list[float]:
        """Time calls of another machine's plain method for which this one waits."""
        return measure.timed(lambda: other.call(Target.echo, 1), n)

    async def keep_in_flight(self, other: Machine, callers: int, total: int) -> float:
        """Measure the rate of calls of another machine."""
        return await measure.keep_in_flight(lambda: other.submit(Target.echo_async, 1), callers, total)

    # large values

    def take(self, array: Any) -> int:
        """Receive an array."""
        return int(array.nbytes)

    def give(self, size: int) -> Any:
        """Return an array, the same each time."""
        import numpy as np

        if self._block is None or self._block.nbytes != size:
            self._block = np.ones(size, np.uint8)
        return self._block

    # streams

    def drain(self, file: BinaryIO) -> int:
        """Read a file to its end."""
        size = 0
        while piece := file.read(measure.MEBIBYTE):
            size += len(piece)
        return size

    def pour(self, size: int) -> BinaryIO:
        """Return a file of so many bytes; making it copies nothing."""
        if len(self._data) != size:
            self._data = bytes(size)
        return io.BytesIO(self._data)

    def count(self, n: int) -> Iterator[int]:
        """Yield ints."""
        yield from range(n)

    async def count_async(self, n: int) -> AsyncIterator[int]:
        """Yield ints from the event loop."""
        for i in range(n):
            yield i
