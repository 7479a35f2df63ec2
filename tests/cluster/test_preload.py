"""Machines share what the program has imported, never notice it otherwise, and see the files as they are now."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bigmachine.session.preload import WORTHWHILE
from tests.cluster.programs import Outcome, RunProgram, WriteProgram

#: Starts two machines, runs EDIT, starts one more; prints what each sees of `package.part`.
PROGRAM = """
import json
import os
import random
from pathlib import Path

import bigmachine
import package
from package import part

PACKAGE = Path(package.__file__).parent


class Probe:
    def look(self):
        seen = {name: getattr(part, name) for name in ("PID", "VALUE")}
        return {**seen, "own": os.getpid(), "random": random.random()}


def started(session, n):
    try:
        return [machine.call(Probe.look) for machine in session.start(n, services=[Probe()])]
    except bigmachine.BigmachineError as error:
        return [str(error)]


if __name__ == "__main__":
    with bigmachine.start("local") as session:
        seen = started(session, 2)
        EDIT
        print(json.dumps(seen + started(session, 1)))
"""
PART = "import os\nPID = os.getpid()\nVALUE = 'first'\n"


class Package:
    """A program beside a package with a module `part`, of so many modules in all."""

    def __init__(self, run: RunProgram, write: WriteProgram) -> None:
        self._run = run
        self._write = write
        self.modules = WORTHWHILE

    def run(self, part: str = "", edit: str = "pass", program: str = PROGRAM) -> Outcome:
        others = range(self.modules - 2)
        self._write("package/__init__.py", "".join(f"from package import m{number}\n" for number in others))
        for number in others:
            self._write(f"package/m{number}.py", "")
        self._write("package/part.py", PART + part)
        return self._run(self._write("app.py", program.replace("EDIT", edit)))

    def seen(self, part: str = "", edit: str = "pass") -> list[Any]:
        """Give what three machines saw, the last of them after the edit."""
        seen: list[Any] = json.loads(self.run(part, edit).out)
        assert len(seen) == 3
        return seen


@pytest.fixture
def package(run_program: RunProgram, write: WriteProgram) -> Package:
    return Package(run_program, write)


def test_machines_share_one_import_of_the_programs_modules(package: Package) -> None:
    seen = package.seen()
    assert len({machine["PID"] for machine in seen}) == 1
    assert seen[0]["PID"] not in {machine["own"] for machine in seen}


def test_a_few_modules_are_imported_by_each_machine(package: Package) -> None:
    package.modules = WORTHWHILE // 2
    assert all(machine["PID"] == machine["own"] for machine in package.seen())


def test_random_numbers_differ_on_machines_that_share_imports(package: Package) -> None:
    assert len({machine["random"] for machine in package.seen("import random\nrandom.random()\n")}) == 3


def test_a_module_that_was_edited_is_new_on_the_next_machine(package: Package) -> None:
    edit = "(PACKAGE / 'part.py').write_text(Path(part.__file__).read_text().replace('first', 'second time'))"
    assert [machine["VALUE"] for machine in package.seen(edit=edit)] == ["first", "first", "second time"]


def test_a_module_that_was_removed_is_missing_on_the_next_machine(package: Package) -> None:
    *_, last = package.seen(edit="(PACKAGE / 'part.py').unlink()")
    assert "ImportError: cannot import name 'part' from 'package'" in last


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()", "threads"),
        ("import subprocess\nC = subprocess.Popen(['sleep', '9'])\nimport atexit\natexit.register(C.kill)", "process"),
        ("FILE = open(__file__)", "files open"),
        ("import bigmachine\nVALUE = bigmachine.is_driver()", "whether this process is a driver"),
        ("import bigmachine\ntry: VALUE = bigmachine.is_driver()\nexcept BaseException: VALUE = 'x'", "whether this"),
    ],
    ids=["thread", "process", "file", "question", "question caught"],
)
def test_what_a_fork_would_not_survive_is_imported_by_each_machine(package: Package, part: str, why: str) -> None:
    outcome = package.run(part)
    seen = json.loads(outcome.out)
    assert all(machine["PID"] == machine["own"] for machine in seen)
    assert all(machine["VALUE"] in ("first", False) for machine in seen)
    (said,) = [line for line in outcome.err.splitlines() if "modules loaded beforehand" in line]
    assert why in said


def test_what_cannot_be_imported_fails_in_the_program(package: Package) -> None:
    """The error is the machine's, with its line in the program's module."""
    edit = "(PACKAGE / 'part.py').write_text('1 / 0')"
    *_, last = package.seen(edit=edit)
    assert "ZeroDivisionError" in last


def test_what_imports_print_is_printed_by_each_machine(package: Package) -> None:
    program = PROGRAM.replace("def look(self):", "def look(self):\n        os._exit(3)")
    program = program.replace("[str(error)]", "list(error.certificate.last_lines)")
    printed = package.run(
        "import sys\nprint('out of part')\nprint('err of part', file=sys.stderr)", program=program
    ).out
    assert sorted(json.loads(printed.splitlines()[-1])) == ["err of part"] * 2 + ["out of part"] * 2


def test_openblas_may_start_its_threads(run_program: RunProgram, write: WriteProgram) -> None:
    """It stops them before a fork; NumPy's own generator differs afterwards, and its products are right."""
    pytest.importorskip("numpy")
    program = """
import json, sys
import numpy as np
import bigmachine

class Probe:
    def draw(self):
        ones = np.ones((300, 300))
        return float(np.random.random()), float((ones @ ones)[0, 0])

with bigmachine.start("local") as session:
    print(json.dumps([m.call(Probe.draw) for m in session.start(2, services=[Probe()])]))
"""
    outcome = run_program(write("app.py", program))
    (one, first), (two, second) = json.loads(outcome.out)
    assert one != two
    assert first == second == 300
    assert outcome.err == ""
