"""Machines on hosts by ssh: how long until one runs, on hosts that are warm, cold, and without Python.

Needs the lab of the tests (tests/labs/ssh): root, and the scripts that make it. Both ends share this computer's cores,
so these times say what the start computes and how often it asks; they are no times of a network. The driver is a
process of its own each time, and its times are those of the session's timeline.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import measure
from measure import Goal, Options, Row, Stat

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.labs.ssh.lab import Lab, NoLab, bring_up

#: What the program's way to the host takes, apart from ssh and the start of processes.
_SHIPPING = ("shipping", "assembling")


class Host:
    """Host 1 of a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._program = lab.programs / "hello.py"
        self._text = self._program.read_text()
        self.sent: list[float] = []
        self.shipping: list[float] = []

    def start(self) -> list[float]:
        """Start a machine; gives the seconds until it ran."""
        out = self._lab.run(self._program, "1", "spans", hosts="lab@{1}", timeout=120).out.splitlines()
        spans = [line.split()[2:] for line in out if line.startswith("SPAN")]
        self.shipping.append(sum(float(seconds) for phase, seconds, _ in spans if phase in _SHIPPING))
        self.sent.append(sum(float(sent) for phase, _, sent in spans if phase in _SHIPPING))
        return [float(next(line for line in out if line.startswith("RUNNING")).split()[1])]

    def cold(self) -> list[float]:
        """The same on a host that has nothing yet."""
        self._lab.on(1, "chmod -R u+w ~/.cache 2>/dev/null; rm -rf ~/.cache", user="lab")
        return self.start()

    def bare(self) -> list[float]:
        """The same on a host that has no Python either."""
        with self._lab.without_python(1):
            return self.cold()

    def same(self) -> list[float]:
        """Start it once more, nothing changed; gives the seconds that its program took."""
        self.start()
        return self.shipping[-1:]

    def edit(self) -> list[float]:
        """Edit one line of the program first."""
        self._program.write_text(f"{self._text}\n# {random.random()}\n")
        time.sleep(0.1)
        return self.same()

    def floor(self) -> list[float]:
        """Log in with OpenSSH's client, and start a Python."""
        return measure.timed(lambda: self._lab.on(1, "python3 -c 0", user="lab"))


def figures(options: Options) -> list[Row]:
    try:
        lab = bring_up(1)
    except NoLab as reason:
        raise SystemExit(f"not measured: {reason}") from reason
    try:
        return rows(Host(lab), options)
    finally:
        lab.down()


def rows(host: Host, options: Options) -> list[Row]:
    host.start()  # packs are kept at the driver from now on, as after any first start
    stats = measure.take_turns(options.pick(2, 5), cold=host.cold, bare=host.bare, floor=host.floor)
    host.cold()
    os.sync()  # what the cold turns removed is no business of what follows
    stats |= measure.take_turns(options.pick(3, 10), warm=host.start, edit=host.edit)
    host.start()
    host.sent.clear()
    stats |= measure.take_turns(options.pick(3, 10), same=host.same)
    floor = stats["floor"]
    name = "ssh HOST python3 -c 0"
    return [
        Row("warm host: start to RUNNING", "s", stats["warm"], name, floor, goals=(Goal("median", 0.8),)),
        Row("cold host: start to RUNNING", "s", stats["cold"], name, floor),
        Row(
            "cold host without Python: start to RUNNING", "s", stats["bare"], name, floor, goals=(Goal("median", 3.0),)
        ),
        Row("the program, nothing changed", "s", stats["same"], goals=(Goal("median", 0.06),)),
        Row("the program, nothing changed: sent", "B", Stat.of(host.sent), goals=(Goal("median", 16 << 10),)),
        Row("the program, one line edited", "s", stats["edit"], goals=(Goal("median", 0.07),)),
    ]


if __name__ == "__main__":
    measure.run(figures)
