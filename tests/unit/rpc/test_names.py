"""How a method is named: by a string, or by the function itself."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from bigmachine.errors import InvalidCall
from bigmachine.rpc.names import ServiceNames, name_of, shown


class Base:
    def inherited(self) -> int:
        return 1


class Service(Base):
    def method(self) -> int:
        return 2

    @functools.lru_cache  # noqa: B019 (how it is decorated is the matter)
    def cached(self) -> int:
        return 3

    @staticmethod
    def static() -> int:
        return 4

    @classmethod
    def of_class(cls) -> int:
        return 5

    class Inner:
        def method(self) -> int:
            return 6


def plain() -> int:
    return 7


HERE = __name__


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("PI.sample", "PI.sample"),
        (Service.method, f"@{HERE}:Service.method"),
        (Service().method, f"@{HERE}:Service.method"),
        (Service.cached, f"@{HERE}:Service.cached"),
        (Service.static, f"@{HERE}:Service.static"),
        (Service.of_class, f"@{HERE}:Service.of_class"),
        (Service.Inner.method, f"@{HERE}:Service.Inner.method"),
        (Service.inherited, f"@{HERE}:Base.inherited"),
        (dict.get, "@builtins:dict.get"),
        (list.__len__, "@builtins:list.__len__"),
    ],
)
def test_a_string_names_itself_and_a_function_its_class_and_module(
    method: str | Callable[..., object], name: str
) -> None:
    assert name_of(method) == name


def test_a_function_of_a_class_in_a_function_is_named_too() -> None:
    class Local:
        def method(self) -> None: ...

    assert name_of(Local.method).endswith(":" + Local.__qualname__ + ".method")


@pytest.mark.parametrize("method", [plain, len, 3, None, functools.partial(plain), b"PI.sample"])
def test_what_belongs_to_no_class_is_refused_with_what_would_do(method: object) -> None:
    with pytest.raises(InvalidCall, match=r"names no method: give a function of a class \(CirclePi.sample\)"):
        name_of(method)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("name", "text"), [("PI.sample", "PI.sample"), ("@pkg.mod:A.B.method", "A.B.method"), ("", "")]
)
def test_a_name_is_shown_as_people_write_it(name: str, text: str) -> None:
    assert shown(name) == text


class Other(Base):
    def __init__(self) -> None:
        self.hook = plain


class Anything:
    def __getattr__(self, name: str) -> Callable[[], int]:
        return plain


@pytest.fixture
def names() -> ServiceNames:
    return ServiceNames({"PI": Service(), "Other": Other(), "Any": Anything()})


@pytest.mark.parametrize(
    ("method", "meanings"),
    [
        ("PI.method", {"PI.method"}),
        ("Nothing.method", {"Nothing.method"}),
        (Service.method, {"PI.method"}),
        (Base.inherited, {"PI.inherited", "Other.inherited"}),
        (f"@{HERE}:Other.inherited", {"Other.inherited"}),
        (dict.get, set()),
    ],
)
def test_who_knows_the_services_knows_what_a_wire_name_means(
    names: ServiceNames, method: str | Callable[..., object], meanings: set[str]
) -> None:
    assert names.meanings(name_of(method)) == meanings


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (Service.method, "PI.method"),
        (Base.inherited, "Base.inherited"),  # of two services
        (dict.get, "dict.get"),
        ("PI.method", "PI.method"),
    ],
)
def test_a_wire_name_is_told_with_the_services_name_if_it_means_one(
    names: ServiceNames, method: str | Callable[..., object], told: str
) -> None:
    assert names.told(name_of(method)) == told


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("PI.method", True),
        ("PI.inherited", True),
        ("Other.hook", True),
        ("Any.thing", True),
        ("Supervisor.register", True),
        ("PI.methud", False),
        ("PJ.method", False),
    ],
)
def test_what_a_service_has_is_known(names: ServiceNames, name: str, has: bool) -> None:
    assert names.has(name) is has
