"""A program that cannot become a machine says why, at once, in the words of the machine's own Python."""

from __future__ import annotations

from tests.cluster.programs import Outcome, RunProgram, WriteProgram

SERVICE = """
import sys, time, traceback
import bigmachine

class Service:
    def answer(self):
        return 42
"""

#: Prints the cause of the machine's death, how long that took, and what a user would have been shown.
DRIVE = """
with bigmachine.start("local") as session:
    started = time.monotonic()
    machine, = session.start(1, services=[Service()])
    try:
        machine.call("Service.answer")
    except bigmachine.MachineStopped as error:
        print(error.certificate.cause, type(error.__cause__).__name__, time.monotonic() - started < 5)
        traceback.print_exc(file=sys.stdout)
"""


def run(run_program: RunProgram, write: WriteProgram, before: str, *, after: str = DRIVE) -> Outcome:
    write(
        "onlydriver.py", "import bigmachine\n\nif not bigmachine.is_driver():\n    raise RuntimeError('no GPU here')\n"
    )
    return run_program(write("app.py", SERVICE + before + after))


def test_an_error_at_import_arrives_as_its_own_traceback(run_program: RunProgram, write: WriteProgram) -> None:
    out = run(run_program, write, "import onlydriver\n").out
    assert out.startswith("boot_failed RuntimeError True\n")
    assert "on machine m1:\nTraceback (most recent call last):\n" in out
    assert "onlydriver.py\", line 4, in <module>\n    raise RuntimeError('no GPU here')\n" in out
    assert "rerun.py" not in out


def test_an_error_of_a_class_that_only_the_machine_could_make_is_told(
    run_program: RunProgram, write: WriteProgram
) -> None:
    odd = "class Odd(Exception):\n    def __init__(self, a, b):\n        super().__init__(f'{a} and {b}')\n"
    out = run(run_program, write, odd + "if not bigmachine.is_driver():\n    raise Odd(1, 2)\n").out
    assert out.startswith("boot_failed ")
    assert "Odd: 1 and 2" in out


def test_a_program_that_never_reaches_start_on_the_machine_is_told_so(
    run_program: RunProgram, write: WriteProgram
) -> None:
    drive = "if bigmachine.is_driver():" + DRIVE.replace("\n", "\n    ")
    out = run(run_program, write, "", after=drive).out
    assert out.startswith("boot_failed ")
    assert "the program ended without reaching bigmachine.start()" in out
    assert "or bigmachine.init(), before anything that may end the program" in out


def test_a_program_that_exits_on_the_machine_shows_where_and_what_it_printed(
    run_program: RunProgram, write: WriteProgram
) -> None:
    out = run(
        run_program, write, "if not bigmachine.is_driver():\n    print('no data')\n    sys.exit('giving up')\n"
    ).out
    assert out.startswith("exited ")
    assert "the program called sys.exit('giving up') before it reached bigmachine.start()" in out
    assert "line 10, in <module>\n    sys.exit('giving up')" in out
    assert "no data\n" in out


def test_a_class_that_is_defined_after_start_is_named(run_program: RunProgram, write: WriteProgram) -> None:
    late = "with bigmachine.start('local') as early:\n    pass\nclass Service:\n    def answer(self): ...\n"
    path = write("app.py", SERVICE.replace("class Service", "class Other") + late + DRIVE)
    out = run_program(path).out
    assert out.startswith("boot_failed InvalidCall True\n")
    assert "Can't get attribute 'Service'" in out
    assert "define classes and functions before the program reaches bigmachine.start()" in out


def test_a_crash_while_the_program_is_imported_is_told_with_its_signal(
    run_program: RunProgram, write: WriteProgram
) -> None:
    crash = "if not bigmachine.is_driver():\n    import ctypes\n    ctypes.string_at(0)\n"
    out = run(run_program, write, crash).out
    assert out.startswith("signal ")
    assert "SIGSEGV" in out
    assert "in string_at" in out


def test_an_init_that_raises_stops_the_machine_with_that_error(run_program: RunProgram, write: WriteProgram) -> None:
    init = SERVICE.replace(
        "    def answer", "    def init(self, session):\n        raise KeyError('weights')\n\n    def answer"
    )
    path = write("app.py", init + DRIVE)
    out = run_program(path).out
    assert out.startswith("init_failed KeyError True\n")
    # The machine's traceback begins where the program does.
    assert f'on machine m1:\nTraceback (most recent call last):\n  File "{path}", line 7, in init\n' in out


def test_an_uncaught_failure_ends_the_driver_with_one_traceback(run_program: RunProgram, write: WriteProgram) -> None:
    drive = "with bigmachine.start('local') as session:\n    session.start(1, services=[Service()])[0].wait()\n"
    path = write("app.py", SERVICE + "if not bigmachine.is_driver():\n    1 / 0\n" + drive)
    outcome = run_program(path, status=1)
    assert "ZeroDivisionError: division by zero" in outcome.err
    assert outcome.err.rstrip().splitlines()[-1].startswith("bigmachine.errors.MachineStopped: machine m1 stopped")


#: A program that opens its session by itself; each machine runs it, too.
OPEN = """
from bigmachine.session import Session
from bigmachine.systems.local import LocalSystem

""" + DRIVE.replace('bigmachine.start("local")', "Session.open(LocalSystem())")


def test_a_session_that_is_opened_on_a_machine_before_it_serves_starts_no_machines_of_its_own(
    run_program: RunProgram, write: WriteProgram
) -> None:
    out = run(run_program, write, "", after=OPEN).out
    assert out.startswith("boot_failed InvalidCall True\n")
    assert "Session.open() was reached on machine m1" in out
    assert "Call bigmachine.init() before it" in out


def test_a_session_may_be_opened_below_init(run_program: RunProgram, write: WriteProgram) -> None:
    drive = OPEN.replace("        machine.call(", "        print(machine.call(").replace('answer")', 'answer"))')
    assert run(run_program, write, "bigmachine.init()\n", after=drive).out == "42\n"
