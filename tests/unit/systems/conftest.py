"""A session inside this process, for each test that wants one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bigmachine import Machine, State
from bigmachine.session import Session
from bigmachine.systems.inprocess import InprocessSystem
from tests.unit.inside import Echo, inside


@pytest.fixture
def system() -> InprocessSystem:
    return InprocessSystem()


@pytest.fixture
def session(system: InprocessSystem) -> Iterator[Session]:
    with inside(system) as (_, session):
        yield session


@pytest.fixture
def machine(session: Session) -> Machine:
    (machine,) = session.start(services=[Echo()])
    machine.wait(State.RUNNING, 10)
    return machine
