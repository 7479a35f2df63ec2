"""What surrounds a program reaches its machines: arguments, environment, interpreter flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.probe import PROGRAM, seen_in
from tests.cluster.programs import RunProgram, WriteProgram


@pytest.fixture
def app(write: WriteProgram) -> str:
    return str(write("app.py", PROGRAM))


def starting(arguments: str) -> str:
    """Return the program with further arguments of `Session.start`."""
    return PROGRAM.replace('services={"probe": Probe()}', f'services={{"probe": Probe()}}, {arguments}')


def test_arguments_of_the_program_reach_the_machine(run_program: RunProgram, app: str) -> None:
    assert seen_in(run_program(app, "--fast", "a b", "").out)["argv"] == [app, "--fast", "a b", ""]


def test_args_replace_the_arguments_but_not_the_programs_name(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", starting("args=['--slow']"))
    assert seen_in(run_program(path, "--fast").out)["argv"] == [str(path), "--slow"]


def test_no_args_are_none(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", starting("args=[]"))
    assert seen_in(run_program(path, "--fast").out)["argv"] == [str(path)]


def test_environment_reaches_the_machine_as_it_is_when_it_starts(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", PROGRAM.replace("    machine, =", "    os.environ['COLOUR'] += 'ish'\n    machine, ="))
    assert seen_in(run_program(path, environ={"COLOUR": "green"}).out)["colour"] == "greenish"


def test_environ_is_added_to_the_machines_environment(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", starting("environ={'COLOUR': 'red'}"))
    assert seen_in(run_program(path, environ={"COLOUR": "green"}).out)["colour"] == "red"


def test_environ_is_there_before_the_program_runs(run_program: RunProgram, write: WriteProgram) -> None:
    early = "import os\nAT_IMPORT = os.environ.get('COLOUR')\n"
    program = early + starting("environ={'COLOUR': 'red'}").replace('os.environ.get("COLOUR")', "AT_IMPORT")
    assert seen_in(run_program(write("app.py", program)).out)["colour"] == "red"


@pytest.mark.parametrize(
    ("flags", "what", "value"),
    [
        (["-OO"], "optimize", 2),
        (["-X", "dev"], "dev", True),
        (
            ["-W", "ignore::UserWarning", "-W", "error::ImportWarning"],
            "warnings",
            ["ignore::UserWarning", "error::ImportWarning"],
        ),
    ],
    ids=["-OO", "-X dev", "-W"],
)
def test_flags_of_the_interpreter_reach_the_machine(
    run_program: RunProgram, app: str, flags: list[str], what: str, value: object
) -> None:
    seen = seen_in(run_program(*flags, app).out)
    assert seen[what] == value


def test_settings_of_the_interpreter_in_the_environment_reach_the_machine(run_program: RunProgram, app: str) -> None:
    assert seen_in(run_program(app, environ={"PYTHONOPTIMIZE": "1"}).out)["optimize"] == 1


def test_a_setting_of_the_interpreter_in_environ_counts(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", starting("environ={'PYTHONOPTIMIZE': '1'}"))
    assert seen_in(run_program(path).out)["optimize"] == 1


def test_the_name_of_the_session_reaches_the_machine(run_program: RunProgram, write: WriteProgram) -> None:
    program = PROGRAM.replace('start("local")', 'start("local", name="night run")').replace(
        'os.environ.get("COLOUR")', "bigmachine.current_call().session.name"
    )
    assert seen_in(run_program(write("app.py", program)).out)["colour"] == "night run"


def test_a_machine_knows_that_it_is_no_driver(run_program: RunProgram, write: WriteProgram) -> None:
    program = PROGRAM.replace('os.environ.get("COLOUR")', "bigmachine.is_driver()") + "assert bigmachine.is_driver()\n"
    assert seen_in(run_program(write("app.py", program)).out)["colour"] is False


def test_init_is_where_the_machine_stays(run_program: RunProgram, write: WriteProgram) -> None:
    program = PROGRAM.replace(
        "class Probe", "bigmachine.init()\nassert bigmachine.is_driver()\n\nclass Later: ...\n\nclass Probe"
    )
    path = write("app.py", program.replace("\nclass Trouble", "\nclass Early: ...\n\nclass Trouble"))
    outcome = run_program(path, status=1)
    assert "Can't get attribute 'Probe'" in outcome.err
    assert "define classes and functions before the program reaches" in outcome.err


def test_output_of_a_machine_comes_line_by_line_with_its_name(run_program: RunProgram, write: WriteProgram) -> None:
    program = PROGRAM.replace(
        "    def look(self):", "    def look(self):\n        print('counting', end=' '); print('sheep')"
    )
    outcome = run_program(write("app.py", program))
    assert "m1: counting sheep\n" in outcome.err
    assert "sheep" not in outcome.out


COMMANDS = [["app.py"], ["-u", "app.py"], ["-m", "app"], ["-Bmapp"], ["--", "app.py"]]
TAKEN = "import sys\ncommand = sys.argv.pop(1)\nassert command == 'count', command\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_program_that_takes_arguments_out_is_run_again_with_all_of_them(
    run_program: RunProgram, write: WriteProgram, tmp_path: Path, command: list[str]
) -> None:
    write("app.py", TAKEN + PROGRAM)
    seen = seen_in(run_program(*command, "count", "--fast").out)
    # The service sees what is left of them, as its driver does.
    assert seen["argv"] == [str(tmp_path / "app.py"), "--fast"]


def test_arguments_changed_after_start_reach_the_machine(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", PROGRAM.replace("    machine, =", "    sys.argv[1:] = ['late']\n    machine, ="))
    assert seen_in(run_program(path, "early").out)["argv"] == [str(path), "late"]


def test_args_are_there_before_the_program_runs(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", TAKEN + starting("args=['count', 'sheep']"))
    assert seen_in(run_program(path, "count").out)["argv"][1:] == ["count", "sheep"]


def test_a_program_under_another_launcher_keeps_its_own_arguments(run_program: RunProgram, write: WriteProgram) -> None:
    path = write("app.py", PROGRAM)
    launcher = write(
        "launch.py", "import runpy, sys\ndel sys.argv[0]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    assert seen_in(run_program(launcher, path, "--fast").out)["argv"] == [str(path), "--fast"]


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]], ids=str)
def test_a_program_that_closed_its_standard_streams_runs(
    run_program: RunProgram, write: WriteProgram, tmp_path: Path, closed: list[int]
) -> None:
    # As a daemon does, or a shell by <&- and >&-.
    closing = f"import os\nif 'BIGMACHINE_MODE' not in os.environ:\n    for fd in {closed}: os.close(fd)\n"
    writing = PROGRAM.replace("print(json.dumps(seen))", "open('seen', 'w').write(json.dumps(seen))")
    run_program(write("app.py", closing + writing), status=None)
    assert seen_in((tmp_path / "seen").read_text())["main"] == "__main__"
