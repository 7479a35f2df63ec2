"""The fixtures that the tests here stand on: they see what a program leaves behind, and end what takes too long."""

from __future__ import annotations

import pytest

from tests.cluster import programs
from tests.cluster.programs import RunProgram, StartProgram, assert_gone, kill_left


def test_a_process_that_is_left_is_a_failure(start_program: StartProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    program = start_program("-c", code)
    program.wait()
    monkeypatch.setattr(programs, "UNTIL_GONE", 0.1)
    with pytest.raises(pytest.fail.Exception, match=r"1 processes of the program are left after 0\.1 s: .*sleep 60"):
        assert_gone(program.mark)
    kill_left(program.mark)


def test_a_program_that_takes_too_long_shows_its_stacks(start_program: StartProgram) -> None:
    program = start_program("-c", "def forever():\n    while True: pass\nforever()")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)longer than 0\.3 s.*in forever"):
        program.wait(0.3)


def test_the_wrong_exit_status_is_a_failure_that_shows_the_output(run_program: RunProgram) -> None:
    with pytest.raises(AssertionError, match=r"(?s)it exited with 3.*the reason"):
        run_program("-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)")
