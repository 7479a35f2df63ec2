"""What the machines of the chaos test carry: methods of every kind, and ways to die."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator

from bigmachine import Machine

#: So often the `init` of a `Moody` service raises.
MOODY = 0.15


class Refused(Exception):
    """What a method raises on purpose."""


class Target:
    """The service that everything is done to."""

    def echo(self, value: object) -> object:
        return value

    async def echo_async(self, value: object) -> object:
        return value

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    async def sleep_async(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    def relay(self, other: Machine, value: object) -> object:
        return other.call(Target.echo, value)

    async def relay_async(self, other: Machine, value: object) -> object:
        return await other.submit(Target.echo_async, value)

    def refuse(self, what: str) -> None:
        raise Refused(what)

    def count(self, n: int, pause: float) -> Iterator[int]:
        for i in range(n):
            yield i
            if pause:
                time.sleep(pause)

    async def count_async(self, n: int, pause: float) -> AsyncIterator[int]:
        for i in range(n):
            yield i
            await asyncio.sleep(pause)

    def total(self, numbers: Iterable[int]) -> int:
        return sum(numbers)

    async def doubled(self, numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number

    def die(self, how: str) -> None:
        if how == "exit":
            os._exit(7)
        elif how == "segfault":
            ctypes.string_at(0)
        elif how == "abort":
            os.abort()
        elif how == "term":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)


class Moody:
    """A service whose `init` fails on some machines."""

    async def init(self, session: object) -> None:
        chance = random.random()
        await asyncio.sleep(chance / 20)
        if chance < MOODY:
            raise Refused("not on this machine")
