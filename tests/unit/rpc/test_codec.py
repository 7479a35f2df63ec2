"""Values and exceptions as frames and back: what travels, in which memory, and what is said of what cannot."""

from __future__ import annotations

import asyncio
import pickle
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmachine.errors import (
    DeathCertificate,
    InvalidCall,
    MachineStopped,
    ProvisionError,
    RemoteError,
    RemoteTraceback,
    is_remote,
)
from bigmachine.rpc.buffers import allocate
from bigmachine.rpc.codec import BLOB, Codec, Encoded
from bigmachine.rpc.wire import CALL, ERROR, ITEM, OVERSIZED, RESULT, Buffer, Decoder, Frame

CODEC = Codec(machine="m1")


def parts_of(encoded: Encoded) -> list[Buffer]:
    return [encoded] if isinstance(encoded, bytes) else list(encoded)


def arrive(encoded: Encoded, limit: int = 1 << 30) -> Frame:
    """Send a frame through a decoder."""
    decoder = Decoder(memoryview(bytearray(1 << 17)), allocate, limit)
    frames: list[Frame] = []
    for part in parts_of(encoded):
        view = memoryview(part)
        while view.nbytes:
            target = decoder.buffer()
            count = min(len(target), len(view))
            target[:count] = view[:count]
            frames += decoder.received(count)
            view = view[count:]
    (frame,) = frames
    return frame


def through(value: object, codec: Codec = CODEC) -> Any:
    """Send a result and rebuild it."""
    _, _, _, payload, buffers = arrive(codec.result(RESULT, 0, 1, value, "S.m"))
    return codec.loads(payload, buffers)


def call_through(args: tuple[Any, ...], kwargs: dict[str, Any] | None = None, codec: Codec = CODEC) -> Any:
    encoded = codec.call(CALL, 0, 1, "S.m", args, kwargs or {}, 1.5, b"key")
    kind, flags, ident, payload, buffers = arrive(encoded)
    assert (kind, flags, ident) == (CALL, 0, 1)
    name, *rest, timeout, key = codec.loads(payload, buffers)
    assert (name, timeout, key) == ("S.m", 1.5, b"key")
    return rest


# --- values

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(VALUES, max_size=3).map(tuple), st.dictionaries(st.text(), VALUES, max_size=3))
def test_arguments_arrive_equal_and_of_the_same_types(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert repr(call_through(args, kwargs)) == repr([args, kwargs])
    assert repr(through(args)) == repr(args)


def test_a_small_call_is_one_piece_of_bytes() -> None:
    assert type(CODEC.call(CALL, 0, 1, "S.m", (1, b"x" * 1000), {}, None)) is bytes


@pytest.mark.parametrize("size", [BLOB - 1, BLOB, BLOB + 1, 3 * BLOB])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_and_bytearrays_of_any_size_arrive_with_their_type(kind: type[bytes], size: int) -> None:
    value = kind(b"ab" * size)[:size]
    for got in (through(value), call_through((value,))[0][0], call_through((), {"data": value})[1]["data"]):
        assert type(got) is kind
        assert got == value


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_leave_without_a_copy(kind: type[bytes]) -> None:
    value = kind(BLOB)
    encodings: list[Encoded] = [
        CODEC.result(RESULT, 0, 1, value, "S.m"),
        CODEC.call(CALL, 0, 1, "S.m", (1, value), {}, None),
        CODEC.call(CALL, 0, 1, "S.m", (), {"data": value}, None),
    ]
    for encoded in encodings:
        head, body = parts_of(encoded)
        assert len(head) < 400
        assert isinstance(body, memoryview)
        assert body.obj is value


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_arrive_as_the_very_memory_they_were_received_in(kind: type[bytes]) -> None:
    _, _, _, payload, buffers = arrive(CODEC.result(RESULT, 0, 1, kind(BLOB), "S.m"))
    assert buffers is not None
    assert CODEC.loads(payload, buffers) is buffers[0]


def test_arrays_leave_and_arrive_without_a_copy_and_can_be_written() -> None:
    array = np.arange(20_000, dtype=np.int64).reshape(100, 200)
    encoded = CODEC.call(CALL, 0, 1, "S.m", ({"nested": [array]},), {}, None)
    assert np.shares_memory(np.frombuffer(parts_of(encoded)[1], dtype=np.int64), array)
    _, _, _, payload, buffers = arrive(encoded)
    assert buffers is not None
    got = CODEC.loads(payload, buffers)[1][0]["nested"][0]
    assert np.shares_memory(np.frombuffer(buffers[0], dtype=np.int64), got)
    assert (got == array).all()
    got[0, 0] = 7


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0),
        np.arange(7, dtype=np.int8),
        np.asfortranarray(np.arange(40_000.0).reshape(200, 200)),
        np.arange(40_000.0)[::2],
        np.array(["a", None, 3], dtype=object),
        np.frombuffer(bytes(range(200)) * 500, dtype=np.uint8),
    ],
    ids=["empty", "small", "fortran", "strided", "objects", "readonly"],
)
def test_arrays_of_every_layout_arrive_equal(array: Any) -> None:
    got = through(array)
    assert got.dtype == array.dtype
    assert got.flags.writeable == array.flags.writeable
    assert (got == array).all()


def test_more_buffers_than_a_frame_can_have_travel_in_band() -> None:
    value = [pickle.PickleBuffer(bytearray(b"%d" % n)) for n in range(66_000)]
    got = through(value)
    assert len(got) == 66_000
    assert got[65_999] == b"65999"


# --- what cannot travel


def test_an_argument_that_cannot_be_pickled_is_an_invalid_call_that_names_the_method_and_the_reason() -> None:
    with pytest.raises(InvalidCall, match=r"an argument of S\.m cannot be pickled: .*lambda") as caught:
        CODEC.call(CALL, 0, 1, "S.m", (lambda: 1,), {}, None)
    assert caught.value.__cause__ is not None


def test_a_file_of_text_as_an_argument_is_told_how_it_could_travel(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file, pytest.raises(InvalidCall, match=r"opened as binary .*a file is a stream"):
        Codec().call(CALL, 0, 1, "S.m", (file,), {}, None)


def test_a_memoryview_is_told_how_it_could_travel() -> None:
    with pytest.raises(InvalidCall, match=r"memoryview.*; give bytes\(view\), a copy, or pickle.PickleBuffer"):
        CODEC.call(CALL, 0, 1, "S.m", (memoryview(b"abc"),), {}, None)


@pytest.mark.parametrize("wrap", [lambda stream: [stream], lambda stream: {"a": stream}], ids=["list", "dict"])
def test_what_would_be_a_stream_by_itself_is_told_so_inside_a_value(
    wrap: Callable[[object], object], tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"")
    with (tmp_path / "f").open("rb") as file:
        for nested in (n for n in range(3)), file:
            with pytest.raises(InvalidCall, match=r"are streams only as an argument or a result by themselves"):
                CODEC.call(CALL, 0, 1, "S.m", (wrap(nested),), {}, None)
            with pytest.raises(InvalidCall, match=r"are streams only as an argument or a result by themselves"):
                CODEC.result(RESULT, 0, 1, wrap(nested), "S.m")


def test_what_is_too_large_says_where_and_what_to_do() -> None:
    codec = Codec(machine="m7", limit=150_000)
    where = r"S\.m \(machine m7\) has 200,\d\d\d bytes, above the limit of 150,000: .*limit=N.*BIGMACHINE_LIMIT"
    with pytest.raises(InvalidCall, match="an argument of " + where):
        codec.call(CALL, 0, 1, "S.m", (bytes(200_000),), {}, None)
    with pytest.raises(InvalidCall, match="the result of " + where):
        codec.result(RESULT, 0, 1, bytes(200_000), "S.m")


def test_a_result_that_cannot_be_pickled_is_an_invalid_call_that_names_the_method_and_the_reason() -> None:
    with pytest.raises(InvalidCall, match=r"the result of S\.m cannot be pickled: TypeError: .*generator"):
        CODEC.result(RESULT, 0, 1, (n for n in range(3)), "S.m")


class Unreducible:
    def __reduce__(self) -> str:
        raise KeyError("no reduction")


def test_an_object_whose_pickling_raises_is_an_invalid_call_with_that_error() -> None:
    with pytest.raises(InvalidCall, match="KeyError: 'no reduction'"):
        CODEC.call(CALL, 0, 1, "S.m", (Unreducible(),), {}, None)


def test_a_buffer_with_gaps_is_an_invalid_call_that_says_so() -> None:
    gaps = pickle.PickleBuffer(memoryview(bytes(100_000))[::2])
    with pytest.raises(InvalidCall, match=r"an argument of S\.m cannot be pickled: .*contiguous"):
        CODEC.call(CALL, 0, 1, "S.m", (gaps,), {}, None)


@pytest.mark.parametrize("value", [bytes(200_000), [bytes(200_000)], np.zeros(200_000, np.int8)])
def test_a_value_above_the_limit_is_an_invalid_call_with_both_sizes(value: object) -> None:
    codec = Codec(limit=150_000)
    with pytest.raises(InvalidCall, match=r"an argument of S\.m has 200,\d\d\d bytes, above the limit of 150,000"):
        codec.call(CALL, 0, 1, "S.m", (value,), {}, None)
    with pytest.raises(InvalidCall, match=r"the result of S\.m has 200,\d\d\d bytes"):
        codec.result(RESULT, 0, 1, value, "S.m")


class Counted:
    pickled = 0

    def __init__(self, payload: object) -> None:
        self.payload = payload

    def __getstate__(self) -> dict[str, object]:
        type(self).pickled += 1
        return self.__dict__


@pytest.mark.parametrize("payload", [1, ["x" * 100_000], bytearray(100_000), np.zeros(100_000)])
def test_an_argument_is_pickled_once_whatever_its_size(payload: object) -> None:
    Counted.pickled = 0
    CODEC.call(CALL, 0, 1, "S.m", (Counted(payload),), {}, None)
    assert Counted.pickled == 1


# --- classes of a `__main__` that the other side cannot run

NOTEBOOK = """
class Point:
    def __init__(self, x):
        self.x = x
    def twice(self):
        return scale * self.x
scale = 2
class Wrong(Exception):
    pass
def triple(x):
    return 3 * x
def outer():
    class Local:
        y = 5
    return Local()
"""


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A `__main__` with classes of its own; `elsewhere` puts another process's in its place."""
    module = types.ModuleType("__main__")
    exec(NOTEBOOK, vars(module))
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))


BY_VALUE = Codec(by_value=True)


def test_a_class_of_main_travels_by_value(notebook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = BY_VALUE.call(CALL, 0, 1, "S.m", (notebook.Point(4),), {"f": notebook.triple}, None)
    elsewhere(monkeypatch)
    _, _, _, payload, buffers = arrive(encoded)
    _, (point,), kwargs, *_ = BY_VALUE.loads(payload, buffers)
    assert point.twice() == 8
    assert kwargs["f"](2) == 6


def test_local_classes_and_lambdas_of_main_travel_by_value(notebook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exec("from functools import partial; double = lambda x: 2 * x", vars(notebook))
    encoded = BY_VALUE.result(RESULT, 0, 1, [notebook.outer(), notebook.double], "S.m")
    elsewhere(monkeypatch)
    _, _, _, payload, buffers = arrive(encoded)
    local, double = BY_VALUE.loads(payload, buffers)
    assert (local.y, double(4)) == (5, 8)


def test_an_exception_class_of_main_travels_by_value(notebook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = BY_VALUE.error(1, notebook.Wrong("so"))
    elsewhere(monkeypatch)
    exc = BY_VALUE.load_error(arrive(frame)[3], 0)
    assert type(exc).__name__ == "Wrong"
    assert exc.args == ("so",)


def test_large_buffers_of_objects_by_value_still_travel_out_of_band_and_once(
    notebook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(50_000)
    encoded = BY_VALUE.call(CALL, 0, 1, "S.m", (notebook.Point(array),), {}, None)
    elsewhere(monkeypatch)
    _, body = parts_of(encoded)
    assert np.shares_memory(np.frombuffer(body, dtype=array.dtype), array)
    _, _, _, payload, buffers = arrive(encoded)
    assert (BY_VALUE.loads(payload, buffers)[1][0].x == array).all()


def test_by_value_an_importable_class_still_travels_by_name() -> None:
    assert type(through(Counted(1), BY_VALUE)) is Counted
    assert isinstance(BY_VALUE.call(CALL, 0, 1, "S.m", (Counted(1),), {}, None), bytes)


def test_a_text_that_merely_says_main_arrives_unchanged_by_value() -> None:
    assert call_through(("__main__", [b"__main__"]), codec=BY_VALUE) == [("__main__", [b"__main__"]), {}]


def test_without_by_value_a_class_of_main_is_looked_up_in_the_other_sides_main(
    notebook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = CODEC.result(RESULT, 0, 1, notebook.Point(4), "S.m")
    _, _, _, payload, _ = arrive(encoded)
    assert type(CODEC.loads(payload, None)) is notebook.Point
    elsewhere(monkeypatch)
    with pytest.raises(AttributeError, match="Point"):
        CODEC.loads(payload, None)


def test_what_cannot_be_pickled_by_value_either_is_an_invalid_call() -> None:
    with pytest.raises(InvalidCall, match="cannot be pickled"):
        BY_VALUE.call(CALL, 0, 1, "S.m", (sys._getframe(),), {}, None)


# --- exceptions


class Plain(Exception):
    pass


class Detailed(Exception):
    def __init__(self, code: int, *, hint: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.hint = hint


class TwoArguments(Exception):
    """Pickles, but cannot be made again: its constructor wants more than `args` holds."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("no way")
        self.resource = sys._getframe()


class OwnReduction(Exception):
    """Made anew from its arguments alone: what was hung on it stays behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnReduction, self.args


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("cannot say")


class Odd(str):
    __slots__ = ()

    def __reduce__(self) -> str:
        raise RuntimeError("not even this")


class OddText(Exception):
    def __str__(self) -> str:
        return Odd("odd text")


class QuitsWhenPickled(Exception):
    def __reduce__(self) -> str:
        raise SystemExit(3)


class QuitsWhenMade(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (4,)


class NoException(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ()


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:  # noqa: BLE001 (any kind is wanted)
        return caught


def error_through(exc: BaseException, *, ours: bool = False) -> BaseException:
    frame = CODEC.error(7, raised(exc), ours=ours)
    kind, flags, ident, payload, buffers = arrive(frame)
    assert (kind, ident, buffers or None) == (ERROR, 7, None)
    return CODEC.load_error(payload, flags)


@pytest.mark.parametrize("exc", [ValueError("bad", 3), Plain("x"), KeyError("k"), FileNotFoundError(2, "no", "file")])
def test_an_exception_arrives_as_itself(exc: Exception) -> None:
    got = error_through(exc)
    assert type(got) is type(exc)
    assert got.args == exc.args
    assert str(got) == str(exc)
    assert is_remote(got)


def test_attributes_of_an_exception_arrive() -> None:
    got = error_through(Detailed(7, hint="try"))
    assert isinstance(got, Detailed)
    assert (got.code, got.hint) == (7, "try")


def test_an_exception_group_arrives_with_its_members() -> None:
    got = error_through(ExceptionGroup("both", [ValueError(1), Plain(2)]))
    assert isinstance(got, ExceptionGroup)
    assert [type(e) for e in got.exceptions] == [ValueError, Plain]


def test_the_remote_traceback_is_the_cause_and_shows_where_it_was_raised_on_which_machine() -> None:
    got = error_through(Plain("x"))
    assert isinstance(got.__cause__, RemoteTraceback)
    shown = "".join(traceback.format_exception(got))
    assert "on machine m1:" in shown
    assert "raise exc" in shown
    assert f"line {raised.__code__.co_firstlineno + 2}, in raised" in shown


def test_the_remote_traceback_tells_the_causes_that_stay_behind() -> None:
    def both() -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise Plain("second") from first

    with pytest.raises(Plain) as caught:
        both()
    got = error_through(caught.value)
    assert isinstance(got.__cause__, RemoteTraceback)
    assert "KeyError: 'first'" in got.__cause__.text


@pytest.mark.parametrize("kind", [Plain, OwnReduction, Unpicklable, SystemExit])
def test_notes_are_kept_whatever_becomes_of_the_exception(kind: type[BaseException]) -> None:
    exc = kind()
    exc.add_note("look at the disk")
    got = error_through(exc)
    assert got.__notes__ == ["look at the disk"]
    assert isinstance(got.__cause__, RemoteTraceback)
    assert "look at the disk" in got.__cause__.text


def test_our_own_errors_arrive_without_a_remote_traceback() -> None:
    got = error_through(InvalidCall("no such method"), ours=True)
    assert type(got) is InvalidCall
    assert got.__cause__ is None
    assert not is_remote(got)


def test_errors_of_the_library_arrive_whole() -> None:
    stopped = error_through(MachineStopped(DeathCertificate("oom", "m7", pid=5, last_lines=("a", "b"))))
    assert isinstance(stopped, MachineStopped)
    assert stopped.certificate == DeathCertificate("oom", "m7", pid=5, last_lines=("a", "b"))
    provision = error_through(ProvisionError("none left", temporary=True))
    assert isinstance(provision, ProvisionError)
    assert (str(provision), provision.temporary) == ("none left", True)
    remote = error_through(RemoteError("a.B", "text", "Traceback", "reasons"))
    assert isinstance(remote, RemoteError)
    assert (remote.type_name, remote.message, remote.traceback_text) == ("a.B", "text", "Traceback")


@pytest.mark.parametrize(
    ("exc", "type_name", "message", "why"),
    [
        (Unpicklable(), f"{__name__}.Unpicklable", "no way", "cannot be pickled"),
        (TwoArguments(1, 2), f"{__name__}.TwoArguments", "1 and 2", "cannot be unpickled here: TypeError"),
        (NoException("x"), f"{__name__}.NoException", "x", ""),
        (QuitsWhenPickled("q"), f"{__name__}.QuitsWhenPickled", "q", "cannot be pickled"),
        (QuitsWhenMade("q"), f"{__name__}.QuitsWhenMade", "q", "cannot be unpickled here: SystemExit"),
        (SystemExit(3), "SystemExit", "3", "would end the caller"),
        (KeyboardInterrupt(), "KeyboardInterrupt", "", "would end the caller"),
        (GeneratorExit(), "GeneratorExit", "", "would end the caller"),
        (asyncio.CancelledError("gone"), "asyncio.exceptions.CancelledError", "gone", "would end the caller"),
        (BaseExceptionGroup("g", [SystemExit(1)]), "BaseExceptionGroup", "g (1 sub-exception)", "would end the caller"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_cannot_travel_arrives_as_remote_error_with_all_that_is_known(
    exc: BaseException, type_name: str, message: str, why: str
) -> None:
    got = error_through(exc)
    assert type(got) is RemoteError
    assert (got.type_name, got.message) == (type_name, message)
    assert why in got.why
    assert "in raised" in got.traceback_text
    assert is_remote(got)
    assert isinstance(got.__cause__, RemoteTraceback)
    assert f"{type_name.rpartition('.')[2]}" in str(got)


def test_an_exception_that_cannot_even_be_printed_arrives() -> None:
    got = error_through(Mute())
    assert type(got) is Mute
    unpicklable = Mute()
    unpicklable.frame = sys._getframe()  # type: ignore[attr-defined]  # makes it unpicklable
    got = error_through(unpicklable)
    assert isinstance(got, RemoteError)
    assert got.message == "(its __str__ raised ValueError)"


def test_a_text_of_an_odd_type_arrives_as_text() -> None:
    got = error_through(OddText())
    assert type(got) is OddText
    unpicklable = OddText()
    unpicklable.frame = sys._getframe()  # type: ignore[attr-defined]  # makes it unpicklable
    got = error_through(unpicklable)
    assert isinstance(got, RemoteError)
    assert got.message == "odd text"
    assert type(got.message) is str


def test_lone_surrogates_in_a_message_arrive() -> None:
    assert error_through(ValueError("\udcff")).args == ("\udcff",)


@pytest.mark.parametrize("limit", [2000, 200_000])
def test_an_error_above_the_limit_arrives_as_a_remote_error_with_its_type_and_the_beginning_of_its_text(
    limit: int,
) -> None:
    codec = Codec(limit=limit)
    error = LookupError("begins so" + "x" * 300_000)
    error.add_note("y" * 300_000)
    frame = codec.error(1, error)
    _, flags, _, payload, _ = arrive(frame, limit=limit)
    assert not flags & OVERSIZED
    got = codec.load_error(payload, flags)
    assert type(got) is RemoteError
    assert got.type_name == "LookupError"
    assert got.message.startswith("begins so")
    assert "above the limit of" in str(got)


def test_an_error_at_the_limit_arrives_as_itself() -> None:
    error = LookupError("x" * 1000)
    size = len(CODEC.error(1, error)) - 16
    for limit, kind in ((size, LookupError), (size - 1, RemoteError)):
        codec = Codec(limit=limit)
        _, flags, _, payload, _ = arrive(codec.error(1, error))
        assert type(codec.load_error(payload, flags)) is kind


def test_an_item_of_a_stream_is_named_as_such() -> None:
    with pytest.raises(InvalidCall, match=r"an item of the stream to m1 has 200,\d\d\d bytes"):
        Codec(limit=150_000).result(ITEM, 0, 1, bytes(200_000), "to m1")


def test_an_error_above_the_receivers_limit_is_told_as_such() -> None:
    frame = CODEC.error(1, ValueError("x" * 300_000))
    _, flags, _, payload, _ = arrive(frame, limit=200_000)
    assert flags & OVERSIZED
    got = Codec(limit=200_000).load_error(payload, flags)
    assert type(got) is RemoteError
    assert "200,000" in str(got)


def test_the_librarys_own_frames_do_not_stand_at_the_top_of_the_remote_traceback() -> None:
    namespace: dict[str, Any] = {"__name__": "bigmachine.rpc.runs"}
    exec("def run(method):\n    method()", namespace)

    def method() -> None:
        raise Plain("x")

    with pytest.raises(Plain) as caught:
        namespace["run"](method)
    caught.value.__traceback__ = caught.value.__traceback__.tb_next if caught.value.__traceback__ else None
    got = CODEC.load_error(arrive(CODEC.error(1, caught.value))[3], 0)
    assert isinstance(got.__cause__, RemoteTraceback)
    first = got.__cause__.text.splitlines()[1]
    assert "in method" in first
