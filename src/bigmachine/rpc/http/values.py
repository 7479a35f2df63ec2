"""JSON to arguments and results to JSON, for callers that do not speak pickle. Pure.

Arguments: an object is keyword arguments, an array positional ones, nothing at all no arguments, any other value is
the one positional argument. Results, besides what JSON knows:

| Python | JSON |
|---|---|
| bytes, bytearray, memoryview | `{"$bytes": "<base64>"}`; the same shape in a request arrives as `bytes` |
| dataclass | object of its fields |
| Enum | its value |
| tuple, set, frozenset, deque, range, dict views | array (a set is sorted if its items can be) |
| NumPy scalar or array, `array.array`, whatever else has `tolist()` | number or nested array |
| any Mapping | object |
| date, time, datetime | ISO 8601 |
| Decimal, UUID, Path | string |

NaN and the infinities are refused both ways: JSON has no form for them, and what Python writes by default breaks
other parsers. A body is parsed and written in one go on the event loop; a thread would not help, as `json` holds the
GIL throughout.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import uuid
from collections import deque
from collections.abc import Mapping, ValuesView
from collections.abc import Set as AbstractSet
from typing import NoReturn

BYTES_KEY = "$bytes"


class BadJson(ValueError):
    """What came is not JSON, or not JSON that can be arguments (fault: the caller)."""


class NotJsonable(ValueError):
    """What should go out has no JSON form (fault: the method, or the choice of this protocol for it)."""


def decode_arguments(body: bytes) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return the positional and the keyword arguments that a request's body stands for.

    Raises: BadJson.
    """
    if not body or body.isspace():
        return (), {}
    try:
        value: object = json.loads(body, object_hook=_revive, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BadJson(
            f"the body is not JSON ({exc}): send an object of keyword arguments, an array of positional ones, "
            "or one value"
        ) from exc
    if isinstance(value, dict):
        return (), value
    if isinstance(value, list):
        return tuple(value), {}
    return (value,), {}


def encode(value: object) -> bytes:
    """Write `value` as one line of JSON, without the newline.

    Raises: NotJsonable.
    """
    try:
        return json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":")).encode("ascii")
    except Exception as exc:  # `tolist` and dataclass fields run the user's code: anything can come out
        raise NotJsonable(
            f"a {_name(value)} cannot be written as JSON ({str(exc) or type(exc).__name__}): return plain values, "
            "dataclasses or bytes, or call it from Python with bigmachine"
        ) from exc


def _plain(value: object) -> object:
    """Return what the encoder should write in the place of a value that JSON does not know, one level deep."""
    if isinstance(value, bytes | bytearray | memoryview):
        return {BYTES_KEY: base64.b64encode(value).decode("ascii")}
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, AbstractSet):
        return _sorted_if_possible(value)
    if isinstance(value, deque | range | ValuesView):
        return list(value)
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID | pathlib.PurePath):
        return str(value)
    # NumPy is recognised by what it can do, as it must not be imported for this.
    to_list = getattr(value, "tolist", None)
    if callable(to_list) and not isinstance(value, type):
        return to_list()
    raise TypeError(f"a {_name(value)} has no JSON form")


def _sorted_if_possible(items: AbstractSet[object]) -> list[object]:
    try:
        return sorted(items)  # type: ignore[type-var]  # whether items compare is found out by trying
    except TypeError:
        return list(items)


def _revive(pairs: dict[str, object]) -> object:
    text = pairs.get(BYTES_KEY)
    if len(pairs) != 1 or not isinstance(text, str):
        return pairs
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise BadJson(f"{BYTES_KEY} is not base64: {exc}") from exc


def _refuse_constant(name: str) -> NoReturn:
    raise BadJson(f"{name} is not a JSON value")


def _name(value: object) -> str:
    kind = type(value)
    is_plain = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if is_plain else f"{kind.__module__}.{kind.__qualname__}"
