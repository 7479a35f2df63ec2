"""`pytest --bigmachine-system=NAME` runs the suite on any System, and finds what one does wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import bigmachine.testing.conformance as suite

ROOT = Path(__file__).parents[2]

#: A project with a System of its own, and one that forgets its machines.
CONFTEST = """
from bigmachine import register_system
from bigmachine.systems.inprocess import InprocessSystem

class Mine(InprocessSystem):
    name = "mine"

class Forgetful(InprocessSystem):
    name = "forgetful"
    def shutdown(self, timeout):
        pass
    def release(self, place):
        raise RuntimeError("what was that?")
    def launch(self, n, ticket):
        return super().launch(max(n, 1), ticket)

register_system("mine", Mine)
register_system("forgetful", Forgetful)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return tmp_path


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(suite.__file__).parents[3])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "bigmachine.testing.plugin", *arguments],
        env={**os.environ, "PYTHONPATH": source},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_a_projects_own_system_is_run_through_the_suite(project: Path, mode: str) -> None:
    done = run(project, "--bigmachine-system=mine", f"--import-mode={mode}", "-k", "OneMachine or Orders")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bigmachine: conformance of the System 'mine'" in done.stdout
    assert "passed" in done.stdout
    assert "test_own" not in done.stdout


def test_a_system_that_does_not_do_as_it_should_fails(project: Path) -> None:
    done = run(project, "--bigmachine-system=forgetful", "-q", "-k", "cannot_be_asked_for or nothing_starts or unused")
    assert done.returncode == 1, done.stdout + done.stderr
    for claim in ("test_none_at_all_cannot_be_asked_for", "test_after_it_nothing_starts"):
        assert claim in done.stdout
    assert "2 failed, 1 passed" in done.stdout


def test_an_unknown_system_is_named(project: Path) -> None:
    done = run(project, "--bigmachine-system=mime", "-q", "-x", "-k", "runs_and_answers")
    assert done.returncode == 1
    assert "did you mean 'mine'?" in done.stdout


def test_without_the_option_the_plug_in_does_nothing(project: Path) -> None:
    done = run(project, "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_own.py::test_own PASSED" in done.stdout
    assert "conformance" not in done.stdout


def test_with_files_on_the_command_line_only_those_are_run(project: Path) -> None:
    (project / "test_more.py").write_text(
        "from bigmachine.testing.conformance.services import Probe\n"
        "def test_more(machine, bigmachine_system):\n"
        "    assert machine.call(Probe.same, bigmachine_system) == 'mine'\n"
    )
    done = run(project, "--bigmachine-system=mine", "-q", "test_more.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_plug_in_is_found_where_the_library_is_installed() -> None:
    """Under its module's name, so that it is not loaded a second time by `-p`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"bigmachine.testing.plugin": "bigmachine.testing.plugin"}


def test_every_file_of_the_suite_is_run_here_too() -> None:
    there = {path.stem for path in Path(suite.__file__).parent.glob("*.py")}
    assert there == {*suite.MODULES, "__init__", "fixtures", "services"}
    assert {path.stem for path in Path(__file__).parent.glob("test_*.py")} == {
        "test_plugin",
        *(f"test_{module}" for module in suite.MODULES),
    }
    for module in suite.MODULES:
        tests = [name for name in vars(import_module(f"{suite.__name__}.{module}")) if name.startswith("Test")]
        assert tests
