"""A test starts machines with service classes of its own module, in each of pytest's import modes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import bigmachine
from tests.cluster.programs import RunProgram, WriteProgram

TEST = """
import os
import bigmachine
import pytest

class Trouble(Exception):
    pass

class Service:
    def where(self):
        return os.getpid(), type(self).__module__
    def fail(self):
        raise Trouble("no luck", 7)

def test_service():
    with bigmachine.start("local") as session:
        machine, = session.start(1, services=[Service()])
        pid, module = machine.call(Service.where)
        assert (pid != os.getpid(), module) == (True, __name__)
        with pytest.raises(Trouble, match="no luck"):
            machine.call(Service.fail)
"""


@pytest.mark.parametrize("by_module", [True, False], ids=["python -m pytest", "pytest"])
@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_a_service_class_of_a_test_module(
    run_program: RunProgram, write: WriteProgram, tmp_path: Path, mode: str, by_module: bool
) -> None:
    write("pytest.ini", "[pytest]\n")
    write("tests/deep/test_it.py", TEST)
    command = (
        ["-m", "pytest"] if by_module else ["-c", "import sys, pytest; sys.path.remove(''); pytest.console_main()"]
    )
    outcome = run_program(*command, "-q", "-p", "no:cacheprovider", f"--import-mode={mode}")
    assert "1 passed" in outcome.out


class Here:
    """A service of this very module."""

    def pid(self) -> int:
        return os.getpid()

    def modules(self) -> bool:
        return "pytest" in sys.modules


def test_this_test_itself_is_a_driver() -> None:
    with bigmachine.start("local") as session:
        (machine,) = session.start(1, services=[Here()])
        assert machine.call(Here.pid) != os.getpid()


def test_unittest(run_program: RunProgram, write: WriteProgram) -> None:
    body = TEST.replace("import pytest", "import unittest").replace(
        "def test_service():", "class T(unittest.TestCase):\n  def test_service(self):"
    )
    write("test_it.py", body.replace("pytest.raises(Trouble, match=", "self.assertRaisesRegex(Trouble, "))
    outcome = run_program("-m", "unittest", "test_it")
    assert "OK" in outcome.err
