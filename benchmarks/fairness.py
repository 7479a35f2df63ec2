"""Small calls while 64 MiB arrays go to the same machine and come back."""

from __future__ import annotations

import asyncio
import threading
import time

import measure
import numpy as np
from measure import Goal, Options, Row, Stat
from target import Target

import bigmachine

SIZE = 64 * measure.MEBIBYTE
_IDLE = "the same calls while nothing else goes on"


class Traffic:
    """Arrays that go back and forth, from a thread each way."""

    def __init__(self, machine: bigmachine.Machine) -> None:
        array = np.ones(SIZE, np.uint8)
        ways = (lambda: machine.call(Target.take, array), lambda: machine.call(Target.give, SIZE))
        self._is_ended = False
        self._count = [0, 0]
        self._threads = [threading.Thread(target=self._go, args=(i, way)) for i, way in enumerate(ways)]
        self._begin = time.perf_counter()
        for thread in self._threads:
            thread.start()

    def _go(self, number: int, way: object) -> None:
        while not self._is_ended:
            way()  # type: ignore[operator]  # a function without arguments
            self._count[number] += 1

    def end(self) -> tuple[float, float]:
        """Stop; return bytes a second, up and down."""
        self._is_ended = True
        for thread in self._threads:
            thread.join()
        took = time.perf_counter() - self._begin
        up, down = (count * SIZE / took for count in self._count)
        return up, down


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    (machine,) = session.start(1, services={"Target": Target()})
    machine.call(Target.pin, measure.MACHINE)
    measure.pin(measure.DRIVER)
    seconds = options.pick(2, 10)
    rates: list[tuple[float, float]] = []
    stats: dict[str, Stat] = {}
    with asyncio.Runner() as runner:

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

        for name, subject in (("await", awaits), ("call", calls)):
            subject(0.2)
            stats[f"{name}_idle"] = Stat.of(subject(seconds / 4))
            traffic = Traffic(machine)
            try:
                subject(0.2)
                stats[name] = Stat.of(subject(seconds))
            finally:
                rates.append(traffic.end())
    return rows(stats, rates, machine.keepalive_reply_times())


def rows(stats: dict[str, Stat], rates: list[tuple[float, float]], keepalives: list[float]) -> list[Row]:
    """Say what each figure is, and what it should be."""
    made = []
    for key, name in (("await", "await submit, async def method"), ("call", "sync call, plain method")):
        idle, busy = stats[f"{key}_idle"], stats[key]
        p99 = [Stat(stat.n, stat.p99, stat.p99, stat.p99, stat.p99) for stat in (busy, idle)]
        made.append(Row(f"{name}, p50", "s", busy, _IDLE, idle, (Goal("median", 0.5e-3),)))
        made.append(Row(f"{name}, p99", "s", p99[0], _IDLE, p99[1], (Goal("median", 2e-3),)))
    for way, both in zip(("up", "down"), zip(*rates, strict=True), strict=True):
        made.append(Row(f"arrays {way} meanwhile", "B/s", Stat.of(both)))
    if keepalives:
        made.append(
            Row("keepalives meanwhile", "s", Stat.of(keepalives), note="late would be seconds: one is due each 2 s")
        )
    return made


if __name__ == "__main__":
    measure.run_in_session(figures)
