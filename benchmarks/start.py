"""Five local machines: from the start of the driver's process to their first results, and to a clean end."""

from __future__ import annotations

import subprocess
import sys

import measure
from measure import Goal, Options, Row
from program import FIVE_MACHINES, FORKSERVER, Program

_FLOOR = "the same with five processes of multiprocessing's forkserver, pipes instead of TLS"
_INTERPRETER = "python -c pass"


def figures(options: Options) -> list[Row]:
    n = options.pick(4, 15)
    ended: dict[str, list[float]] = {"machines": [], "forkserver": []}

    def start(name: str, command: tuple[str, ...]) -> list[float]:
        program = Program(*command)
        ended[name].append(program.end())
        return [program.ready_after]

    stats = measure.take_turns(
        n,
        interpreter=lambda: measure.timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)),
        forkserver=lambda: start("forkserver", FORKSERVER),
        machines=lambda: start("machines", FIVE_MACHINES),
    )
    ends = {name: measure.Stat.of(samples[1:]) for name, samples in ended.items()}
    return [
        Row("start to first results", "s", stats["machines"], _FLOOR, stats["forkserver"], (Goal("median", 0.45),)),
        Row("clean shutdown", "s", ends["machines"], _FLOOR, ends["forkserver"], (Goal("median", 0.2),)),
        Row("an interpreter alone", "s", stats["interpreter"], note=_INTERPRETER),
    ]


if __name__ == "__main__":
    measure.run(figures)
