"""The example estimates pi, tells what it does on standard error, and draws its progress on a terminal only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.programs import IMPORTABLE, RunProgram, StartProgram
from tests.cluster.terminal import plain, run_in_terminal

BIGPI = Path(__file__).parents[2] / "examples/bigpi.py"
TIME = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d"


def pi_in(out: str) -> float:
    match = re.fullmatch(r"pi ~ (\d\.\d+)\n", out)
    assert match, out
    return float(match[1])


def test_it_prints_pi_and_nothing_else_on_standard_output(run_program: RunProgram) -> None:
    # A million samples have a standard deviation of 0.0016.
    assert abs(pi_in(run_program(BIGPI, "-n", "1e6", "--nmach", "2").out) - 3.1416) < 0.02


def test_numpy_samples_the_same_circle(run_program: RunProgram) -> None:
    pytest.importorskip("numpy")
    assert abs(pi_in(run_program(BIGPI, "-n", "2e7", "--nmach", "2", "--numpy").out) - 3.1416) < 0.01


def test_it_tells_what_it_does_line_by_line(run_program: RunProgram) -> None:
    lines = run_program(BIGPI, "-n", "1000", "--nmach", "2").err.splitlines()
    said = [re.sub(rf"^{TIME} ", "", line) for line in lines]
    assert [line for line in lines if not re.match(TIME, line)] == []
    assert said[0] == "waiting for machines to come online"
    assert [re.sub(r"127\S+-m", "m", line) for line in said[1:3]] == ["machine m1 RUNNING", "machine m2 RUNNING"]
    assert said[3:5] == ["all machines are ready", "distributing work among 2 cores"]
    assert said[5:-1] == ["500/1000", "1000/1000"]
    assert re.fullmatch(r"total=\d{3} nsamples=1000", said[-1])


def test_samples_that_do_not_divide_evenly_are_all_made(run_program: RunProgram) -> None:
    assert "7/7" in run_program(BIGPI, "-n", "7", "--nmach", "3").err


def test_on_a_terminal_each_machine_has_a_bar(start_program: StartProgram) -> None:
    shown = run_in_terminal(start_program, BIGPI, "-n", "1e6", "--nmach", "2")
    assert re.search(r"m1 ━+ +0/500000", plain(shown))
    assert re.search(r"m2 ━+ 500000/500000", plain(shown))
    assert re.search(r"pi ~ 3\.\d{6}\n$", plain(shown))


def test_machines_need_nothing_that_only_draws(run_program: RunProgram, tmp_path: Path) -> None:
    # A terminal library that cannot be imported: the driver does not draw here, and a machine never does.
    (tmp_path / "rich.py").write_text("raise ImportError('drawn')")
    run_program(BIGPI, "-n", "1000", environ={"PYTHONPATH": f"{tmp_path}:{IMPORTABLE}"})


def test_it_runs_on_machines_inside_its_own_process(run_program: RunProgram) -> None:
    assert pi_in(run_program(BIGPI, "-n", "1000", "--bigm.system=inprocess").out) > 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-n", "0"], "argument -n: 0 is less than 1"),
        (["-n", "many"], "argument -n: invalid number value: 'many'"),
        (["--nmach", "-2"], "argument --nmach: -2 is less than 1"),
        (["--bigm.system"], "argument --bigm.system: expected one argument"),
    ],
)
def test_a_wrong_argument_is_told(run_program: RunProgram, arguments: list[str], says: str) -> None:
    outcome = run_program(BIGPI, *arguments, status=2)
    assert says in outcome.err
    assert "Traceback" not in outcome.err


def test_it_stays_short() -> None:
    assert len(BIGPI.read_text().splitlines()) < 150
