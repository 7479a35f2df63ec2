"""A method that is to meet faults is given by its name or as a function, and meets them however it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import bigmachine
from bigmachine import Machine, Session
from bigmachine.errors import InvalidCall, NetworkError
from bigmachine.testing import Fault, inject_faults


class Base:
    def echo(self, value: int) -> int:
        return value


class Pi(Base):
    def sample(self, n: int) -> int:
        return n


class Other(Base):
    def sample(self, n: int) -> int:
        return -n


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with bigmachine.start("inprocess") as session:
        yield session


@pytest.fixture(scope="module")
def machine(session: Session) -> Machine:
    (machine,) = session.start(services={"PI": Pi(), "Other": Other()})
    return machine


CALLS: dict[str, tuple[str, Callable[[Machine], object]]] = {
    "by name": ("sample", lambda m: m.call("PI.sample", 3)),
    "by function": ("sample", lambda m: m.call(Pi.sample, 3)),
    "by proxy": ("sample", lambda m: m.service(Pi).sample(3)),
    "by named proxy": ("sample", lambda m: m.service(Pi, "PI").sample(3)),
    "inherited, by name": ("echo", lambda m: m.call("PI.echo", 3)),
    "inherited, by proxy": ("echo", lambda m: m.service(Pi).echo(3)),
}


@pytest.mark.parametrize("how", CALLS)
@pytest.mark.parametrize("by_name", [True, False], ids=["name", "function"])
def test_a_method_is_meant_however_it_is_given_and_called(machine: Machine, by_name: bool, how: str) -> None:
    name, call = CALLS[how]
    method: object = f"PI.{name}" if by_name else getattr(Pi, name)
    with inject_faults(machine, seed=1, cut=1.0, methods=[method]) as injected:  # type: ignore[list-item]
        with pytest.raises(NetworkError, match="a test cut the connection"):
            call(machine)
        assert machine.call("Other.sample", 3) == -3
    assert injected.faults == [(f"PI.{name}", Fault.CUT)]
    assert injected.calls == 1
    assert call(machine) == 3


def test_a_service_of_one_class_is_meant_by_the_function_of_its_base(session: Session) -> None:
    (machine,) = session.start(services={"PI": Pi()})
    with inject_faults(machine, seed=1, cut=1.0, methods=["PI.echo"]) as injected:
        with pytest.raises(NetworkError):
            machine.call(Base.echo, 3)
        assert machine.call(Pi.sample, 3) == 3
    assert injected.faults == [("PI.echo", Fault.CUT)]


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("PX.sample", "methods has 'PX.sample', but no machine here has such a method; there is Other, PI"),
        ("PI.smaple", "methods has 'PI.smaple', .*; did you mean 'sample'"),
        (dict.get, "methods has 'dict.get'"),
        ("sample", "methods has 'sample'"),
    ],
)
def test_a_method_that_no_machine_has_is_refused(machine: Machine, method: object, text: str) -> None:
    with (
        pytest.raises(InvalidCall, match=text),
        inject_faults(machine, seed=1, cut=1.0, methods=[method]),  # type: ignore[list-item]
    ):
        raise AssertionError("it was taken")
    assert machine.call("PI.sample", 3) == 3


def test_a_method_that_one_of_several_machines_has_is_taken(session: Session, machine: Machine) -> None:
    (other,) = session.start(services={"Alone": Pi()})
    with inject_faults([machine, other], seed=1, cut=1.0, methods=["Alone.sample"]) as injected:
        assert machine.call("PI.sample", 3) == 3
        with pytest.raises(NetworkError):
            other.call(Pi.sample, 3)
    assert injected.faults == [("Alone.sample", Fault.CUT)]


def test_calls_are_counted_under_the_name_that_the_machine_counts_them_under(session: Session) -> None:
    (machine,) = session.start(services={"PI": Pi()})
    machine.wait()
    told: list[str] = []
    machine.trace_calls(lambda method, _seconds, _failed: told.append(method))
    machine.call("PI.sample", 1)
    machine.call(Pi.sample, 1)
    machine.call(Pi.echo, 1)
    machine.service(Pi).echo(1)
    here, there = machine.call_statistics(), machine.call("Supervisor.expvars")["calls"]
    counts = {name: numbers.calls for name, numbers in here.items() if name.startswith(("P", "B"))}
    assert counts == {"PI.sample": 2, "PI.echo": 2}
    assert {name: there[name].calls for name in counts} == counts
    assert [name for name in told if name.startswith("P")] == ["PI.sample", "PI.sample", "PI.echo", "PI.echo"]
