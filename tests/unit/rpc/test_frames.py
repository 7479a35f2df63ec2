"""Frames of elsewhere as real tracebacks: printed with carets, walked by a debugger, described and never sent."""

import gc
import io
import pickle
import time
import traceback
import weakref
from collections.abc import Callable

import pytest

from bigmachine.errors import RemoteTraceback
from bigmachine.rpc import Codec
from bigmachine.rpc.frames import build, take
from bigmachine.rpc.wire import Decoder

CODEC = Codec(machine="m1")


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def fails(table: dict[str, dict[str, int]], password: str = "hunter2") -> int:
    many = list(range(50_000))
    odd = Odd()
    del many[0], odd
    return table["a"]["zz"] + len(many)


def caught(function: Callable[..., object], *args: object) -> Exception:
    try:
        function(*args)
    except Exception as error:  # noqa: BLE001 (any kind is wanted)
        return error
    raise AssertionError("it did not raise")


def over_there(error: BaseException, call: str = "Service.method") -> BaseException:
    """Send an error through the codec, as from machine m1."""
    decoder = Decoder(memoryview(bytearray(1 << 20)))
    frame = CODEC.error(1, error)
    decoder.buffer()[: len(frame)] = frame
    [(_, flags, _, payload, _)] = decoder.received(len(frame))
    return CODEC.load_error(payload, flags, call)


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def raised_again(error: BaseException) -> BaseException:
    def here() -> None:
        raise error

    return caught(here)


def test_nobody_who_reads_it_is_held_by_it() -> None:
    class Held:
        pass

    def reads() -> "weakref.ref[Held]":
        held = Held()
        over_there(caught(fails, {"a": {}}))
        return weakref.ref(held)

    gc.collect()
    gc.disable()
    try:
        assert reads()() is None
    finally:
        gc.enable()


def test_it_prints_as_it_would_have_there() -> None:
    error = raised_again(over_there(caught(fails, {"a": {}})))
    text = printed(error)
    assert f'File "<m1:{__file__}>", line' in text
    own = text[text.rindex("direct cause") :]
    assert 'return table["a"]["zz"] + len(many)' in own
    assert "~~~~~~~~~~^^^^^^" in own
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "(on machine m1, in the call Service.method)" in text


def test_a_debugger_walks_it() -> None:
    import pdb  # noqa: T100 (it is tried here)

    error = over_there(caught(fails, {"a": {}}))
    out = io.StringIO()
    debugger = pdb.Pdb(stdin=io.StringIO("p table\np password\np many\nup\nlist\nquit\n"), stdout=out)
    debugger.use_rawinput = False
    debugger.reset()
    debugger.interaction(None, error.__traceback__)
    said = out.getvalue()
    assert "{'a': {}}" in said
    assert "hunter2" not in said
    assert "hidden" in said
    assert "[1, 2, 3" in said
    assert "function(*args)" in said


def test_what_it_followed_comes_along() -> None:
    def chained() -> None:
        try:
            fails({})
        except KeyError as error:
            raise ValueError("no such table") from error

    def in_between() -> None:
        try:
            fails({})
        except KeyError:
            1 / 0  # noqa: B018

    error = over_there(caught(chained))
    assert isinstance(error.__context__, KeyError)
    assert [frame.name for frame in traceback.extract_tb(error.__context__.__traceback__)] == ["chained", "fails"]
    error = over_there(caught(in_between))
    assert isinstance(error.__context__, KeyError)


def test_members_of_a_group_have_their_frames() -> None:
    group = caught(lambda: (_ for _ in ()).throw(ExceptionGroup("two", [caught(fails, {}), caught(fails, {"a": {}})])))
    there = over_there(group)
    assert isinstance(there, ExceptionGroup)
    for member in there.exceptions:
        assert traceback.extract_tb(member.__traceback__)[-1].name == "fails"
    assert printed(there).count("<m1:") >= 4


def test_a_second_machine_does_not_hide_the_first() -> None:
    error = raised_again(over_there(caught(fails, {})))
    again = raised_again(over_there(error))
    files = [frame.filename for frame in traceback.extract_tb(again.__traceback__)]
    assert files[-1] == f"<m1:{__file__}>"
    assert not any(file.startswith("<m1:<m1:") for file in files)


def test_a_deep_recursion_is_cut_in_the_middle() -> None:
    def deep(n: int) -> int:
        return deep(n - 1) if n else 1 // 0

    frames = take(caught(deep, 300).__traceback__)
    assert len(frames) == 50
    assert len(pickle.dumps(frames)) < 100_000


def test_values_that_cannot_be_described_are_named() -> None:
    def odd() -> None:
        thing = Odd()
        raise ValueError(thing is None)

    trace = caught(odd).__traceback__
    assert trace is not None
    [frame] = take(trace.tb_next)
    assert frame[6]["thing"] == "<Odd instance at " + frame[6]["thing"].partition(" at ")[2]
    assert build([frame], "m1") is not None


def locals_of(first: object, second: object = None, third: object = None) -> dict[str, str]:
    """Describe three variables, as those of a frame that failed are."""
    try:
        raise ValueError
    except ValueError as error:
        [frame] = take(error.__traceback__)
    return frame[6]


@pytest.mark.parametrize(
    "name", ["password", "db_pwd", "access_key", "API-KEY", "Authorization", "aws_secret_access_key", "id_token"]
)
def test_what_speaks_of_secrets_is_hidden_in_variables_and_in_dictionaries(name: str) -> None:
    named = locals_of({name: "hunter2", "n": 1}, [{"deep": {name: "hunter2"}}])
    assert "hunter2" not in str(named)
    assert "'n': 1" in named["first"]
    assert "hidden" in named["first"]


def test_large_containers_are_described_at_once() -> None:
    large: dict[int, int] = dict.fromkeys(range(2_000_000, 0, -1), 0)
    few, many = set(large), frozenset(large)
    begin = time.thread_time()
    named = locals_of(large, few, many)
    assert time.thread_time() - begin < 0.1  # to sort them would take a second
    assert named["first"].startswith("{2000000: 0, 1999999: 0, ")
    assert named["first"].endswith(", ...}")
    assert (named["second"], named["third"]) == ("<set of 2000000>", "<frozenset of 2000000>")


@pytest.mark.parametrize("code", ["<string>", "<stdin>"])
def test_code_without_a_file_has_frames_too(code: str) -> None:
    space: dict[str, Callable[..., object]] = {}
    exec(compile("def f():\n    x = 1\n    return x / 0\n", code, "exec"), space)
    there = over_there(caught(space["f"]))
    assert traceback.extract_tb(there.__traceback__)[-1].filename == f"<m1:{code}>"


def test_it_takes_little_time() -> None:
    error = caught(fails, {"a": {}})
    over_there(error)
    best = min(_seconds(error) for _ in range(20))
    assert best < 0.005  # 0.5 ms on an idle computer; the goal is 1 ms


def _seconds(error: BaseException) -> float:
    began = time.perf_counter()
    over_there(error)
    return time.perf_counter() - began


@pytest.mark.parametrize("where", [(0, 0, 0, 0), (1, 1, -5, -1), (2**31, 2**31, 0, 1), (2**70, 1, 1, 1), (5, 2, 9, 1)])
def test_an_error_is_told_although_its_frames_claim_places_that_there_are_not(where: tuple[int, ...]) -> None:
    story: tuple[object, ...] = [("a.py", "f", "f", where, 2**40, ("x = 1",), {})], [], None
    told = pickle.dumps((pickle.dumps(KeyError("k")), "KeyError", "k", "its traceback", "", None, story))
    error = CODEC.load_error(told, 0, "S.f")
    assert isinstance(error, KeyError)
    assert isinstance(error.__cause__, RemoteTraceback)


def test_an_error_whose_notes_are_no_list_is_told_all_the_same() -> None:
    error = KeyError("k")
    error.__notes__ = ("a", "tuple")  # type: ignore[assignment]  # whoever does so anyway
    told = pickle.dumps((pickle.dumps(error), "KeyError", "k", "its traceback", "", None, None))
    assert isinstance(CODEC.load_error(told, 0, "S.f"), KeyError)
