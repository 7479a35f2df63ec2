"""A user's program, checked by mypy as the user would: against the package, without settings of this repository.

What mypy and pyright accept and refuse in detail stands in the files beside this one, which `make lint` checks.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bigmachine

PROGRAM = """
from collections.abc import Iterator
import bigmachine

class CirclePi:
    def sample(self, n: int) -> int:
        return n
    async def later(self, text: str) -> bytes:
        return text.encode()
    def count(self, n: int) -> Iterator[int]:
        yield n

with bigmachine.start("local") as session:
    machine, = session.start(1, services={"PI": CirclePi()})
    reveal_type(machine.call(CirclePi.sample, 10))
    reveal_type(machine.submit(CirclePi.later, "x"))
    reveal_type(machine.call(CirclePi.count, 3))
    reveal_type(machine.service(CirclePi).sample(10))
    machine.call(CirclePi.sample, "10")
    machine.submit(CirclePi.sample)
    machine.service(CirclePi).sample("10")
    machine.call(CirclePi.simple, 10)
"""


def test_mypy_infers_results_and_refuses_wrong_arguments(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-incremental", program],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(bigmachine.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = re.findall(
        r"^program\.py:(\d+): (?:note: Revealed type is \"(.+)\"|error: .*\[([a-z-]+)\])$", checked.stdout, re.MULTILINE
    )
    assert [(int(line), revealed or error) for line, revealed, error in said] == [
        (15, "int"),
        (16, "bigmachine.rpc.calls.Call[bytes]"),
        (17, "bigmachine.rpc.streams.readers.Stream[int]"),
        (18, "int"),
        (19, "call-overload"),
        (20, "call-overload"),
        (21, "arg-type"),
        (22, "attr-defined"),
    ], checked.stdout + checked.stderr
