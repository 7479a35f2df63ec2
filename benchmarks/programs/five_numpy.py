"""Five machines of a program that imports NumPy; with the argument "spawn" each is an interpreter of its own."""

from __future__ import annotations

import sys

import numpy as np

import bigmachine


class Sum:
    """Adds up."""

    def sum(self, n: int) -> int:
        return int(np.arange(n).sum())


with bigmachine.start("local") as session:
    # A variable that is read when a process starts keeps a machine from being forked.
    environ = {"PYTHONHASHSEED": "0"} if "spawn" in sys.argv else None
    machines = session.start(5, services={"Sum": Sum()}, environ=environ)
    for call in [machine.submit(Sum.sum, 10) for machine in machines]:
        call.result()
    print("ready", flush=True)
    sys.stdin.read()
