"""A proxy turns methods into calls, of its own class, and gives what the class's methods give."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any

import pytest

from bigmachine import Call, Machine
from bigmachine.errors import InvalidCall
from bigmachine.machine.proxy import make_proxy
from bigmachine.session import Session


class Base:
    limit = 3

    def whose(self) -> str:
        return type(self).__name__

    async def whose_async(self) -> str:
        return type(self).__name__

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @staticmethod
    def of_nobody(word: str = "static") -> str:
        return word

    def _private(self) -> None: ...


class One(Base): ...


class Two(Base): ...


class Recorder:
    """Stands for a machine where only the name of the call matters."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Recorder, ())

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        return ("call", method, args, kwargs)

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        return ("submit", method, args, kwargs)


@pytest.fixture
def machine(session: Session) -> Machine:
    (machine,) = session.start(services=[One(), Two()])
    return machine


def test_a_method_is_a_call_with_the_arguments() -> None:
    proxy: Any = make_proxy(Recorder(), One, None)
    assert proxy.whose(1, x=2) == ("call", f"@{__name__}:One.whose", (1,), {"x": 2})


def test_a_name_goes_before_the_class() -> None:
    proxy: Any = make_proxy(Recorder(), One, "first")
    assert proxy.whose() == ("call", "first.whose", (), {})


def test_an_async_method_is_submitted() -> None:
    proxy: Any = make_proxy(Recorder(), One, None)
    assert proxy.whose_async()[0] == "submit"


def test_it_asks_the_service_of_its_class_also_for_a_method_that_two_share(machine: Machine) -> None:
    assert machine.service(One).whose() == "One"
    assert machine.service(Two).whose() == "Two"


def test_an_async_method_gives_something_to_await_as_in_the_class(machine: Machine) -> None:
    async def main() -> str:
        return await machine.service(Two).whose_async()

    assert asyncio.run(main()) == "Two"
    assert isinstance(machine.service(Two).whose_async(), Call)


def test_methods_of_the_class_and_static_ones_are_called_there_too(machine: Machine) -> None:
    assert machine.service(One).of_class() == "One"
    assert machine.service(One).of_nobody("word") == "word"


def test_private_methods_are_not_there() -> None:
    proxy: Any = make_proxy(Recorder(), One, None)
    with pytest.raises(AttributeError, match="'_private' is private"):
        proxy._private()
    assert not hasattr(proxy, "__len__")


@pytest.mark.parametrize("name", ["who", "limit"])
def test_what_is_no_method_is_not_there(name: str) -> None:
    with pytest.raises(AttributeError, match=f"One has no method '{name}'"):
        getattr(make_proxy(Recorder(), One, None), name)


def test_nothing_can_be_set() -> None:
    proxy: Any = make_proxy(Recorder(), One, None)
    with pytest.raises(AttributeError, match="lives on the machine"):
        proxy.limit = 4


def test_it_lists_the_methods_that_can_be_called() -> None:
    assert dir(make_proxy(Recorder(), One, None)) == ["of_class", "of_nobody", "whose", "whose_async"]


def test_it_tells_what_it_stands_for(machine: Machine) -> None:
    assert repr(machine.service(One)) == f"<proxy of One on {machine!r}>"


@pytest.mark.parametrize("copied", [copy.copy, lambda proxy: pickle.loads(pickle.dumps(proxy))])
def test_it_can_be_copied_and_sent(copied: Any) -> None:
    proxy = copied(make_proxy(Recorder(), One, "first"))
    assert proxy.whose() == ("call", "first.whose", (), {})


@pytest.mark.parametrize("odd", [One(), "One", None])
def test_what_is_no_class_is_refused(odd: Any) -> None:
    with pytest.raises(InvalidCall, match="takes the service's class"):
        make_proxy(Recorder(), odd, None)
