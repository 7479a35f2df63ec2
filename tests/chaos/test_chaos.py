"""Whatever happens to machines, connections and agents: each call has an outcome in time, and nothing is left.

To repeat a run, give its seed (it is printed): `BIGMACHINE_CHAOS_SEED=7 pytest tests/chaos`. The dice then fall the
same way; what threads and processes do between two throws is still their own.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.chaos.harness import BOUND
from tests.chaos.program import SETTLED
from tests.cluster.conftest import run_program, start_program
from tests.cluster.programs import IMPORTABLE, RunProgram

__all__ = ["run_program", "start_program"]  # fixtures

ROOT = Path(__file__).parents[2]
SECONDS = 30.0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="what is left is looked for in /proc")
def test_everything_at_once_has_an_end_and_leaves_nothing(run_program: RunProgram, tmp_path: Path) -> None:
    seed = os.environ.get("BIGMACHINE_CHAOS_SEED") or str(random.randrange(2**32))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    outcome = run_program(
        *("-m", "tests.chaos.program", "--seed", seed, "--seconds", str(SECONDS)),
        cwd=tmp_path,
        environ={"PYTHONPATH": f"{IMPORTABLE}:{ROOT}", "TMPDIR": str(scratch)},
        status=None,
        timeout=SECONDS + BOUND + SETTLED + 20.0,
    )
    print(outcome.out)
    assert outcome.status == 0, f"seed {seed}: it exited with {outcome.status}\n{outcome.err}\n{outcome.out}"
    assert "0 things were wrong" in outcome.out
