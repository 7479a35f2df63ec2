"""What others see of a session, and what they cannot do to it."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigmachine.session import Session, register
from bigmachine.systems.inprocess import InprocessSystem
from tests.unit.inside import Echo, eventually

pytestmark = pytest.mark.usefixtures("runtime")


@pytest.fixture
def session(runtime: Path) -> Iterator[Session]:
    with Session.open(InprocessSystem(), "here") as session:
        yield session


def ask(session: Session) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        with register.reachable(register.made_folder(), session._id) as path:
            client.connect(path)
        client.sendall(b'{"do": "brief"}\n')
        return str(json.loads(client.makefile().readline())["session"]["name"])


def written(session: Session) -> list[str]:
    told = json.loads(Path(register.made_folder(), f"{session._id}.json").read_bytes())
    return [machine["state"] for machine in told["machines"]]


def test_the_record_follows_the_machines(session: Session) -> None:
    (machine,) = session.start(services=[Echo()])
    machine.wait(timeout=10)
    eventually(lambda: written(session) == ["RUNNING"], "the machine is written down")
    began = time.monotonic()
    machine.shutdown()
    eventually(lambda: written(session) == ["STOPPED"], "its end is written down")
    assert time.monotonic() - began < 5


def test_without_a_descriptor_it_waits_and_does_not_spin(session: Session) -> None:
    assert ask(session) == "here"  # what is imported for it is there now
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    with register.reachable(register.made_folder(), session._id) as path:
        highest = os.dup(client.fileno())
        os.close(highest)
        # This process connects and has no descriptor left for the other end.
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, limits[1]))
        try:
            client.connect(path)
            began, used = time.monotonic(), time.process_time()
            time.sleep(0.5)
            assert time.process_time() - used < 0.5 * (time.monotonic() - began)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with client:
        client.sendall(b'{"do": "brief"}\n')
        assert json.loads(client.makefile().readline())["ok"]


def test_a_folder_that_vanishes_does_not_disturb_it(session: Session, runtime: Path) -> None:
    import shutil

    shutil.rmtree(runtime)
    (machine,) = session.start(services=[Echo()])
    assert machine.call(Echo.same, 1) == 1
    session.shutdown()
    assert not runtime.exists()


def test_sessions_that_were_killed_do_not_pile_up(runtime: Path) -> None:
    folder = register.made_folder()
    for number in range(120):
        register.save(folder, register.Record(f"{number:08}", 1, "never", register.here()))
        Path(folder, f"{number:08}.sock").touch()
    with Session.open(InprocessSystem()) as session:
        assert len(os.listdir(folder)) <= register.KEPT + 2
        assert ask(session) == ""


def test_the_end_of_a_session_removes_sockets_of_those_that_were_killed(session: Session) -> None:
    folder = register.made_folder()
    for number in range(3):
        register.save(folder, register.Record(f"{number:08}", 1, "never", register.here()))
        Path(folder, f"{number:08}.sock").touch()
    session.shutdown()
    assert not [name for name in os.listdir(folder) if name.endswith(".sock")]


def test_while_nobody_comes_nothing_is_loaded_for_it() -> None:
    import subprocess
    import sys

    program = (
        "import sys; from bigmachine.session import Session; from bigmachine.systems.inprocess import InprocessSystem\n"
        "with Session.open(InprocessSystem()) as session: assert session._presence is not None\n"
        "print([name for name in sys.modules if name.startswith(('bigmachine.session.control', 'bigmachine.cli'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
