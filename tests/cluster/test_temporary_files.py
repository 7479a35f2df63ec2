"""What a machine puts into its temporary directory goes with it, however it ends; finalizers run at a clean end."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Listener
from multiprocessing.managers import SyncManager
from pathlib import Path

import psutil
import pytest

import bigmachine
from bigmachine import Machine, Session
from bigmachine.session.preload import WORTHWHILE
from tests.cluster.processes import below, wait_for, wait_until_gone
from tests.cluster.programs import IMPORTABLE, RunProgram, StartProgram, WriteProgram

LIMIT = 5.0
ROOT = str(Path(__file__).parents[2])

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


class Keeping:
    """Puts things into the temporary directory, and never removes them."""

    def __init__(self) -> None:
        self.kept: list[object] = []

    def make(self) -> str:
        """Make one of each kind; give the directory."""
        directory = tempfile.mkdtemp()
        Path(directory, "file").touch()
        named = tempfile.NamedTemporaryFile()  # noqa: SIM115 (it is to be left)
        folder = tempfile.TemporaryDirectory()
        listener = Listener(family="AF_UNIX")
        assert Path(str(listener.address)).is_socket()
        manager = multiprocessing.get_context("spawn").Manager()
        assert isinstance(manager, SyncManager)
        numbers = manager.list([1])
        assert Path(str(manager.address)).is_socket()
        self.kept += [named, folder, listener, manager, numbers, self]
        return tempfile.gettempdir()

    def link(self, target: Path) -> None:
        (Path(tempfile.mkdtemp()) / "link").symlink_to(target)

    def fill(self, files: int) -> None:
        for number in range(files):
            Path(tempfile.gettempdir(), str(number)).touch()

    def hold(self, elsewhere: Path) -> None:
        """Hold what is not in the temporary directory, and which a finalizer sees to."""
        self.kept.append(tempfile.NamedTemporaryFile(dir=elsewhere))  # noqa: SIM115 (it is to be left)
        self.kept.append(tempfile.TemporaryDirectory(dir=elsewhere))
        self.written = (elsewhere / "written").open("w")
        self.written.write("all of it")

    async def hold_on_the_loop(self, elsewhere: Path) -> None:
        self.kept.append(tempfile.NamedTemporaryFile(dir=elsewhere))  # noqa: SIM115 (it is to be left)

    def hold_in_a_circle(self, elsewhere: Path) -> None:
        self.kept += [tempfile.NamedTemporaryFile(dir=elsewhere), self]  # noqa: SIM115 (it is to be left)

    def environ(self) -> list[str | None]:
        return [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]

    def used(self) -> str:
        return tempfile.gettempdir()

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The host's temporary directory: a fresh one, with a path that is as short as usual."""
    tmp_path_factory.getbasetemp()  # which must not be made in there
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(directory)
    # and `tempfile` looks anew for the next test
    tempfile.tempdir = None


@pytest.fixture
def session(parent: Path) -> Iterator[Session]:
    with bigmachine.start("local", output="off") as session:
        yield session


@pytest.fixture
def machine(session: Session) -> Machine:
    (machine,) = session.start(services=[Keeping()])
    assert machine.call(Keeping.make)
    return machine


def wait_until_empty(parent: Path) -> None:
    wait_for(lambda: not list(parent.iterdir()), f"{parent} is empty", LIMIT)


def agent_of(machine: Machine) -> psutil.Process:
    agent = psutil.Process(machine.call(Keeping.pid)).parent()
    assert agent is not None
    return agent


def test_each_machine_has_its_own(session: Session, parent: Path) -> None:
    machines = session.start(3, services=[Keeping()])
    machines += session.start(services=[Keeping()], environ={"PYTHONHASHSEED": "1"})  # this one is spawned
    used = [machine.call(Keeping.used) for machine in machines]
    assert len(set(used)) == 4
    for machine, directory in zip(machines, used, strict=True):
        assert Path(directory).is_relative_to(parent)
        assert machine.call(Keeping.environ) == [directory] * 3


def test_a_machine_that_is_spawned_has_it_from_its_first_line_on(
    session: Session, write: WriteProgram, parent: Path
) -> None:
    place = write("site/sitecustomize.py", "import tempfile\ntempfile.mkdtemp()\n").parent
    (machine,) = session.start(services=[Keeping()], environ={"PYTHONPATH": f"{place}:{IMPORTABLE}:{ROOT}"})
    assert len(os.listdir(machine.call(Keeping.used))) == 1
    session.shutdown()
    assert not list(parent.iterdir())


@pytest.mark.parametrize("end", ["killed", "cancelled", "shut down"])
def test_it_goes_with_its_machine_and_with_no_other(session: Session, machine: Machine, end: str) -> None:
    (other,) = session.start(services=[Keeping()])
    gone, stays = machine.call(Keeping.used), other.call(Keeping.make)
    if end == "killed":
        os.kill(machine.call(Keeping.pid), signal.SIGKILL)
    elif end == "cancelled":
        machine.cancel()
    else:
        machine.shutdown()
    wait_for(lambda: not os.path.exists(gone), "the directory is removed", LIMIT)
    assert os.listdir(stays)


def test_after_the_session_nothing_is_left(session: Session, machine: Machine, parent: Path) -> None:
    session.shutdown()
    assert not list(parent.iterdir())


def test_when_the_agent_is_killed(machine: Machine, parent: Path) -> None:
    agent_of(machine).kill()
    wait_until_empty(parent)


def test_when_the_agent_and_its_undertaker_are_killed_the_next_session_clears_up(
    session: Session, machine: Machine, parent: Path
) -> None:
    agent = agent_of(machine)
    left = below(agent.pid)
    undertaker = [process for process in agent.children() if process.name() == "bigm-undertaker"]
    assert undertaker
    for process in (*undertaker, agent):
        process.kill()
    for pid in left:  # nobody ends what the machine has started
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until_gone(left, LIMIT)
    (base,) = parent.iterdir()
    os.utime(base / ".host", (time.time() - 3600,) * 2)
    with bigmachine.start("local", output="off") as second:
        second.start(services=[Keeping()])[0].call(Keeping.make)
        assert base.exists()
    assert not list(parent.iterdir())


DRIVER = """
import sys, time
from pathlib import Path
import bigmachine
from tests.cluster.test_temporary_files import Keeping

if __name__ == "__main__":
    with bigmachine.start("local", output="off") as session:
        for machine in session.start(2, services=[Keeping()]):
            machine.call(Keeping.make)
        Path(sys.argv[1]).touch()
        time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_when_the_driver_is_ended_by_a_signal(
    start_program: StartProgram, write: WriteProgram, parent: Path, tmp_path: Path, number: signal.Signals
) -> None:
    ready = tmp_path / "ready"
    environ = {"PYTHONPATH": f"{IMPORTABLE}:{ROOT}", "TMPDIR": str(parent)}
    running = start_program(write("drive.py", DRIVER), ready, environ=environ)
    wait_for(lambda: ready.exists() or running.process.poll() is not None, "the driver is ready")
    assert running.process.poll() is None, running.wait()
    assert list(parent.iterdir())
    running.process.send_signal(number)
    wait_until_empty(parent)
    running.wait()


def test_a_process_that_replaces_another_begins_with_an_empty_one(session: Session) -> None:
    (machine,) = session.start(services=[Keeping()])
    before = machine.call(Keeping.make)
    machine.call("Supervisor.exec")
    after = machine.call(Keeping.used)
    assert after != before
    assert not os.listdir(after)
    wait_for(lambda: not os.path.exists(before), "the first directory is removed", LIMIT)


def test_the_target_of_a_link_stays(session: Session, parent: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (machine,) = session.start(services=[Keeping()])
    machine.call(Keeping.link, tmp_path)
    session.shutdown()
    assert not list(parent.iterdir())
    assert (tmp_path / "kept").read_text() == "kept"


def test_many_files_hold_up_neither_the_agent_nor_the_end(session: Session, parent: Path) -> None:
    full, other = session.start(2, services=[Keeping()])
    full.call(Keeping.fill, 5_000)
    full.cancel()
    assert other.call(Keeping.pid)
    begun = time.monotonic()
    session.shutdown()
    assert time.monotonic() - begun < LIMIT
    wait_until_empty(parent)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    return elsewhere


def test_what_a_service_holds_elsewhere_is_finalized_at_a_clean_end(session: Session, elsewhere: Path) -> None:
    (machine,) = session.start(services=[Keeping()])
    machine.call(Keeping.hold, elsewhere)
    machine.call(Keeping.hold_on_the_loop, elsewhere)
    assert len(os.listdir(elsewhere)) == 4
    machine.shutdown()
    wait_for(lambda: os.listdir(elsewhere) == ["written"], "the temporary ones are removed", LIMIT)
    wait_for(lambda: (elsewhere / "written").read_text() == "all of it", "the other is written", LIMIT)


def test_also_where_it_holds_itself(session: Session, elsewhere: Path) -> None:
    (machine,) = session.start(services=[Keeping()])
    machine.call(Keeping.hold_in_a_circle, elsewhere)
    machine.shutdown()
    wait_for(lambda: not os.listdir(elsewhere), "it is removed", LIMIT)


def test_finalizers_that_take_long_are_cut_short() -> None:
    code = (
        "import time\nfrom bigmachine.program import main\n"
        "main._FINALIZING = 0.1\nmain.finish(3, lambda: time.sleep(60))"
    )
    begun = time.monotonic()
    outcome = subprocess.run([sys.executable, "-c", code], check=False, timeout=30)
    assert outcome.returncode == 3
    assert time.monotonic() - begun < 20


PROGRAM = """
import json
import tempfile

import bigmachine
import package
from package import part

class Probe:
    def look(self):
        return [part.PID, part.MADE, part.USED, tempfile.gettempdir(), tempfile.mkdtemp()]


if __name__ == "__main__":
    with bigmachine.start("local") as session:
        print(json.dumps([machine.call(Probe.look) for machine in session.start(2, services=[Probe()])]))
"""


@pytest.mark.parametrize("use", ["", "tempfile.tempdir = '/var/tmp'\n"])
def test_modules_that_use_it_at_import(run_program: RunProgram, write: WriteProgram, parent: Path, use: str) -> None:
    others = range(WORTHWHILE - 2)
    write("package/__init__.py", "".join(f"from package import m{number}\n" for number in others))
    for number in others:
        write(f"package/m{number}.py", "")
    write(
        "package/part.py",
        f"import os, tempfile\nPID = os.getpid()\nUSED = tempfile.gettempdir()\nMADE = tempfile.mkdtemp()\n{use}",
    )
    outcome = run_program(write("app.py", PROGRAM), environ={"TMPDIR": str(parent)})
    (pid, shared, zygotes, *one), (other_pid, other_shared, _, *other) = json.loads(outcome.out)
    assert (pid, shared) == (other_pid, other_shared)  # the import was one
    assert Path(shared).parent == Path(zygotes)
    if use:  # what a module has said holds
        assert one[0] == other[0] == "/var/tmp"
        for directory in (one[1], other[1]):
            os.rmdir(directory)
    else:
        assert len({zygotes, one[0], other[0]}) == 3
        assert all(Path(made).parent == Path(used) for used, made in (one, other))
        assert all(Path(used).is_relative_to(parent) for used in (zygotes, one[0], other[0]))
    # The driver itself has imported it, too, and is no machine.
    assert all(not path.name.startswith("bm-") for path in parent.iterdir())
