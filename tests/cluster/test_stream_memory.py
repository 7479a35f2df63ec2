"""However much goes through a stream, neither side holds more than a little of it at any time."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bigmachine
from bigmachine import Machine
from tests.cluster.stream_services import MEBIBYTE, Flow, Zeros, blocks

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
COUNT = 512
#: MiB above what a side had before.
MOST = 64


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with bigmachine.start() as session:
        (machine,) = session.start(1, services=[Flow()])
        assert machine.call(Flow.take_blocks, blocks(8)) == 8 * MEBIBYTE
        yield machine


def resident(pid: int, field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def received(machine: Machine) -> int:
    return sum(map(len, machine.call(Flow.give_blocks, COUNT)))


def read(machine: Machine) -> int:
    file: Any = machine.call(Flow.give_file, COUNT)
    with file:
        return sum(map(len, iter(lambda: file.read(MEBIBYTE), b"")))


@pytest.mark.parametrize(
    "flow",
    [
        received,
        lambda machine: machine.call(Flow.take_blocks, blocks(COUNT)),
        read,
        lambda machine: machine.call(Flow.take_file, Zeros(COUNT)),
    ],
    ids=["blocks down", "blocks up", "a file down", "a file up"],
)
def test_memory_stays_constant_on_both_sides(machine: Machine, flow: Callable[[Machine], int]) -> None:
    sides = {"driver": os.getpid(), "machine": machine.call(Flow.pid)}
    before = {}
    for side, pid in sides.items():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew: proc(5)
        before[side] = resident(pid, "VmRSS")
    assert flow(machine) == COUNT * MEBIBYTE
    grown = {side: resident(pid, "VmHWM") - before[side] for side, pid in sides.items()}
    assert all(size < MOST for size in grown.values()), grown
