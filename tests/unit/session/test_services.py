"""What may be given as services, and under which names they are installed."""

from __future__ import annotations

import pickle
import threading
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from bigmachine.errors import InvalidCall
from bigmachine.rpc import Codec
from bigmachine.session.services import named, packed
from tests.unit.inside import Echo


class Other: ...


class Unpicklable:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class RaisesAnything:
    def __reduce__(self) -> tuple[object, ...]:
        raise ZeroDivisionError("in its own code")


def test_a_mapping_gives_the_names() -> None:
    echo, other = Echo(), Other()
    assert named(MappingProxyType({"a": echo, "b": other})) == {"a": echo, "b": other}


@pytest.mark.parametrize("several", [list, tuple, iter])
def test_several_objects_are_named_after_their_classes(several: Any) -> None:
    echo, other = Echo(), Other()
    assert named(several([echo, other])) == {"Echo": echo, "Other": other}


def test_what_is_done_to_the_mapping_later_changes_nothing() -> None:
    given = {"a": Echo()}
    taken = named(given)
    given.clear()
    assert list(taken) == ["a"]


def test_two_of_one_class_need_names() -> None:
    with pytest.raises(InvalidCall, match="two services are of class Echo: give them names"):
        named([Echo(), Echo()])


@pytest.mark.parametrize("nothing", [{}, [], (), iter([])])
def test_no_service_is_an_error(nothing: Any) -> None:
    with pytest.raises(InvalidCall, match="no services provided"):
        named(nothing)


@pytest.mark.parametrize("odd", ["Echo", b"Echo", 7, None, Other()])
def test_what_is_neither_a_mapping_nor_several_objects_is_refused(odd: Any) -> None:
    with pytest.raises(InvalidCall, match="mapping from names to objects, or several objects"):
        named(odd)


@pytest.mark.parametrize("odd", [3, None, b"name", ("a",)])
def test_a_name_has_to_be_a_string(odd: Any) -> None:
    with pytest.raises(InvalidCall, match="name has to be a string"):
        packed({odd: Echo()}, Codec())


@pytest.mark.parametrize("odd", ["", "_hidden", "a/b", "a:b", "@a", "a\nb"])
def test_a_name_has_to_be_one_that_can_be_called(odd: str) -> None:
    with pytest.raises(InvalidCall, match="cannot name a service"):
        packed({odd: Echo()}, Codec())


def test_the_supervisors_name_is_taken() -> None:
    with pytest.raises(InvalidCall, match="'Supervisor' is every machine's own"):
        packed({"Supervisor": Echo()}, Codec())


def test_a_class_is_not_a_service_but_its_instance() -> None:
    with pytest.raises(InvalidCall, match=r"'Echo' is a class: give an instance of it, Echo\(\)"):
        packed({"Echo": Echo}, Codec())


@pytest.mark.parametrize("service", [Unpicklable(), RaisesAnything()])
def test_a_service_that_cannot_travel_is_named_with_the_reason(service: object) -> None:
    with pytest.raises(InvalidCall, match=r"service 'S' cannot be pickled: (TypeError|ZeroDivisionError): ") as caught:
        packed({"fine": Echo(), "S": service}, Codec())
    assert caught.value.__cause__ is not None


def test_a_class_of_a_function_travels_only_by_value() -> None:
    class Local: ...

    with pytest.raises(InvalidCall, match="cannot be pickled"):
        packed({"Local": Local()}, Codec())
    packed({"Local": Local()}, Codec(by_value=True))


def test_they_are_pickled_as_they_are_now_and_large_arrays_are_not_copied() -> None:
    array = np.arange(100_000)
    service = Holder([1], array)
    (ready,) = packed({"S": service}, Codec()).values()
    service.small.append(2)
    array[0] = 77
    back = pickle.loads(pickle.dumps(ready, 5))
    assert type(back) is Holder
    assert back.small == [1]
    assert back.array[0] == 77
    assert sum(len(buffer.raw()) for buffer in ready.buffers) == array.nbytes
    assert len(ready.data) < 1000


class Holder:
    def __init__(self, small: list[int], array: Any) -> None:
        self.small = small
        self.array = array
