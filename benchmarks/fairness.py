"""Small calls while 64 MiB arrays go to the same machine and come back."""

from __future__ import annotations

import asyncio
import time

import floors
import measure
import numpy as np
from measure import Goal, Options, Row, Stat
from target import Target

import bigmachine

SIZE = 64 * measure.MEBIBYTE


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    (machine,) = session.start(1, services={"Target": Target()})
    machine.call(Target.pin, measure.MACHINE)
    measure.pin(measure.DRIVER)
    seconds = options.pick(2, 10)
    array = np.ones(SIZE, np.uint8)
    rates: dict[str, tuple[float, float]] = {}
    stats: dict[str, Stat] = {}
    with asyncio.Runner() as runner, floors.Floor(beside=True) as floor:

        def awaits(limit: float) -> list[float]:
            end = time.perf_counter() + limit
            samples = []
            while time.perf_counter() < end:
                samples += runner.run(measure.timed_async(lambda: machine.submit(Target.echo_async, 1), 10))
            return samples

        def calls(limit: float) -> list[float]:
            end = time.perf_counter() + limit
            samples = []
            while time.perf_counter() < end:
                samples += measure.timed(lambda: machine.call(Target.echo, 1), 10)
            return samples

        def pings(limit: float) -> list[float]:
            end = time.perf_counter() + limit
            samples = []
            while time.perf_counter() < end:
                samples += floor.ping(10)
            return samples

        def arrays() -> floors.Traffic:
            up, down = (lambda: machine.call(Target.take, array)), (lambda: machine.call(Target.give, SIZE))
            return floors.Traffic(up, down, SIZE)

        for name, subject, begin in (
            ("await", awaits, arrays),
            ("call", calls, arrays),
            ("floor", pings, floor.traffic),
        ):
            subject(0.2)
            stats[f"{name}_idle"] = Stat.of(subject(seconds / 4))
            traffic = begin()
            try:
                subject(0.2)
                stats[name] = Stat.of(subject(seconds))
            finally:
                rates[name] = traffic.end()
    return rows(stats, rates, machine.keepalive_reply_times())


def rows(stats: dict[str, Stat], rates: dict[str, tuple[float, float]], keepalives: list[float]) -> list[Row]:
    """Say what each figure is, and what it should be."""
    made = []
    floor = stats["floor"]
    for key, name in (("await", "await submit, async def method"), ("call", "sync call, plain method")):
        busy, idle = stats[key], stats[f"{key}_idle"]
        note = f"while nothing else goes on {measure.show(idle.median, 's')}, p99 {measure.show(idle.p99, 's')}"
        made.append(Row(f"{name}, p50", "s", busy, floors.BESIDE, floor, (Goal("median", 0.5e-3),), note=note))
        tails = [Stat(stat.n, stat.p99, stat.p99, stat.p99, stat.p99) for stat in (busy, floor)]
        made.append(Row(f"{name}, p99", "s", tails[0], floors.BESIDE, tails[1], (Goal("median", 2e-3),)))
    for index, way in enumerate(("up", "down")):
        ours = Stat.of([rates[key][index] for key in ("await", "call")])
        made.append(Row(f"arrays {way} meanwhile", "B/s", ours, floors.BESIDE, Stat.of([rates["floor"][index]])))
    if keepalives:
        made.append(
            Row("keepalives meanwhile", "s", Stat.of(keepalives), note="late would be seconds: one is due each 2 s")
        )
    return made


if __name__ == "__main__":
    measure.run_in_session(figures)
