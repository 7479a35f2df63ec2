"""Whatever reads what others send survives anything: all targets for a few seconds, with other bytes at each run.

`make fuzz` takes each of them, for longer. In processes of their own: what is found may be a crash of the interpreter.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    with tempfile.TemporaryDirectory() as folder:  # the fuzzer ends its process where it stands, and tidies nothing up
        environ = {**os.environ, "TMPDIR": folder}
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=110, cwd=_ROOT, env=environ)


def test_every_target_survives_its_seeds_and_changes_to_them() -> None:
    done = run("all", "--without", "-max_total_time=3")
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[1]) > 40  # the seeds at least


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: see `make fuzz`")
def test_every_target_survives_what_a_fuzzer_looks_for(tmp_path: Path) -> None:
    done = run("all", f"--folder={tmp_path}", "-max_total_time=5")
    found = [path.read_bytes() for path in tmp_path.glob("crash-*")]
    assert done.returncode == 0, f"{found}\n{done.stderr[-4000:]}"
