"""`frozen` does what `@dataclass(frozen=True, slots=True)` does: each claim is made of both."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest

from bigmachine.frozen import frozen


@frozen
class Ours:
    """A point with a name and notes."""

    x: int
    name: str = field(default="p", repr=False)
    notes: list[str] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


@dataclass(frozen=True, slots=True)
class Theirs:
    """A point with a name and notes."""

    x: int
    name: str = field(default="p", repr=False)
    notes: list[str] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


@frozen
class Empty:
    """Nothing."""


@frozen
class Odd:
    """Says itself what it is equal to, and how it looks."""

    x: int

    def __repr__(self) -> str:
        return "odd"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd)

    def __hash__(self) -> int:
        return 7


both = pytest.mark.parametrize("cls", [Ours, Theirs])


@both
class TestBoth:
    def test_arguments_go_by_place_and_by_name(self, cls: Any) -> None:
        made = cls(1, notes=["n"])
        assert (made.x, made.name, made.notes) == (1, "p", ["n"])

    def test_what_is_missing_or_too_much_is_refused(self, cls: Any) -> None:
        wrong: list[tuple[object, ...]] = [(), (1, "p", [], 4)]
        for arguments in wrong:
            with pytest.raises(TypeError, match=r"__init__\(\)"):
                cls(*arguments)

    def test_a_factory_makes_a_value_for_each(self, cls: Any) -> None:
        assert cls(1).notes is not cls(1).notes

    def test_its_post_init_runs(self, cls: Any) -> None:
        with pytest.raises(ValueError, match="negative"):
            cls(-1)

    def test_it_shows_what_is_to_be_shown(self, cls: Any) -> None:
        assert repr(cls(1)) == f"{cls.__name__}(x=1, notes=[])"

    def test_it_shows_itself_within_itself_once(self, cls: Any) -> None:
        made = cls(1)
        made.notes.append(made)
        assert repr(made) == f"{cls.__name__}(x=1, notes=[...])"

    def test_equality_and_hash_go_by_what_is_compared(self, cls: Any) -> None:
        assert cls(1, notes=["a"]) == cls(1, notes=["b"])
        assert hash(cls(1, notes=["a"])) == hash(cls(1, notes=["b"]))
        assert cls(1) != cls(2)
        assert cls(1) != (1, "p")

    def test_another_class_is_another_thing(self, cls: Any) -> None:
        class Derived(cls):  # type: ignore[misc]  # of either class
            pass

        assert Derived(1) != cls(1)
        assert repr(Derived(1)).endswith("Derived(x=1, notes=[])")

    def test_it_cannot_be_changed(self, cls: Any) -> None:
        made = cls(1)
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'x'"):
            made.x = 2
        with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'x'"):
            del made.x
        assert made.x == 1

    def test_it_has_slots_alone(self, cls: Any) -> None:
        assert cls.__slots__ == ("x", "name", "notes")
        assert not hasattr(cls(1), "__dict__")

    def test_it_travels_and_is_copied(self, cls: Any) -> None:
        made = cls(1, notes=["a"])
        for other in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made)):
            assert (other, other.notes) == (made, ["a"])

    def test_dataclasses_know_it(self, cls: Any) -> None:
        known: bool = dataclasses.is_dataclass(type(cls(1)))
        made = cls(1)
        assert known
        assert dataclasses.replace(made, x=2) == cls(2)
        assert dataclasses.asdict(made) == {"x": 1, "name": "p", "notes": []}

    def test_its_fields_match_by_place(self, cls: Any) -> None:
        match cls(1):
            case cls(x, name):
                assert (x, name) == (1, "p")

    def test_a_frozen_dataclass_may_be_derived_from_it_and_no_other(self, cls: Any) -> None:
        @dataclass(frozen=True)
        class More(cls):  # type: ignore[misc]  # of either class
            z: int = 3

        assert More(1).z == 3
        with pytest.raises(TypeError, match="cannot inherit non-frozen dataclass from a frozen one"):
            dataclass(type("Less", (cls,), {}))


def test_its_signature_is_told_without_an_instance() -> None:
    @frozen
    class Fresh:
        """Never made."""

        x: int
        notes: list[str] = field(default_factory=list)

    assert str(inspect.signature(Fresh)) == "(x: 'int', notes: 'list[str]' = <factory>) -> None"
    assert Fresh.__init__.__qualname__.endswith("Fresh.__init__")


def test_nothing_equals_nothing() -> None:
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())
    assert repr(Empty()) == "Empty()"


def test_what_a_class_says_itself_stays() -> None:
    assert Odd(1) == Odd(2)
    assert (repr(Odd(1)), hash(Odd(1))) == ("odd", 7)
