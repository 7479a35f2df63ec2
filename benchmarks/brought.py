"""The program that `cold.py` brings to hosts: says when its machines answered, and how they came up.

`brought.py MACHINES MODULES`: the modules (with commas between) are what it imports, here and there.
"""

from __future__ import annotations

import importlib
import json
import sys
import time

import bigmachine

for module in filter(None, sys.argv[2].split(",")):
    importlib.import_module(module)

#: Seconds for everything.
_PATIENCE = 120


class Brought:
    """What a machine has."""

    def modules(self) -> int:
        return sum(name in sys.modules for name in sys.argv[2].split(","))


def main() -> None:
    began = time.time()
    with bigmachine.driver.start() as session:
        machines = session.start(int(sys.argv[1]), services=[Brought()])
        for machine in machines:
            machine.wait(bigmachine.State.RUNNING, timeout=_PATIENCE)
            machine.call(Brought.modules)
        answered = time.time()
        while any(span.ended is None for span in session.timeline()) and time.time() < began + _PATIENCE:
            time.sleep(0.01)
        spans = session.timeline()
        told = {
            "answered": answered - began,
            "there": max(span.ended or float("inf") for span in spans) - began,
            "spans": [[span.machine, span.phase, span.began - began, span.seconds, span.sent] for span in spans],
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
