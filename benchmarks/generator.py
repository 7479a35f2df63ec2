"""Items of a generator stream: ints that a method yields."""

from __future__ import annotations

import asyncio
import time

import floors
import measure
from measure import Goal, Options, Row
from target import Target

import bigmachine


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    (machine,) = session.start(1, services={"Target": Target()})
    machine.call(Target.pin, measure.MACHINE)
    measure.pin(measure.DRIVER)
    n = options.pick(50_000, 300_000)

    def in_thread() -> list[float]:
        begin = time.perf_counter()
        for _ in machine.call(Target.count, n):
            pass
        return [n / (time.perf_counter() - begin)]

    async def in_loop() -> list[float]:
        begin = time.perf_counter()
        async for _ in await machine.submit(Target.count_async, n):
            pass
        return [n / (time.perf_counter() - begin)]

    with floors.Floor() as floor, asyncio.Runner() as runner:
        stats = measure.take_turns(
            options.pick(3, 7),
            floor=lambda: [floor.items(n)],
            plain=in_thread,
            both_async=lambda: runner.run(in_loop()),
        )
    goal = Goal("median", 300_000, at_least=True)
    return [
        Row("generator, read by a thread", "/s", stats["plain"], floors.ITEMS, stats["floor"], (goal,)),
        Row("async generator, read by an event loop", "/s", stats["both_async"], floors.ITEMS, stats["floor"], (goal,)),
    ]


if __name__ == "__main__":
    measure.run_in_session(figures)
