"""Which arguments are streams, and which callables are called for one: never one that may be a method's to run."""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import operator
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import pytest

from bigmachine.rpc.streams.arguments import Feed, add_hint, are_plain, is_factory, take_streams
from bigmachine.rpc.streams.streamed import BYTES, ITEMS, StreamRef
from tests.unit.rpc.ends import memory


def numbers() -> Iterator[int]:
    yield 1


async def numbers_async() -> AsyncIterator[int]:
    yield 1


def numbers_up_to(n: int) -> Iterator[int]:
    yield from range(n)


def returns_iterator() -> Iterator[int]:
    return iter([1])


def returns_generator() -> Generator[int, None, None]:
    return numbers()  # type: ignore[return-value]  # as declared


def returns_file() -> BinaryIO:
    return io.BytesIO()


def returns_bytes_io() -> io.BytesIO:
    return io.BytesIO()


def returns_io() -> IO[bytes]:
    return io.BytesIO()


class Ones:
    def __init__(self, n: int) -> None:
        self.left = n

    def __iter__(self) -> Ones:
        return self

    def __next__(self) -> int:
        return 1


def returns_own_iterator():  # type: ignore[no-untyped-def]  # what stands here as a text says nothing
    return Ones(1)


returns_own_iterator.__annotations__["return"] = Ones


def returns_file_of_its_class():  # type: ignore[no-untyped-def]  # as above
    return io.BytesIO()


returns_file_of_its_class.__annotations__["return"] = io.BufferedRandom


def returns_unannotated():  # type: ignore[no-untyped-def]  # on purpose
    return iter([1])


def work() -> int:
    raise AssertionError("this is a method's to run")


def work_on(n: int) -> int:
    raise AssertionError("this is a method's to run")


class Maker:
    def make(self) -> Iterator[int]:
        return iter([1])

    def make_unannotated(self):  # type: ignore[no-untyped-def]  # on purpose
        return iter([1])

    def work(self) -> int:
        return work()

    def __call__(self) -> Iterator[int]:
        return iter([1])


def local() -> Callable[[], Iterator[int]]:
    def inner():  # type: ignore[no-untyped-def]  # an annotation would tell
        return iter([1])

    return inner


@pytest.mark.parametrize(
    "value",
    [
        numbers,
        numbers_async,
        returns_iterator,
        returns_generator,
        returns_file,
        returns_bytes_io,
        returns_io,
        functools.partial(numbers_up_to, 3),
        functools.partial(functools.partial(numbers_up_to), 3),
        functools.partial(open, "/dev/null", "rb"),
        functools.partial(Path("/dev/null").open, "rb"),
        functools.partial(gzip.open, "/dev/null"),
        functools.partial(iter, [1, 2]),
        functools.partial(iter, list, []),
        functools.partial(io.BytesIO, b"abc"),
        functools.partial(itertools.count, 3),
        functools.partial(Ones, 3),
        returns_own_iterator,
        returns_file_of_its_class,
        Maker().make,
    ],
)
@pytest.mark.parametrize("by_value", [False, True])
def test_a_callable_that_says_so_makes_a_stream(value: object, by_value: bool) -> None:
    assert is_factory(value, by_value=by_value)


@pytest.mark.parametrize("value", [lambda: iter([1]), lambda n=1: iter([n]), local()])
def test_a_callable_that_could_not_travel_makes_a_stream(value: object) -> None:
    assert is_factory(value)


@pytest.mark.parametrize("value", [lambda: iter([1]), local(), lambda: work()])  # noqa: PLW0108 (a lambda is meant)
def test_where_lambdas_and_local_functions_travel_they_are_values(value: object) -> None:
    assert not is_factory(value, by_value=True)


@pytest.mark.parametrize(
    "value",
    [
        work,
        Maker().work,
        functools.partial(work),
        functools.partial(work_on, 3),
        functools.partial(operator.add, 1, 2),
        numbers_up_to,
        lambda n: n,
        Maker,
        Maker(),
        returns_unannotated,
        functools.partial(returns_unannotated),
        Maker().make_unannotated,
        functools.partial(iter),
        functools.partial(map, str),
        functools.partial(Ones),
        functools.partial(list, [1]),
        io.BytesIO,
        iter,
        len,
        int,
        open,
        5,
        "text",
        None,
    ],
)
@pytest.mark.parametrize("by_value", [False, True])
def test_any_other_callable_is_a_value(value: object, by_value: bool) -> None:
    assert not is_factory(value, by_value=by_value)


def taken(*args: Any, by_value: bool = False, **kwargs: Any) -> tuple[Any, Any, list[Feed]]:
    idents = itertools.count(100)
    return take_streams(args, kwargs, idents.__next__, by_value=by_value)


def test_values_stay_as_they_are() -> None:
    value = object()
    args, kwargs, feeds = taken(1, value, work, functools.partial(work_on, 3), [iter([1])], key={"a": iter([1])})
    assert feeds == []
    assert args[1] is value
    assert args[2] is work
    assert type(args[4][0]) is type(iter([1]))
    assert type(kwargs["key"]["a"]) is type(iter([1]))


def test_each_stream_is_replaced_by_a_reference_under_an_id_of_its_own() -> None:
    source, file = iter([1]), io.BytesIO()
    args, kwargs, feeds = taken(1, source, file, key=numbers())
    assert args == (1, StreamRef(100, ITEMS), StreamRef(101, BYTES))
    assert kwargs == {"key": StreamRef(102, ITEMS)}
    assert [(feed.ident, feed.kind) for feed in feeds] == [(100, ITEMS), (101, BYTES), (102, ITEMS)]
    assert feeds[0].source is source
    assert feeds[1].source is file


def test_what_the_library_made_it_closes_and_a_callers_file_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with path.open("rb") as mine:
        _, _, feeds = taken(mine, iter([1]), functools.partial(open, path, "rb"), lambda: path.open("rb"), numbers)
        assert [feed.closes for feed in feeds] == [False, True, True, True, True]
        for feed in feeds[2:4]:
            feed.source.close()


def test_a_maker_is_called_anew_each_time() -> None:
    made = []

    def make() -> Iterator[int]:
        made.append(iter([1]))
        return made[-1]

    _, _, (first,) = taken(make)
    _, _, (second,) = taken(make)
    assert [first.source, second.source] == made
    assert first.source is not second.source


@pytest.mark.parametrize(
    ("args", "kwargs", "plain"),
    [
        ((), {}, True),
        ((1, "a", b"b", 2.0, None, [iter([1])], (1,), {1}, {}), {"k": 1}, True),
        ((object(),), {}, False),
        ((1,), {"k": iter([1])}, False),
    ],
)
def test_a_quick_look_tells_arguments_that_cannot_be_streams(args: Any, kwargs: Any, plain: bool) -> None:
    assert are_plain(args, kwargs) is plain


def misuse(use: Callable[[Any], object], value: object) -> list[str]:
    try:
        use(value)
    except (TypeError, AttributeError) as exc:
        add_hint(exc, (1,), {"source": value})
        return getattr(exc, "__notes__", [])
    raise AssertionError("it went well")


@pytest.mark.parametrize("value", [returns_unannotated, functools.partial(returns_unannotated), Maker().work, len])
@pytest.mark.parametrize("use", [list, next, sum, lambda source: source.read(), lambda source: source.__next__()])
def test_a_method_that_got_a_function_instead_of_a_stream_has_a_hint(
    use: Callable[[Any], object], value: object
) -> None:
    assert "give a lambda" in misuse(use, value)[0]


def list_of_five(_: object) -> list[object]:
    five: Any = 5
    return list(five)


@pytest.mark.parametrize(
    ("use", "value"),
    [(list, 5), (lambda source: source.name, work), (lambda source: source + 1, work), (list_of_five, work)],
)
def test_other_errors_have_none(use: Callable[[Any], object], value: object) -> None:
    assert misuse(use, value) == []


class Reader:
    def total(self, numbers: Iterator[int]) -> int:
        return sum(numbers)

    async def total_async(self, numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    def size(self, file: BinaryIO) -> int:
        return len(file.read())

    def run(self, function: Callable[[], object]) -> str:
        return type(function()).__name__


def returns_unannotated_file():  # type: ignore[no-untyped-def]  # on purpose
    return io.BytesIO(b"abc")


def test_what_makes_a_stream_is_called_for_it_and_a_function_that_may_be_a_value_is_passed() -> None:
    made: Callable[[], object] = returns_unannotated_file
    with memory({"R": Reader()}) as ends:
        assert ends.call("R.total", functools.partial(iter, [1, 2])) == 3
        assert ends.call("R.total_async", lambda: iter([1, 2])) == 3
        assert ends.call("R.size", functools.partial(io.BytesIO, b"abc")) == 3
        assert ends.call("R.size", lambda: made()) == 3  # noqa: PLW0108 (as the hint says)
        assert ends.call("R.run", returns_unannotated_file) == "BytesIO"


@pytest.mark.parametrize(
    ("method", "value"),
    [("total", returns_unannotated), ("total_async", returns_unannotated), ("size", returns_unannotated_file)],
)
def test_the_error_of_a_method_that_wanted_a_stream_says_how_to_give_one(method: str, value: object) -> None:
    with memory({"R": Reader()}) as ends, pytest.raises((TypeError, AttributeError)) as caught:
        ends.call(f"R.{method}", value)
    assert any("give a lambda that calls it" in note for note in caught.value.__notes__)
