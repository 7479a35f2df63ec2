"""JSON for arguments and results."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import types
import uuid
from typing import NamedTuple

import numpy as np
import pytest

from bigmachine.rpc.http.values import BadJson, NotJsonable, decode_arguments, encode


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Inner:
    data: bytes


@dataclasses.dataclass
class Outer:
    inner: Inner
    colours: list[Colour]


class Pair(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    ("body", "args", "kwargs"),
    [
        (b"", (), {}),
        (b" \r\n", (), {}),
        (b'{"a": 1, "b": [2]}', (), {"a": 1, "b": [2]}),
        (b"{}", (), {}),
        (b"[1, [2], null]", (1, [2], None), {}),
        (b"[]", (), {}),
        (b"5", (5,), {}),
        (b'"text"', ("text",), {}),
        (b"null", (None,), {}),
        (b"false", (False,), {}),
        (b"[[1, 2]]", ([1, 2],), {}),
        (b'{"$bytes": "aGk="}', (b"hi",), {}),
        (b'{"data": {"$bytes": ""}}', (), {"data": b""}),
        (b'[{"$bytes": "aGk=", "and": 1}]', ({"$bytes": "aGk=", "and": 1},), {}),
        (b'[{"$bytes": 5}]', ({"$bytes": 5},), {}),
    ],
)
def test_the_kind_of_the_json_value_says_how_arguments_are_passed(
    body: bytes, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    assert decode_arguments(body) == (args, kwargs)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"a=1",
        b"[1] [2]",
        b"\xff\xfe\xfd",
        b"[NaN]",
        b"-Infinity",
        b"[" * 200_000,
        b"1" * 10_000,
        b'{"$bytes": "not base64!"}',
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_is_refused_whatever_way_it_is_wrong(body: bytes) -> None:
    with pytest.raises(BadJson):
        decode_arguments(body)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": [1, 2.5, None, True, "ü"]}, {"a": [1, 2.5, None, True, "ü"]}),
        (b"hi", {"$bytes": "aGk="}),
        (bytearray(b"hi"), {"$bytes": "aGk="}),
        (memoryview(b"hi"), {"$bytes": "aGk="}),
        (Outer(Inner(b""), [Colour.RED]), {"inner": {"data": {"$bytes": ""}}, "colours": ["red"]}),
        (Level.HIGH, 3),
        (Pair(1, 2), [1, 2]),
        ((1, (2,)), [1, [2]]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset(["b", "a"]), ["a", "b"]),
        ({"b": 1, "a": 2}.keys(), ["a", "b"]),
        ({"a": 1}.values(), [1]),
        (collections.deque([1, 2]), [1, 2]),
        (range(3), [0, 1, 2]),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (np.int64(5), 5),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.bool_(True), True),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        ({"mean": np.float64(2.0)}, {"mean": 2.0}),
        (dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.UTC), "2024-05-06T07:08:09+00:00"),
        (dt.date(2024, 5, 6), "2024-05-06"),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
    ],
    ids=repr,
)
def test_common_values_have_a_json_form(value: object, expected: object) -> None:
    assert json.loads(encode(value)) == expected


def test_items_of_a_set_that_do_not_compare_come_in_any_order() -> None:
    assert sorted(json.loads(encode({1, "a"})), key=str) == [1, "a"]


def test_an_encoded_value_is_one_line() -> None:
    assert b"\n" not in encode({"text": "a\nb", "more": [1, 2]})


def _endless() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


def _deep() -> list[object]:
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


class Spiteful:
    def tolist(self) -> object:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        object(),
        int,
        lambda: 1,
        1j,
        {(1, 2): 3},
        float("nan"),
        [float("inf")],
        np.float64("nan"),
        _endless(),
        10**5000,
        Spiteful(),
        iter(()),
        np.complex64(1j),
        np.longdouble(1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_json_form_is_named_as_such(value: object) -> None:
    with pytest.raises(NotJsonable, match=f"{type(value).__name__}.* cannot be written as JSON"):
        encode(value)


def test_a_value_that_is_nested_too_deep_is_refused() -> None:
    value = _deep()
    with pytest.raises(NotJsonable):
        encode(value)
    while value:  # taken apart by hand: freeing it at once would recurse as deep
        value = value.pop()  # type: ignore[assignment]  # lists all the way down
