"""The smaller examples do what they say, leave nothing, and stay short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.programs import RunProgram

EXAMPLES = Path(__file__).parents[2] / "examples"
MULTISYS = EXAMPLES / "multisys.py"
DISKBENCH = EXAMPLES / "diskbench.py"


def test_two_systems_at_once_estimate_pi_and_a_table_tells_how_well(run_program: RunProgram) -> None:
    head, *rows = run_program(MULTISYS, "--duration", "0.5").out.splitlines()
    assert head.split() == ["system", "machines", "samples", "pi", "+-"]
    cells = {row.split()[0]: row.replace(",", "").split()[1:] for row in rows}
    assert {name: values[0] for name, values in cells.items()} == {"local": "2", "inprocess": "1", "all": "3"}
    assert int(cells["all"][1]) == int(cells["local"][1]) + int(cells["inprocess"][1])
    for _, _, estimate, deviation in cells.values():
        assert abs(float(estimate) - 3.14159265) < 6 * float(deviation)


def test_the_systems_are_chosen_by_flags(run_program: RunProgram) -> None:
    out = run_program(MULTISYS, "--duration", "0.2", "--cluster", "local:1", "--cluster", "local:2").out
    assert re.findall(r"^local +(\d)", out, re.MULTILINE) == ["1", "2"]


@pytest.mark.parametrize("text", ["local", "local:none", ":3", "local:0"])
def test_a_cluster_that_is_none_is_told(run_program: RunProgram, text: str) -> None:
    assert "is not like local:2" in run_program(MULTISYS, "--cluster", text, status=2).err


def test_disks_are_measured_round_by_round(run_program: RunProgram, tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    out = run_program(DISKBENCH, "--nmach", "2", "--size", "5", "--rounds", "2", "--dir", folder).out
    assert re.findall(rf"^(m\d) \S+: {re.escape(str(folder))} on ", out, re.MULTILINE) == ["m1", "m2"]
    rounds = re.findall(r"^(m\d) +(\d|median) +(\d+) +(\d+)", out, re.MULTILINE)
    assert [each[:2] for each in rounds] == [(m, n) for m in ("m1", "m2") for n in ("1", "2", "median")]
    assert all(int(written) > 0 and int(read) > 0 for _, _, written, read in rounds)
    assert list(folder.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(run_program: RunProgram, tmp_path: Path) -> None:
    outcome = run_program(DISKBENCH, "--dir", tmp_path / "none", status=1)
    assert outcome.err.startswith("m1: ")
    assert "No such file or directory" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("example", [MULTISYS, DISKBENCH])
def test_its_flags_are_explained(run_program: RunProgram, example: Path) -> None:
    assert "--bigm.system" in run_program(example, "--help").out


@pytest.mark.parametrize("example", [MULTISYS, DISKBENCH])
def test_it_stays_short(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 150
