"""Values on the wire: calls, results and errors as pickles of protocol 5 with their large buffers out of band.

Whatever offers its memory to pickle (NumPy, Arrow, `pickle.PickleBuffer`) leaves without a copy; so do `bytes` and
`bytearray` above `BLOB` that are arguments or results by themselves, which pickle would copy. Classes of a
`__main__` that the other side cannot run again (a notebook's, a REPL's) travel by value: a pickle that names
`__main__` is then made anew by cloudpickle, which costs others nothing.

Only what an authenticated peer sent is ever unpickled: the TLS handshake has checked it before a byte comes here.
"""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from bigmachine.errors import InvalidCall, RemoteCause, RemoteError, RemoteTraceback
from bigmachine.frozen import frozen
from bigmachine.rpc.frames import Taken, build, take
from bigmachine.rpc.names import shown
from bigmachine.rpc.wire import (
    AS_BYTES,
    CALL,
    DEFAULT_LIMIT,
    ERROR,
    HEADER,
    ITEM,
    MAX_BUFFERS,
    MAX_PAYLOAD,
    OURS,
    OVERSIZED,
    RESULT,
    Buffer,
    head,
)

#: `bytes` of this size or more go out of band.
BLOB = 64 * 1024
#: Frames with more out-of-band bytes than this are written by reference, in chunks.
_BY_REFERENCE = 64 * 1024

#: Characters that are left of the message and the traceback of an exception above the limit.
_MESSAGE_LEFT, _TRACEBACK_LEFT = 2048, 16384

#: What to do about something that is too large.
_REMEDY = (
    "send it in pieces or as a stream, or raise the session's setting `limit` (bytes): "
    "bigmachine.start(..., limit=N), --bigm.limit or BIGMACHINE_LIMIT"
)
_NOT_NESTED = (
    "iterators and binary files are streams only as an argument or a result by themselves, not inside another value"
)
#: What can be done about a value that cannot be pickled, by what pickle calls it.
_HINTS = (
    ("TextIOWrapper", "opened as binary (mode 'rb'), a file is a stream"),
    ("memoryview", "give bytes(view), a copy, or pickle.PickleBuffer(view), which is none"),
    ("generator", _NOT_NESTED),
    ("_io.", _NOT_NESTED),
    ("itertools.", _NOT_NESTED),
)

#: How far back what an exception followed is told, and how many members of a group.
_DEEPEST, _MOST_MEMBERS = 8, 16

#: The frames of an exception, those of its members, and what it followed: pickle, type, message, whether as its cause.
_Story = tuple[list[Taken], list[Any], tuple[bytes | None, str, str, bool, Any] | None]

#: An encoded frame: one `bytes` if it is small, otherwise its parts.
Encoded = bytes | list[Buffer]


#: What a call of two parts, its method's name and its arguments, leaves out: no keywords, no deadline, no key.
UNSAID: tuple[dict[str, Any], None, None] = ({}, None, None)

#: Nothing of these goes out of band, or is of a class of `__main__`.
_pack = HEADER.pack
LEAVES = frozenset((int, float, bool, type(None), str))


def _same(value: bytes | bytearray) -> bytes | bytearray:
    return value


def _to_bytes(value: bytes | bytearray) -> bytes:
    return value if type(value) is bytes else bytes(value)


@frozen
class _Blob:
    """Stands for a large `bytes` or `bytearray` while it is pickled, and lets it leave out of band."""

    value: bytes | bytearray

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        restore = _to_bytes if type(self.value) is bytes else _same
        return restore, (pickle.PickleBuffer(self.value),)


def _blob(value: Any) -> Any:
    return _Blob(value) if type(value) in (bytes, bytearray) and len(value) >= BLOB else value


def _wrap(args: tuple[Any, ...]) -> tuple[Any, ...]:
    for value in args:
        if type(value) in (bytes, bytearray) and len(value) >= BLOB:
            return tuple(map(_blob, args))
    return args


class Codec:
    """How one session's values are written. `by_value`: classes of `__main__` travel themselves, not their names."""

    __slots__ = ("by_value", "limit", "machine")

    def __init__(self, *, by_value: bool = False, machine: str = "", limit: int = DEFAULT_LIMIT) -> None:
        self.by_value = by_value
        self.machine = machine
        self.limit = limit

    # values

    def dumps(self, value: object, buffers: list[pickle.PickleBuffer] | None = None) -> bytes:
        """Pickle a value; large buffers are appended to `buffers` if given."""
        append = None if buffers is None else buffers.append
        try:
            data = pickle.dumps(value, 5, buffer_callback=append)
        except Exception:
            if not self.by_value:
                raise
            data = b"__main__"  # a local class or a lambda of the notebook: by value, too
        if self.by_value and b"__main__" in data:
            import cloudpickle

            if buffers is not None:
                buffers.clear()
            data = cloudpickle.dumps(value, 5, buffer_callback=append)
        return data

    def frame(self, kind: int, flags: int, ident: int, value: object, what: str) -> Encoded:
        """Encode a value as a frame.

        Raises: InvalidCall if it cannot be pickled or is above the limit; `what` names it in the text.
        """
        buffers: list[pickle.PickleBuffer] = []
        try:
            payload = self.dumps(value, buffers)
        except Exception as exc:
            reason = str(exc)
            hint = next((f"; {hint}" for word, hint in _HINTS if word in reason), "")
            raise InvalidCall(f"{what} cannot be pickled: {type(exc).__name__}: {reason}{hint}") from exc
        if not buffers:
            if len(payload) < BLOB:
                return _pack(len(payload), 0, kind, flags, ident) + payload
        elif len(buffers) > MAX_BUFFERS:
            buffers = []
            payload = self.dumps(value)
        return self._with_buffers(kind, flags, ident, payload, buffers, what)

    def _with_buffers(
        self, kind: int, flags: int, ident: int, payload: bytes, buffers: list[pickle.PickleBuffer], what: str
    ) -> Encoded:
        views = [buffer.raw() for buffer in buffers]
        table = [len(view) | (AS_BYTES if type(view.obj) is bytes else 0) for view in views]
        total = len(payload) + sum(map(len, views))
        if total > self.limit or len(payload) > MAX_PAYLOAD:
            raise self.too_large(what if kind == ITEM else f"{what}{self._place()}", total)  # an item's says where
        if total < _BY_REFERENCE:
            return b"".join([head(kind, flags, ident, payload, table), *views])
        return [head(kind, flags, ident, payload, table), *views]

    def too_large(self, what: str, size: int, where: str = "") -> InvalidCall:
        """Say that `what` has more bytes than the limit, `where` it is one, and what to do."""
        return InvalidCall(f"{what} has {size:,} bytes, above the limit of {self.limit:,}{where}: {_REMEDY}")

    def large_call(self, payload: Buffer) -> InvalidCall:
        """Say that a call that came is too large, by the payload that a `Decoder` gives instead of its own."""
        return self.too_large(f"the call{self._place()}", int(bytes(payload)), " there")

    def _place(self) -> str:
        return f" (machine {self.machine})" if self.machine else ""

    def loads(self, payload: Buffer, buffers: list[bytes | bytearray] | None) -> Any:
        """Unpickle a value."""
        return pickle.loads(payload, buffers=buffers or ())

    # calls

    def small_call(
        self,
        ident: int,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        timeout: float | None,
        key: bytes | None,
    ) -> bytes | None:
        """Encode what most calls are: a few numbers and short texts. None if it is another one: see `call`."""
        if kwargs:
            return None
        for value in args:
            if type(value) not in LEAVES:
                return None
        # Without what most calls do not have: a quarter of what writing and reading it takes.
        plain = timeout is None and key is None
        payload = pickle.dumps((method, args) if plain else (method, args, {}, timeout, key), 5)
        if len(payload) >= BLOB:
            return None
        return _pack(len(payload), 0, CALL, 0, ident) + payload

    def call(
        self,
        kind: int,
        flags: int,
        ident: int,
        method: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        timeout: float | None,
        key: bytes | None = None,
    ) -> Encoded:
        """Encode a call; `key` names it over several attempts.

        Raises: InvalidCall.
        """
        args = _wrap(args)
        if kwargs:
            kwargs = {name: _blob(value) for name, value in kwargs.items()}
        # The common case inlined: this is a fifth of what a caller pays for a small call.
        buffers: list[pickle.PickleBuffer] = []
        try:
            payload = pickle.dumps((method, args, kwargs, timeout, key), 5, buffer_callback=buffers.append)
        except Exception:  # noqa: BLE001 (done again below, with a text that says what it was)
            payload = b""
        if payload and not self.by_value:
            if not buffers and len(payload) < BLOB:
                return _pack(len(payload), 0, kind, flags, ident) + payload
            if len(buffers) <= MAX_BUFFERS:
                return self._with_buffers(kind, flags, ident, payload, buffers, f"an argument of {shown(method)}")
        return self.frame(kind, flags, ident, (method, args, kwargs, timeout, key), f"an argument of {shown(method)}")

    def result(self, kind: int, flags: int, ident: int, value: object, method: str) -> Encoded:
        """Encode a result or an item of a stream.

        Raises: InvalidCall.
        """
        if type(value) in LEAVES:
            payload = pickle.dumps(value, 5)
            if len(payload) < BLOB:
                return _pack(len(payload), 0, kind, flags, ident) + payload
        buffers: list[pickle.PickleBuffer] = []
        try:  # the common case inlined, as above
            payload = pickle.dumps(_blob(value), 5, buffer_callback=buffers.append)
        except Exception:  # noqa: BLE001 (done again below, with a text that says what it was)
            payload = b""
        if payload and not buffers and not self.by_value and len(payload) < BLOB:
            return _pack(len(payload), 0, kind, flags, ident) + payload
        if payload and not self.by_value and len(buffers) <= MAX_BUFFERS:
            return self._with_buffers(kind, flags, ident, payload, buffers, _of(kind, method))
        return self.frame(kind, flags, ident, _blob(value), _of(kind, method))

    # errors

    def error(self, ident: int, exc: BaseException, *, kind: int = ERROR, ours: bool = False) -> bytes:
        """Encode an exception; it never fails, at worst the exception arrives as a RemoteError."""
        name = f"{type(exc).__module__}.{type(exc).__qualname__}".removeprefix("builtins.")
        # Of an error of ours, what it came from: it has been raised nowhere itself.
        shown_exc = exc.__cause__ if ours else exc
        text = ""
        if shown_exc is not None:
            text = "".join(traceback.format_exception(type(shown_exc), shown_exc, _trim(shown_exc)))
        blob, why = self._exception(exc)
        try:
            message = f"{exc!s}"  # formatted: a str also where __str__ returns a subclass, which may not travel
        except BaseException as broken:  # noqa: BLE001 (a user's __str__)
            message = f"(its __str__ raised {type(broken).__name__})"
        notes = getattr(exc, "__notes__", None)
        notes = [note for note in notes if type(note) is str] if type(notes) is list else None
        story = None if ours else self._story(exc)
        payload = pickle.dumps((blob, name, message, text, why, notes, story), 5)
        if len(payload) > min(self.limit, MAX_PAYLOAD):
            why = f"it has {len(payload):,} bytes, above the limit of {self.limit:,}"
            message, text = self._cut(message, _MESSAGE_LEFT), self._cut(text, _TRACEBACK_LEFT)
            payload = pickle.dumps((None, name, message, text, why, None, None), 5)
        return head(kind, OURS if ours else 0, ident, payload, ())

    def _cut(self, text: str, left: int) -> str:
        """The beginning of a text; so much less of it that two fit where the limit is very low."""
        left = min(left, self.limit // 16)
        return text if len(text) <= left else f"{text[:left]}... ({len(text):,} characters)"

    def _exception(self, exc: BaseException) -> tuple[bytes | None, str]:
        if not isinstance(exc, Exception):
            return None, f"a {type(exc).__name__} would end the caller"
        try:
            return self.dumps(exc), ""
        except BaseException as failure:  # noqa: BLE001 (a user's __reduce__)
            return None, f"it cannot be pickled: {type(failure).__name__}: {failure}"

    def _story(self, exc: BaseException, depth: int = _DEEPEST) -> _Story:
        """Take down where an exception comes from: its frames, its members' if it is a group, and what it followed."""
        before, is_cause = _before(exc)
        earlier: tuple[bytes | None, str, str, bool, _Story] | None = None
        if before is not None and depth:
            blob, _ = self._exception(before)
            earlier = (blob, type(before).__qualname__, _told(before), is_cause, self._story(before, depth - 1))
        members = exc.exceptions[:_MOST_MEMBERS] if isinstance(exc, BaseExceptionGroup) and depth else ()
        return take(_trim(exc)), [self._story(member, depth - 1) for member in members], earlier

    def _retell(self, exc: BaseException, story: _Story) -> None:
        """Give an exception the traceback that was taken down elsewhere, and what came before it."""
        frames, members, earlier = story
        exc.__traceback__ = build(frames, self.machine)
        if isinstance(exc, BaseExceptionGroup):
            for member, told in zip(exc.exceptions, members, strict=False):
                self._retell(member, told)
        if earlier is not None:
            blob, name, message, is_cause, told = earlier
            before = _loaded(blob) or RemoteError(name, message)
            self._retell(before, told)
            if is_cause:
                exc.__cause__ = before
            else:
                exc.__context__ = before

    def load_error(self, payload: Buffer, flags: int, call: str = "") -> BaseException:
        """Decode an exception; one that `call` raised has real frames of the machine, and their text as its cause."""
        if flags & OVERSIZED:
            size = f"an error of {int(bytes(payload)):,} bytes, above the limit of {self.limit:,} here"
            return self._noted(RemoteError("(unknown)", size, why="it was too large to be read"), call)
        blob, name, message, text, why, notes, story = pickle.loads(payload)
        exc: BaseException | None = None
        if blob is not None:
            try:
                exc = pickle.loads(blob)
            except BaseException as failure:  # noqa: BLE001 (a user's constructor, on the event loop)
                why = f"it cannot be unpickled here: {type(failure).__name__}: {failure}"
        if not isinstance(exc, Exception):
            exc = RemoteError(name, message, text, why)
        if flags & OURS:
            story = None
            exc.__cause__ = RemoteCause(text, self.machine) if text else exc.__cause__
        # The error itself is worth more than what is told of it: a source that claims columns it cannot have, notes
        # that are no list.
        with contextlib.suppress(Exception):
            if story is not None:
                self._retell(exc, story)
                # What it followed there stays to be looked at; the text of the traceback tells of it, too.
                exc.__context__ = exc.__cause__ or exc.__context__
        if not flags & OURS:
            exc.__cause__ = RemoteTraceback(text, self.machine)
        with contextlib.suppress(Exception):
            if notes and not hasattr(exc, "__notes__"):
                exc.__notes__ = notes  # they hang on the exception's __dict__, which its own pickling may leave behind
        return self._noted(exc, call)

    def _noted(self, exc: Exception, call: str) -> Exception:
        with contextlib.suppress(Exception):  # an `add_note` of the user's
            if call:
                exc.add_note(f"(on machine {self.machine or '?'}, in the call {call})")
        return exc


def _before(exc: BaseException) -> tuple[BaseException | None, bool]:
    """What an exception was raised from, or while handling; and which of the two."""
    if exc.__cause__ is not None:
        return (None, False) if isinstance(exc.__cause__, RemoteTraceback) else (exc.__cause__, True)
    return (None, False) if exc.__suppress_context__ else (exc.__context__, False)


def _told(exc: BaseException) -> str:
    try:
        return str(exc)[:_MESSAGE_LEFT]
    except BaseException as broken:  # noqa: BLE001 (a user's __str__)
        return f"(its __str__ raised {type(broken).__name__})"


def _loaded(blob: bytes | None) -> BaseException | None:
    try:
        exc = None if blob is None else pickle.loads(blob)
    except BaseException:  # noqa: BLE001 (a user's constructor, on the event loop)
        return None
    return exc if isinstance(exc, BaseException) else None


def _of(kind: int, name: str) -> str:
    return f"the result of {name}" if kind == RESULT else f"an item of the stream {name}"


def _trim(exc: BaseException) -> Any:
    """The traceback from the method's own first frame on: what called it says nothing about it."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_next is not None and tb.tb_frame.f_globals.get("__name__", "").startswith(_ABOVE):
        tb = tb.tb_next
    return tb


#: Modules whose frames stand above a method's or an `init`'s.
_ABOVE = ("bigmachine.rpc.", "bigmachine.program.", "asyncio.", "concurrent.futures.")
