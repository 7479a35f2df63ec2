"""Fifty and two hundred local machines until all are RUNNING, and one more in a session that is up."""

from __future__ import annotations

import json
import subprocess

import measure
from measure import Goal, Options, Row, Stat
from program import MANY_MACHINES

_PATIENCE = 200
_LIMITS = {50: 0.6, 200: 2.0}


def figures(options: Options) -> list[Row]:
    rows = []
    more: list[float] = []
    for count, limit in _LIMITS.items():
        seconds = []
        for _ in range(options.pick(1, 5)):
            done = subprocess.run(
                [*MANY_MACHINES, str(count)], stdout=subprocess.PIPE, check=True, timeout=_PATIENCE, text=True
            )
            told = json.loads(done.stdout)
            seconds.append(told["many"])
            if count == min(_LIMITS):
                more += told["more"]
        note = "in a new session, its agent included"
        rows.append(Row(f"{count} machines RUNNING", "s", Stat.of(seconds), goals=(Goal("median", limit),), note=note))
    note = f"beside {min(_LIMITS)} others"
    rows.append(Row("one more machine RUNNING", "s", Stat.of(more), goals=(Goal("median", 0.015),), note=note))
    return rows


if __name__ == "__main__":
    measure.run(figures)
