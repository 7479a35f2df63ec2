"""Which method a name means, and what is said when it means none."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bigmachine.errors import InvalidCall
from bigmachine.rpc import ServiceTable, name_of
from bigmachine.rpc.services import Gate, public_methods


class Base:
    def inherited(self) -> str:
        return "inherited"

    def overridden(self) -> str:
        return "base"


class Calculator(Base):
    constant = 5

    def __init__(self) -> None:
        self.hook = lambda: "hook"

    def add(self, a: int, b: int) -> int:
        return a + b

    async def add_slowly(self, a: int, b: int) -> int:
        return a + b

    def count(self) -> Iterator[int]:
        yield 1

    async def count_slowly(self) -> AsyncIterator[int]:
        yield 1

    @staticmethod
    async def static() -> None: ...

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    def overridden(self) -> str:
        return "derived"

    def _private(self) -> None: ...

    def __call__(self) -> None: ...

    @property
    def number(self) -> int:
        return 3

    @property
    def function(self) -> Any:
        return self.add

    @property
    def broken(self) -> Any:
        raise ValueError("not yet")

    @property
    def missing(self) -> Any:
        raise AttributeError("nothing here")


class Twin(Base):
    pass


def table_of(**services: object) -> ServiceTable:
    table = ServiceTable()
    for name, service in services.items():
        assert table.register(name, service)
    return table


# --- registering


def test_the_first_of_a_name_is_kept() -> None:
    first, second = Calculator(), Calculator()
    table = table_of(Calc=first)
    assert not table.register("Calc", second)
    assert table.get("Calc") is first


@pytest.mark.parametrize("name", ["", "_x", "@x", "a/b", "a:b", "a\nb", "a\0b", "a\rb"])
def test_a_name_that_cannot_be_called_is_refused(name: str) -> None:
    with pytest.raises(InvalidCall, match="cannot name a service"):
        ServiceTable().register(name, Calculator())


def test_a_name_may_have_dots_because_the_last_one_divides() -> None:
    table = table_of(**{"a.b.c": Calculator()})
    assert table.find("a.b.c.add").function(1, 2) == 3


def test_names_are_sorted_and_a_removed_service_is_gone_at_once() -> None:
    table = table_of(B=Calculator(), A=Calculator())
    assert table.names() == ["A", "B"]
    assert table.find("A.add").name == "A.add"
    table.remove("A")
    table.remove("A")
    with pytest.raises(InvalidCall, match="no service 'A'"):
        table.find("A.add")
    assert table.names() == ["B"]


def test_a_service_that_comes_later_is_found_although_its_name_was_asked_for_before() -> None:
    table = table_of()
    with pytest.raises(InvalidCall):
        table.find("A.add")
    table.register("A", Calculator())
    assert table.find("A.add").function(1, 2) == 3


# --- finding


@pytest.mark.parametrize(
    ("name", "is_async"),
    [
        ("add", False),
        ("add_slowly", True),
        ("count", False),
        ("count_slowly", True),
        ("static", True),
        ("of_class", False),
        ("inherited", False),
        ("function", False),
        ("hook", False),
    ],
)
def test_every_public_method_is_found_with_its_kind(name: str, is_async: bool) -> None:
    method = table_of(Calc=Calculator()).find(f"Calc.{name}")
    assert method.name == f"Calc.{name}"
    assert method.is_async is is_async
    assert callable(method.function)


def test_a_partial_of_an_async_function_can_be_called() -> None:
    calc = Calculator()
    calc.hook = functools.partial(calc.add_slowly, 1, 2)  # type: ignore[assignment]  # another callable
    method = table_of(Calc=calc).find("Calc.hook")
    assert asyncio.run(method.function()) == 3


@pytest.mark.parametrize(
    "name", ["_private", "__init__", "__call__", "__class__", "__reduce__", "constant", "number", "missing", "", "nix"]
)
def test_what_is_not_public_or_not_callable_is_refused(name: str) -> None:
    with pytest.raises(InvalidCall, match=rf"service 'Calc' \(Calculator\) has no public method '{name}'"):
        table_of(Calc=Calculator()).find(f"Calc.{name}")


def test_a_property_that_raises_is_an_invalid_call_that_says_what_it_raised() -> None:
    with pytest.raises(InvalidCall, match=r"looking up Calc.broken raised ValueError: not yet") as caught:
        table_of(Calc=Calculator()).find("Calc.broken")
    assert isinstance(caught.value.__cause__, ValueError)


def test_of_many_services_an_error_names_some() -> None:
    table = table_of(**{f"Supervisor@{i:03}": Calculator() for i in range(200)})
    with pytest.raises(InvalidCall, match=r"there is Supervisor@000, .*, Supervisor@049 and 150 more$"):
        table.find("Zzz.add")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Calc.ad", r"has no public method 'ad'; did you mean 'add'\?"),
        ("Calc.add_slow", r"did you mean 'add_slowly'\?"),
        ("Calc.zzz", "there is add, add_slowly, count, count_slowly, inherited, of_class, overridden, static$"),
        ("Clac.add", r"no service 'Clac' on this machine; did you mean 'Calc'\?"),
        ("Zzz.add", "no service 'Zzz' on this machine; there is Calc$"),
        ("add", "'add' names no method: it has to be 'Service.method'"),
        ("", "'' names no method"),
    ],
)
def test_a_near_miss_is_told_and_otherwise_what_there_is(name: str, text: str) -> None:
    with pytest.raises(InvalidCall, match=text):
        table_of(Calc=Calculator()).find(name)


def test_an_empty_table_says_that_there_is_nothing() -> None:
    with pytest.raises(InvalidCall, match="there is none"):
        table_of().find("Calc.add")


def test_public_methods_are_the_callable_ones_of_the_class() -> None:
    assert public_methods(Twin()) == ["inherited", "overridden"]


# --- by the function itself


def test_a_function_means_the_service_of_its_class() -> None:
    table = table_of(Calc=Calculator(), Other=object())
    method = table.find(name_of(Calculator.add))
    assert (method.name, method.function(2, 3)) == ("Calc.add", 5)


def test_an_inherited_function_means_the_service_of_the_derived_class() -> None:
    assert table_of(Calc=Calculator()).find(name_of(Calculator.inherited)).function() == "inherited"


def test_a_function_of_the_base_runs_the_methods_of_the_service() -> None:
    assert table_of(Calc=Calculator()).find(name_of(Base.overridden)).function() == "derived"


def test_a_function_of_a_builtin_class_is_found() -> None:
    assert table_of(D={"a": 1}).find(name_of(dict.get)).function("a") == 1


def test_a_function_of_two_services_is_refused_with_both_names() -> None:
    table = table_of(Left=Calculator(), Right=Calculator(), Twin=Twin())
    text = r"2 services are of class Calculator \(Left, Right\): name the one you mean, as in 'Left.add'"
    with pytest.raises(InvalidCall, match=text):
        table.find(name_of(Calculator.add))
    with pytest.raises(InvalidCall, match=r"3 services are of class Base or of classes derived from it \(Left, Right"):
        table.find(name_of(Base.inherited))


def test_a_function_of_a_class_that_no_service_has_is_refused() -> None:
    with pytest.raises(InvalidCall, match="no service of class Calculator on this machine; there is T"):
        table_of(T=Twin()).find(name_of(Calculator.add))


def test_a_class_of_the_same_name_in_another_module_is_another_class() -> None:
    with pytest.raises(InvalidCall, match="no service of class Calculator"):
        table_of(Calc=Calculator()).find("@elsewhere:Calculator.add")


def test_a_private_function_is_refused_also_by_the_function_itself() -> None:
    with pytest.raises(InvalidCall, match="no public method '_private'"):
        table_of(Calc=Calculator()).find(name_of(Calculator._private))


# --- bounds


class Wanted:
    """Stands for a run, as far as a gate knows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_cancelled = False
        self.info = self

    def cancelled(self) -> bool:
        return self.is_cancelled


def test_a_gate_lets_its_number_in_and_the_others_in_order() -> None:
    gate = Gate(2)
    a, b, c, d, e = (Wanted(n) for n in "abcde")
    assert [gate.enter(run) for run in (a, b, c, d, e)] == [True, True, False, False, False]
    assert gate.leave() == [c]
    assert gate.leave() == [d]
    assert gate.leave() == [e]
    assert [gate.leave(), gate.leave()] == [[], []]
    assert gate.enter(a)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
def test_a_bound_that_is_no_number_of_calls_is_refused(limit: object) -> None:
    service = Calculator()
    service.max_concurrency = limit  # type: ignore[attr-defined]  # the bound's place
    with pytest.raises(InvalidCall, match=r"service 'Calc': its max_concurrency is .*, it has to be an int of at le"):
        ServiceTable().register("Calc", service)


def test_the_methods_of_a_bounded_service_share_one_gate_and_others_have_none() -> None:
    service = Calculator()
    service.max_concurrency = 3  # type: ignore[attr-defined]  # the bound's place
    table = table_of(Bounded=service, Free=Calculator())
    gate = table.find("Bounded.add").gate
    assert gate is not None
    assert table.find("Bounded.count").gate is gate
    assert table.find("Free.add").gate is None
