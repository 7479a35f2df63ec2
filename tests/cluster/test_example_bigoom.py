"""The example fills a machine's memory, harmlessly, and shows the warning, the saved files and the certificate."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.cluster.programs import RunProgram

ROOTS = ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")
BIGOOM = Path(__file__).parents[2] / "examples/bigoom.py"


def saved_in(err: str) -> dict[str, Path]:
    match = re.search(r"was saved: (.*)", err)
    assert match, err
    return {path.name.rpartition("-")[2]: path for path in map(Path, match[1].split(", "))}


@pytest.mark.parametrize("how", ["group", "rlimit"])
def test_it_shows_the_warning_the_files_and_the_certificate(run_program: RunProgram, tmp_path: Path, how: str) -> None:
    if how == "group" and not any(os.access(root, os.W_OK) for root in ROOTS):
        pytest.skip("this user may make no control groups here")
    dumps = tmp_path / "dumps"
    outcome = run_program(
        BIGOOM,
        "--limit=128",
        "--rate=40",
        *(["--rlimit"] if how == "rlimit" else []),
        environ={"BIGMACHINE_DUMPS": str(dumps)},
    )
    if how == "group" and "MiB, by setrlimit" in outcome.err:
        pytest.skip("no control group here can limit memory")
    assert re.search(r"machine m1 is short of memory: 9\d % of ", outcome.err)
    files = saved_in(outcome.err)
    assert set(files) == {"heap.pb.gz", "heap.txt", "vars.json"}
    assert files["heap.txt"].read_text().splitlines()[2].split()[2] == "bytearray"
    cause, _, text = outcome.out.partition("\n")
    if how == "group":
        assert cause == "cause: oom"
        assert "its control group had used up its limit of 128 MiB" in text
    else:
        assert cause == "cause: signal"
        assert "SIGABRT" in text
        assert "it had reached the limit on its memory: RLIMIT_AS was" in text
    for root in filter(os.path.isdir, ROOTS):
        assert not [name for name in os.listdir(root) if name.startswith("bigoom-")]


def test_a_wrong_argument_is_told(run_program: RunProgram) -> None:
    outcome = run_program(BIGOOM, "--limit=-1", status=2)
    assert "--limit cannot be below 0" in outcome.err
    assert "Traceback" not in outcome.err


def test_it_stays_short() -> None:
    assert len(BIGOOM.read_text().splitlines()) < 150
