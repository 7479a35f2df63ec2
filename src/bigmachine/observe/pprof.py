"""pprof's file format: what `go tool pprof`, speedscope and most flame graph viewers read. Pure.

Source of the layout: google/pprof, proto/profile.proto (field numbers below are its). Written by hand because the
`protobuf` package pins versions that a user's own packages pin otherwise, for a message of a few varints.

Learnt by trying `go tool pprof`: with `system_name` equal to the name it takes `<module>` for a template's argument and
strips it, so that stays empty; and without a mapping that says that names, files and lines are there it tries to look
them up itself.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from bigmachine.observe.profile import Frame, Labels, Profile, Stack

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Fields of Profile, and of the messages in it.
_SAMPLE_TYPE, _SAMPLE, _MAPPING, _LOCATION, _FUNCTION, _STRING = 1, 2, 3, 4, 5, 6
_TIME, _DURATION, _PERIOD_TYPE, _PERIOD, _COMMENT, _DEFAULT_TYPE = 9, 10, 11, 12, 13, 14
_MOST_INFLATED: Final = 1 << 30


#: A third of the time of gzip's own default, for a file that is a quarter larger.
_LEVEL: Final = 2


def encode(profile: Profile) -> bytes:
    """Write a profile, gzipped."""
    return gzip.compress(_Writer(profile).message(), _LEVEL, mtime=0)


def decode(data: bytes) -> Profile:
    """Read a profile, gzipped or not; what this library has no use for (addresses, mappings) is left out.

    Raises:
        ValueError: if it is none.
    """
    try:
        if data[:2] == b"\x1f\x8b":
            inflate = zlib.decompressobj(wbits=31)
            data = inflate.decompress(data, _MOST_INFLATED)
            if inflate.unconsumed_tail:
                raise ValueError(f"it is more than {_MOST_INFLATED >> 20} MiB")
        return _read(data)
    except (ValueError, IndexError, KeyError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"this is no pprof profile: {error}") from error


# writing


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers are written as 64 bits
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL: Final = [_varint(value) for value in range(1 << 14)]


def _number(field: int, value: int) -> bytes:
    if not value:
        return b""
    return _SMALL[field << 3] + (_SMALL[value] if 0 <= value < len(_SMALL) else _varint(value))


def _nested(field: int, payload: bytes) -> bytes:
    size = len(payload)
    return _SMALL[field << 3 | _BYTES] + (_SMALL[size] if size < len(_SMALL) else _varint(size)) + payload


def _packed(field: int, values: Iterable[int]) -> bytes:
    small, limit = _SMALL, len(_SMALL)
    return _nested(field, b"".join([small[value] if 0 <= value < limit else _varint(value) for value in values]))


class _Writer:
    """Numbers strings, functions and locations as they are met."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._strings: dict[str, int] = {"": 0}
        self._functions: dict[tuple[str, str], int] = {}
        self._locations: dict[Frame, int] = {}

    def message(self) -> bytes:
        profile = self._profile
        parts = [_nested(_SAMPLE_TYPE, self._type(*kind)) for kind in profile.kinds]
        parts += [_nested(_SAMPLE, sample) for sample in self._samples()]
        parts.append(_nested(_MAPPING, _number(1, 1) + b"".join(_number(has, 1) for has in (7, 8, 9))))
        for frame, ident in self._locations.items():
            line = _number(1, self._function(frame)) + _number(2, frame.line)
            parts.append(_nested(_LOCATION, _number(1, ident) + _number(2, 1) + _nested(4, line)))
        for (name, file), ident in self._functions.items():
            parts.append(
                _nested(_FUNCTION, _number(1, ident) + _number(2, self._string(name)) + _number(4, self._string(file)))
            )
        comments = [self._string(text) for text in profile.comments]
        if profile.kinds:
            parts.append(_nested(_PERIOD_TYPE, self._type(*profile.kinds[-1])))
            parts.append(_number(_DEFAULT_TYPE, self._string(profile.kinds[-1][0])))
        parts += [_number(_TIME, profile.began), _number(_DURATION, profile.duration), _number(_PERIOD, profile.period)]
        parts += [_number(_COMMENT, text) for text in comments]
        parts += [_nested(_STRING, text.encode("utf-8", "replace")) for text in self._strings]
        return b"".join(parts)

    def _samples(self) -> Iterator[bytes]:
        # Machines of one program have their stacks in common, and stacks their labels: each is written down once.
        written: dict[Stack, bytes] = {}
        marked: dict[Labels, bytes] = {}
        for (stack, labels), values in self._profile.samples.items():
            places = written.get(stack)
            if places is None:
                # The innermost frame first, as pprof has it.
                places = written[stack] = _packed(1, [self._location(frame) for frame in reversed(stack)])
            marks = marked.get(labels)
            if marks is None:
                marks = marked[labels] = b"".join([self._label(key, value) for key, value in labels])
            yield places + _packed(2, values) + marks

    def _label(self, key: str, value: str) -> bytes:
        return _nested(3, _number(1, self._string(key)) + _number(2, self._string(value)))

    def _type(self, name: str, unit: str) -> bytes:
        return _number(1, self._string(name)) + _number(2, self._string(unit))

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def _location(self, frame: Frame) -> int:
        return self._locations.setdefault(frame, len(self._locations) + 1)

    def _function(self, frame: Frame) -> int:
        return self._functions.setdefault((frame.function, frame.file), len(self._functions) + 1)


# reading


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at, end = 0, len(data)
    while at < end:
        key, at = _take(data, at)
        kind = key & 7
        value: int | bytes
        if kind == _VARINT:
            value, at = _take(data, at)
        elif kind == _BYTES:
            size, at = _take(data, at)
            if at + size > end:
                raise ValueError("it is cut off")
            value, at = data[at : at + size], at + size
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, at = int.from_bytes(data[at : at + size], "little"), at + size
        else:
            raise ValueError(f"a field of kind {kind}")
        yield key >> 3, value


def _take(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _numbers(value: int | bytes) -> list[int]:
    if isinstance(value, int):
        return [_signed(value)]
    found, at = [], 0
    while at < len(value):
        number, at = _take(value, at)
        found.append(_signed(number))
    return found


def _message(value: int | bytes) -> list[tuple[int, int | bytes]]:
    if isinstance(value, int):
        raise ValueError("a number where a message should be")  # noqa: TRY004 (bad bytes, not a bad argument)
    return list(_fields(value))


def _first(fields: list[tuple[int, int | bytes]], field: int) -> int:
    return next((value for number, value in fields if number == field and isinstance(value, int)), 0)


class _Parts:
    """The records of a profile by kind, before they are put together."""

    def __init__(self, data: bytes) -> None:
        self.all: dict[int, list[int | bytes]] = {}
        for field, value in _fields(data):
            self.all.setdefault(field, []).append(value)
        strings = self.all.get(_STRING, [])
        self.strings = [text.decode() for text in strings if isinstance(text, bytes)]
        functions = {}
        for function in map(_message, self.all.get(_FUNCTION, ())):
            functions[_first(function, 1)] = (self.string(_first(function, 2)), self.string(_first(function, 4)))
        self.locations: dict[int, list[Frame]] = {}
        for location in map(_message, self.all.get(_LOCATION, ())):
            lines = [_message(value) for field, value in location if field == 4]
            self.locations[_first(location, 1)] = [
                Frame(*functions.get(_first(line, 1), ("?", "")), _first(line, 2)) for line in lines
            ] or [Frame(f"0x{_first(location, 3):x}")]

    def string(self, at: int) -> str:
        return self.strings[at] if at else ""

    def number(self, field: int) -> int:
        value = self.all.get(field, [0])[0]
        return _signed(value) if isinstance(value, int) else 0

    def type(self, value: int | bytes) -> tuple[str, str]:
        kind = _message(value)
        return self.string(_first(kind, 1)), self.string(_first(kind, 2))


def _read(data: bytes) -> Profile:
    parts = _Parts(data)
    profile = Profile(tuple(parts.type(value) for value in parts.all.get(_SAMPLE_TYPE, ())))
    if not profile.kinds:
        raise ValueError("it does not say what was measured")
    profile.period, profile.began = parts.number(_PERIOD), parts.number(_TIME)
    profile.duration = parts.number(_DURATION)
    for value in parts.all.get(_COMMENT, ()):
        profile.comments += [parts.string(at) for at in _numbers(value)]
    for sample in map(_message, parts.all.get(_SAMPLE, ())):
        places = [number for field, value in sample if field == 1 for number in _numbers(value)]
        values = [number for field, value in sample if field == 2 for number in _numbers(value)]
        labels = {}
        for label in (_message(value) for field, value in sample if field == 3):
            labels[parts.string(_first(label, 1))] = parts.string(_first(label, 2))
        stack = tuple(frame for place in reversed(places) for frame in reversed(parts.locations[place]))
        if len(values) != len(profile.kinds):
            raise ValueError("a sample has not one number for each measure")
        profile.add(stack, values, labels)
    return profile


__all__ = ["decode", "encode"]
