"""Small calls, many at once: 64 and 1000 in flight.

From an event loop (so many coroutines that each await call after call), from 64 threads (each in a sync call), and
from one machine to another. The method is `async def`, or plain where it says so.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import floors
import measure
import peers
from measure import Goal, Options, Row, Stat
from target import Target

import bigmachine


def from_threads(machine: bigmachine.Machine, callers: int, total: int) -> float:
    """Have so many threads call; return the calls a second."""
    each = total // callers
    ready = threading.Barrier(callers + 1)

    def caller() -> None:
        ready.wait()
        for _ in range(each):
            machine.call(Target.echo_async, 1)

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    for thread in threads:
        thread.start()
    ready.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return each * callers / (time.perf_counter() - begin)


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    here, there = session.start(2, services={"Target": Target()})
    there.call(Target.pin, measure.MACHINE)
    here.call(Target.pin, measure.DRIVER)
    measure.pin(measure.DRIVER)
    n, rounds = options.pick(6_400, 32_000), options.pick(3, 7)
    costs: dict[str, tuple[float, float]] = {}

    def costed(key: str, measured: Callable[[], float]) -> Callable[[], list[float]]:
        """Note what a call takes of both processors: that is the same on a busy computer."""

        def turn() -> list[float]:
            before = time.process_time(), there.call(Target.cpu_time)
            rate = measured()
            after = time.process_time(), there.call(Target.cpu_time)
            costs[key] = (after[0] - before[0]) / n, (after[1] - before[1]) / n
            return [rate]

        return turn

    with floors.Floor() as floor, asyncio.Runner() as runner, peers.Peers(options.peers) as others:

        def awaits(method: object, callers: int) -> Callable[[], float]:
            return lambda: runner.run(measure.keep_in_flight(lambda: there.submit(method, 1), callers, n))

        stats = measure.take_turns(
            rounds,
            floor_64=lambda: [floor.echo(64, n)],
            floor_1000=lambda: [floor.echo(1000, n)],
            async_64=costed("async_64", awaits(Target.echo_async, 64)),
            async_1000=costed("async_1000", awaits(Target.echo_async, 1000)),
            plain_64=costed("plain_64", awaits(Target.echo, 64)),
            threads_64=costed("threads_64", lambda: from_threads(there, 64, n)),
            machine_64=lambda: [here.call(Target.keep_in_flight, there, 64, n)],
            **others.subjects(lambda peer: [peer.in_flight(64, n // 3)], "64"),
            **others.subjects(lambda peer: [peer.in_flight(1000, n // 3)], "1000"),
        )
        beside = {k: others.beside(stats, str(k)) for k in (64, 1000)}

    def row(name: str, key: str, *goals: Goal, others: dict[str, Stat | str] | None = None) -> Row:
        floor = stats["floor_1000" if key.endswith("1000") else "floor_64"]
        note = ""
        if key in costs:
            driver, machine = (measure.show(cost, "s") for cost in costs[key])
            note = f"CPU time of a call: driver {driver}, machine {machine}"
        return Row(name, "/s", stats[key], floors.ECHO, floor, goals, others or {}, note)

    fast, first = Goal("median", 180_000, at_least=True), Goal("median", 60_000, at_least=True)
    return [
        row("64 in flight, async", "async_64", first, fast, others=beside[64]),
        row("1000 in flight, async", "async_1000", others=beside[1000]),
        row("64 in flight, async, plain method", "plain_64"),
        row("64 threads in sync calls", "threads_64", Goal("median", 90_000, at_least=True)),
        row("64 in flight, machine to machine", "machine_64", fast),
    ]


if __name__ == "__main__":
    measure.run_in_session(figures)
