"""Services for the HTTP tests to call."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import threading
from collections.abc import AsyncIterator, Iterator
from typing import BinaryIO, NoReturn

from bigmachine.errors import InvalidCall
from bigmachine.rpc import current_call


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Sink:
    """Remembers what the methods saw, across threads."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.produced = 0
        self.closed = threading.Event()
        self.running = 0


class Demo:
    """A bit of everything."""

    def __init__(self) -> None:
        self.sink = Sink()
        self.gate = threading.Event()

    def echo(self, value: object) -> object:
        return value

    def add(self, a: int, b: int = 0) -> int:
        return a + b

    def nothing(self) -> None: ...

    def secret(self) -> str:
        return "42"

    def point(self) -> Point:
        return Point(1, 2)

    def opaque(self) -> object:
        return object()

    def size(self, value: str) -> int:
        return len(value)

    def zeros(self, count: int) -> str:
        return "0" * count

    def remaining(self) -> float | None:
        return current_call().remaining()

    def fail(self, message: str) -> NoReturn:
        raise LookupError(message)

    def calls_wrongly(self) -> NoReturn:
        raise InvalidCall("this method called another machine with bad arguments")

    def exits(self) -> NoReturn:
        raise SystemExit(3)

    async def exits_async(self) -> NoReturn:
        raise SystemExit(3)

    async def cancels_itself(self) -> NoReturn:
        raise asyncio.CancelledError

    async def wait(self) -> None:
        """Wait until it is cancelled."""
        self.sink.running += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.sink.cancelled += 1
            raise
        finally:
            self.sink.running -= 1

    async def nap(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    def count(self, to: int) -> Iterator[int]:
        try:
            for number in range(to):
                self.sink.produced = number + 1
                yield number
        finally:
            self.sink.closed.set()

    async def count_async(self, to: int) -> AsyncIterator[int]:
        try:
            for number in range(to):
                self.sink.produced = number + 1
                yield number
        finally:
            self.sink.closed.set()

    def blocks(self) -> Iterator[int]:
        """One item, then none until the gate opens."""
        try:
            yield 1
            self.gate.wait(30)
            yield 2
        finally:
            self.sink.closed.set()

    async def drips(self) -> AsyncIterator[int]:
        """One item, then none."""
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            self.sink.closed.set()

    def breaks(self) -> Iterator[int]:
        yield 1
        yield 2
        raise LookupError("in the middle")

    async def breaks_async(self) -> AsyncIterator[int]:
        yield 1
        yield 2
        raise LookupError("in the middle")

    def opaque_items(self) -> Iterator[object]:
        yield 1
        yield object()

    def lines(self, count: int, width: int) -> Iterator[str]:
        try:
            for number in range(count):
                self.sink.produced = number + 1
                yield "x" * width
        finally:
            self.sink.closed.set()

    def file(self, size: int) -> BinaryIO:
        return io.BytesIO(bytes(range(256)) * (size // 256))

    def broken_file(self) -> BinaryIO:
        return _Broken()


class _Broken(io.BytesIO):
    """A file whose disk fails after the first piece."""

    def __init__(self) -> None:
        super().__init__(b"good")

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        if not piece:
            raise OSError(5, "Input/output error")
        return piece
