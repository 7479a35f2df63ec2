"""Five local machines: from the start of the driver's process to their first results, and to a clean end.

Beside it the same by execnet and, where they are installed, Monarch; and with NumPy at the top of the program, by
machines that share its import and by machines that cannot (each is spawned).
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import measure
from measure import Goal, Options, Row, Stat
from program import EXECNET, FIVE_MACHINES, FORKSERVER, MONARCH, NUMPY_FORKED, NUMPY_SPAWNED, Program

_FLOOR = "the same with five processes of multiprocessing's forkserver, pipes instead of TLS"
_SPAWNED = "the same, but each machine is a new interpreter"
_INTERPRETER = "python -c pass"
_PEERS = {"execnet": ("execnet", EXECNET), "Monarch": ("monarch", MONARCH)}


def figures(options: Options) -> list[Row]:
    n = options.pick(4, 15)
    ended: dict[str, list[float]] = {}

    def start(name: str, command: tuple[str, ...]) -> list[float]:
        program = Program(*command)
        ended.setdefault(name, []).append(program.end())
        return [program.ready_after]

    commands = {"forkserver": FORKSERVER, "machines": FIVE_MACHINES}
    missing: dict[str, Stat | str] = {}
    for name, (module, command) in _PEERS.items():
        if not options.peers or find_spec(module) is None:
            missing[name] = "not installed" if options.peers else "left out"
        else:
            commands[name] = command
    if find_spec("numpy") is not None:
        commands |= {"numpy": NUMPY_FORKED, "numpy spawned": NUMPY_SPAWNED}
    stats = measure.take_turns(
        n,
        interpreter=lambda: measure.timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)),
        **{name: (lambda name=name, command=command: start(name, command)) for name, command in commands.items()},
    )
    ends = {name: Stat.of(samples[1:]) for name, samples in ended.items()}
    rows = [
        Row(
            "start to first results",
            "s",
            stats["machines"],
            _FLOOR,
            stats["forkserver"],
            (Goal("median", 0.18), Goal("execnet")),
            {name: stats[name] for name in _PEERS if name in stats} | missing,
        ),
        Row(
            "clean shutdown",
            "s",
            ends["machines"],
            _FLOOR,
            ends["forkserver"],
            (Goal("median", 0.08),),
            {name: ends[name] for name in _PEERS if name in ends} | missing,
        ),
        Row("an interpreter alone", "s", stats["interpreter"], note=_INTERPRETER),
    ]
    if "numpy" in stats:
        row = Row("start to first results, with NumPy", "s", stats["numpy"], _SPAWNED, stats["numpy spawned"])
        row.goals = (Goal("ratio", 0.7),)
        rows.insert(1, row)
    return rows


if __name__ == "__main__":
    measure.run(figures)
