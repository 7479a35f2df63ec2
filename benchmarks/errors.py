"""A call directly after one that failed: by the method's own exception, or by its deadline.

Whatever comes after a pause costs more: the other end has gone to sleep meanwhile, and caches have gone cold. So the
floor of each row is the same call after one that went well and took as long: for an error, which takes the caller a
while to rebuild, with something computed behind it.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable

import measure
from measure import Goal, Options, Row
from target import Target

import bigmachine

_AS_LONG = "the same call after one that went well and took as long"
_DEADLINE = 0.005


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    (machine,) = session.start(1, services={"Target": Target()})
    machine.call(Target.pin, measure.MACHINE)
    measure.pin(measure.DRIVER)
    n = options.pick(40, 200)
    otherwise: Counter[str] = Counter()

    failures: list[float] = []

    def fail() -> None:
        begin = time.perf_counter()
        with contextlib.suppress(ValueError):
            machine.call(Target.fail)
        failures.append(time.perf_counter() - begin)

    def succeed_as_long() -> None:
        begin = time.perf_counter()
        machine.call(Target.echo, 1)
        end = begin + (statistics.median(failures) if failures else 0.0)
        while time.perf_counter() < end:
            pass

    def miss(method: Callable[[Target, float], object]) -> None:
        try:
            with bigmachine.deadline(_DEADLINE):
                machine.call(method, 0.05)
        except bigmachine.DeadlineExceeded:
            pass
        except bigmachine.BigmachineError as exc:
            otherwise[type(exc).__name__] += 1

    def after(upset: Callable[[], object]) -> list[float]:
        samples = []
        for _ in range(n):
            upset()
            begin = time.perf_counter()
            machine.call(Target.echo, 1)
            samples.append(time.perf_counter() - begin)
        return samples

    stats = measure.take_turns(
        options.pick(2, 4),
        error=lambda: after(fail),
        floor=lambda: after(succeed_as_long),
        floor_deadline=lambda: after(lambda: machine.call(Target.sleep_async, _DEADLINE)),
        deadline=lambda: after(lambda: miss(Target.sleep_async)),
        floor_deadline_plain=lambda: after(lambda: machine.call(Target.sleep, _DEADLINE)),
        deadline_plain=lambda: after(lambda: miss(Target.sleep)),
    )
    # What any call costs, with what a busy computer adds to one figure and not to the other.
    goal = Goal("ratio", 1.25)
    note = f"deadlines that came as another error: {dict(otherwise)}" if otherwise else ""
    return [
        Row("after an application error", "s", stats["error"], _AS_LONG, stats["floor"], (goal,)),
        *(
            Row(name, "s", stats[key], _AS_LONG, stats[f"floor_{key}"], (goal,), note=note if key == "deadline" else "")
            for name, key in (
                ("after a deadline", "deadline"),
                ("after a deadline, plain method, still asleep", "deadline_plain"),
            )
        ),
    ]


if __name__ == "__main__":
    measure.run_in_session(figures)
