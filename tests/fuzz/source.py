"""Values made of a fuzzer's bytes: the same bytes always make the same values, and any bytes make some."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bigmachine.rpc.streams.streamed import BYTES, ITEMS, StreamRef

T = TypeVar("T")
_NUMBERS = (0, 1, -1, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 10**30)
_TEXTS = (
    "",
    "S.echo",
    "S.count",
    "S.drain",
    "S.fail",
    "nothing",
    "builtins",
    "__main__",
    "<m1:a.py>",
    "a\0b",
    "\ud800",
)


class Source:
    """Takes values off the front of the bytes; behind their end everything is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def number(self, width: int = 1) -> int:
        return int.from_bytes(self.take(width), "little")

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.number() % len(choices)]

    def blob(self) -> bytes:
        return self.take(self.number())

    def integer(self) -> int:
        return self.one_of(_NUMBERS) if self.number() & 1 else self.number(2)

    def text(self) -> str:
        return self.one_of(_TEXTS) if self.number() & 1 else self.blob().decode("latin-1")

    def value(self, depth: int = 3) -> Any:
        """Make a value that JSON and pickle can write, and now and then one that only pickle can."""
        what = self.number() % 12
        if what >= 8 and depth:
            members = [self.value(depth - 1) for _ in range(self.number() % 5)]
            kinds: tuple[Callable[[list[Any]], Any], ...] = (list, tuple, lambda m: dict(enumerate(m)), _keyed)
            return kinds[what - 8](members)
        plain: tuple[Callable[[], Any], ...] = (
            lambda: None,
            self.integer,
            self.text,
            self.blob,
            lambda: bool(self.number() & 1),
            lambda: StreamRef(self.integer(), self.one_of((ITEMS, BYTES, "other"))),
            lambda: float(self.integer()),
            lambda: self.one_of((ValueError, KeyError))(self.text()),
        )
        return plain[what % len(plain)]()

    def pickled(self, value: object) -> bytes:
        """Pickle a value; now and then with a byte that is another one, or with its end cut off."""
        data = pickle.dumps(value, 5)
        how = self.number() % 8
        if how == 0 and data:
            at = self.number(2) % len(data)
            data = data[:at] + self.take(1) + data[at + 1 :]
        elif how == 1:
            data = data[: self.number(2) % (len(data) + 1)]
        return data if is_tame(data) else b""


def _keyed(members: list[Any]) -> dict[str, Any]:
    return {f"k{number}": member for number, member in enumerate(members)}


class _Unpickler(pickle.Unpickler):
    """Finds what the library sends and nothing else: a fuzzer may come upon the name of any function."""

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module in ("builtins", "bigmachine.rpc.streams.streamed") else None
        if found is StreamRef or (isinstance(found, type) and issubclass(found, BaseException)):
            return found
        raise pickle.UnpicklingError(f"{module}.{name} is not for a fuzzer")


def is_tame(data: bytes) -> bool:
    """Tell that a pickle cannot ask the interpreter itself for gigabytes: by a number in its memo, by a length."""
    return b"r" not in data and b"\x96" not in data


def loads(data: Any, *, buffers: Any = None) -> Any:
    """Stand in for `pickle.loads`: a proven peer may have any function called here, a fuzzer may not."""
    return _Unpickler(io.BytesIO(bytes(data)), buffers=buffers).load()
