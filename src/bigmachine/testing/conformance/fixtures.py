"""The suite's fixtures: the System under test, sessions on it, and what is left when they have ended."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import bigmachine
from bigmachine import Launched, Machine, Session, State, System
from bigmachine.system import Ticket
from bigmachine.testing.conformance.services import Probe


@dataclass
class Watched:
    """A System, and how it was used."""

    system: System
    patience: float
    launches: list[int] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)
    places: list[Launched] = field(default_factory=list)
    released: list[Launched] = field(default_factory=list)

    def run(self, session: Session, n: int = 1, services: Sequence[object] = ()) -> list[Machine]:
        """Start machines (as many as there are, if fewer), and wait until they run."""
        machines = session.start(n, services=services or [Probe()])
        for machine in machines:
            machine.wait(State.RUNNING, self.patience)
        return machines

    def kill(self, machine: Machine) -> None:
        """Kill a machine as `kill -9` does."""
        kill: Callable[[Machine], object] | None = getattr(self.system, "kill", None)
        if kill is not None:
            kill(machine)
        else:
            machine.submit(Probe.kill_itself)

    def stops(self, machine: Machine) -> bigmachine.MachineStopped:
        """Wait until a machine has stopped; return why."""
        machine.wait(State.STOPPED, self.patience)
        assert isinstance(machine.error, bigmachine.MachineStopped)
        return machine.error


@pytest.fixture(scope="session")
def bigmachine_system(request: pytest.FixtureRequest) -> str:
    """The name of the System under test."""
    name: str | None = request.config.getoption("--bigmachine-system", None)
    if name is None:
        pytest.fail("which System? pytest --bigmachine-system=NAME")
    return name


@pytest.fixture(scope="session")
def patience(request: pytest.FixtureRequest) -> float:
    """How long a machine may take to come up, in seconds."""
    return float(request.config.getoption("--bigmachine-patience", 60.0))


def make_system(name: str) -> System:
    """Make the System of that name, with the options that are configured."""
    from bigmachine import config
    from bigmachine.system import create

    settings = config.load(name)
    return create(settings.system, settings.options)


def watch(system: System, patience: float) -> Watched:
    """Note how a System is used from now on."""
    watched = Watched(system, patience)
    launch, release = system.launch, system.release

    def noted_launch(n: int, ticket: Ticket) -> Sequence[Launched]:
        watched.launches.append(n)
        watched.tickets.append(ticket)
        places = launch(n, ticket)
        watched.places.extend(places)
        return places

    def noted_release(place: Launched) -> None:
        watched.released.append(place)
        release(place)

    system.launch = noted_launch  # type: ignore[method-assign]  # on this one object, for this one test
    system.release = noted_release  # type: ignore[method-assign]  # as above
    return watched


@pytest.fixture
def watched(bigmachine_system: str, patience: float) -> Iterator[Watched]:
    """A fresh System."""
    watched = watch(make_system(bigmachine_system), patience)
    yield watched
    watched.system.shutdown(20.0)


@pytest.fixture
def session(watched: Watched) -> Iterator[Session]:
    """A session on the fresh System."""
    with bigmachine.start(watched.system) as session:
        yield session


@pytest.fixture(scope="module")
def machines(bigmachine_system: str, patience: float) -> Iterator[list[Machine]]:
    """Machines for a whole file of tests that leave them as they are: one, or two if there are two to be had."""
    watched = watch(make_system(bigmachine_system), patience)
    with bigmachine.start(watched.system) as session:
        yield watched.run(session, 2)


@pytest.fixture
def machine(machines: list[Machine]) -> Machine:
    """One machine that is left as it is."""
    return machines[0]


@pytest.fixture
def pair(machines: list[Machine]) -> tuple[Machine, Machine]:
    """Two machines that are left as they are."""
    if len(machines) < 2:
        pytest.skip("this System provides one machine at a time")
    return machines[0], machines[1]


def is_inside(machine: Machine) -> bool:
    """Tell whether a machine is no process of its own, but inside this one."""
    return bool(machine.call("Supervisor.getpid") == os.getpid() and machine.call(Probe.facts)["pid"] == os.getpid())


def needs_process(machine: Machine) -> None:
    """Skip a test that makes sense only where a machine has a process of its own."""
    if is_inside(machine):
        pytest.skip("this System's machines are inside the driver's process")


@dataclass(frozen=True)
class Left:
    """What a process has: children, threads of the library, and open files."""

    children: frozenset[int]
    threads: frozenset[str]
    files: int

    @classmethod
    def look(cls) -> Left:
        """Look at this process."""
        files = Path("/proc/self/fd")
        return cls(
            children=frozenset(child.pid for child in psutil.Process().children(recursive=True)),
            threads=frozenset(t.name for t in threading.enumerate() if t.name.startswith("bigmachine")),
            files=len(list(files.iterdir())) if files.exists() else 0,
        )


def eventually(condition: Callable[[], object], claim: str, timeout: float = 10.0) -> None:
    """Wait until a condition holds; fail with `claim` if it does not within `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, claim
        time.sleep(0.01)
