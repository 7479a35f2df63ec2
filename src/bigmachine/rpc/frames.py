"""The frames of an exception that was raised elsewhere: taken down there, and built again here as real tracebacks.

There, each frame is written down as values: file, function, the columns that were running, the source around them,
and short descriptions of its variables. Here, a stub is compiled for each at those very positions and run once to get a
frame object, so that printing, `traceback` and `pdb.pm()` work on it as on any other: carets stand where they belong,
the source is shown although the file is not here, and a debugger prints what the variables were.

Values are described, never sent: `reprlib` bounds what it knows, everything is cut at `_LONGEST` characters, and
variables, and values in dictionaries, whose names speak of secrets are masked.
"""

from __future__ import annotations

import ast
import functools
import itertools
import linecache
import re
import reprlib
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

#: Of longer tracebacks, such as a recursion's, this many frames are kept at either end.
_ENDS: Final = 25
_AROUND: Final = 3
_LONGEST: Final = 200
_MOST_LOCALS: Final = 50
#: Objects with more elements are not described by their own `__repr__`, which may take any time.
_MANY: Final = 10_000
_SECRET: Final = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|cookie|authorization|bearer|dsn\b"
    r"|(api|private|auth|access|signing|encryption|master|session|ssh|account)[_-]?key",
    re.IGNORECASE,
)
_HIDDEN: Final = "<hidden: its name looks like a secret's>"
#: So many remote files' lines are kept for showing; the oldest go first.
_MOST_FILES: Final = 512
#: Lines further down in a file are not shown: each line before them takes a place in the list, whoever says so.
_LAST_LINE: Final = 1_000_000

_ELSEWHERE: Final = re.compile(r"<[^:<>]+:.*>", re.DOTALL)

#: A frame taken down: file, function, qualified name, (line, end line, column, end column), first source line shown,
#: source lines, variables.
Taken = tuple[str, str, str, tuple[int, int, int, int], int, tuple[str, ...], dict[str, str]]


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _LONGEST
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 10

    def repr_instance(self, x: object, level: int) -> str:
        try:
            many = len(x) > _MANY  # type: ignore[arg-type]  # most have no length
        except Exception:  # noqa: BLE001 (a user's __len__)
            many = False
        return f"<{type(x).__name__}>" if many else super().repr_instance(x, level)

    def repr_dict(self, x: dict[object, object], level: int) -> str:
        """Describe its first items as they come (reprlib sorts all), and not what keys that speak of secrets have."""
        if level <= 0:
            return "{...}"
        parts = []
        for key, value in itertools.islice(x.items(), self.maxdict):
            is_secret = isinstance(key, str) and _SECRET.search(key)
            parts.append(f"{self.repr1(key, level - 1)}: {_HIDDEN if is_secret else self.repr1(value, level - 1)}")
        return f"{{{', '.join([*parts, *(['...'] if len(x) > self.maxdict else [])])}}}"

    def repr_set(self, x: set[object], level: int) -> str:
        return f"<set of {len(x)}>" if len(x) > _MANY else super().repr_set(x, level)

    def repr_frozenset(self, x: frozenset[object], level: int) -> str:
        return f"<frozenset of {len(x)}>" if len(x) > _MANY else super().repr_frozenset(x, level)


_short: Final = _Short()


def take(traceback: TracebackType | None, *, with_locals: bool = True) -> list[Taken]:
    """Take down the frames of a traceback, the outermost first."""
    entries: list[TracebackType] = []
    while traceback is not None:
        entries.append(traceback)
        traceback = traceback.tb_next
    if len(entries) > 2 * _ENDS:
        entries = [*entries[:_ENDS], *entries[-_ENDS:]]
    described: dict[int, str] = {}  # what is passed from frame to frame is described once; the frames keep it alive
    return [_taken(entry, described if with_locals else None) for entry in entries]


def _taken(entry: TracebackType, described: dict[int, str] | None) -> Taken:
    frame = entry.tb_frame
    code = frame.f_code
    where = _positions(code, entry.tb_lasti, entry.tb_lineno or 1)
    first = max(1, where[0] - _AROUND)
    lines = linecache.getlines(code.co_filename, frame.f_globals)[first - 1 : where[1] + _AROUND]
    # A module's variables are its functions and imports, which say little and are many.
    named = _described(frame, described) if described is not None and code.co_name != "<module>" else {}
    return code.co_filename, code.co_name, code.co_qualname, where, first, tuple(lines), named


def _positions(code: CodeType, at: int, line: int) -> tuple[int, int, int, int]:
    unknown = (line, None, None, None)
    found = next(itertools.islice(code.co_positions(), at // 2, None), unknown) if at >= 0 else unknown
    start, end, column, end_column = found
    start = start or line
    if column is None or end_column is None:
        return start, start, 0, 0
    return start, end or start, column, end_column


def _described(frame: FrameType, known: dict[int, str]) -> dict[str, str]:
    told: dict[str, str] = {}
    for name, value in list(frame.f_locals.items())[:_MOST_LOCALS]:
        if _SECRET.search(name):
            told[name] = _HIDDEN
            continue
        text = known.get(id(value))
        if text is None:
            text = known[id(value)] = _description(value)
        told[name] = text
    return told


def _description(value: object) -> str:
    try:
        text = _short.repr(value)
    except Exception as error:  # noqa: BLE001 (a user's __repr__)
        text = f"<its __repr__ raised {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class _Described(str):
    """What a variable was, described; a debugger shows the text as if it were the value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def build(taken: Iterable[Taken], machine: str) -> TracebackType | None:
    """Build a traceback of frames that were taken down on `machine`."""
    built: TracebackType | None = None
    for file, name, qualified, where, first, lines, named in reversed(list(taken)):
        # A frame that came from yet another machine says so already.
        shown = file if _ELSEWHERE.fullmatch(file) else f"<{machine or 'machine'}:{file}>"
        _remember(shown, first, lines)
        frame, at = next(_frame(shown, name, qualified, where, named))
        built = TracebackType(built, frame, at, where[0])
    return built


def _frame(
    file: str, name: str, qualified: str, where: tuple[int, int, int, int], named: Mapping[str, str]
) -> Iterator[tuple[FrameType, int]]:
    """Yield a frame, once, and where it stands in its code.

    A generator, because a frame keeps those that it was called by: a function's would go on to whoever reads the
    outcome, with all that these hold, in a circle. A generator's frame has nobody behind it once it has yielded.
    """
    code = _stub(file, name, qualified, where)
    caught: list[tuple[FrameType, int]] = []

    def here() -> None:
        frame = sys._getframe(1)
        caught.append((frame, frame.f_lasti))

    exec(code, {"__here__": here, "__name__": file}, {key: _Described(text) for key, text in named.items()})  # noqa: S102 (our own stub)
    caught[0][0].f_globals.clear()  # the function above, which leads to this frame
    yield caught.pop()


@functools.lru_cache(maxsize=_MOST_FILES)
def _stub(file: str, name: str, qualified: str, where: tuple[int, int, int, int]) -> CodeType:
    """Compile a call at this very place; where something fails once, it often does again."""
    line, end, column, end_column = where
    place: dict[str, Any] = {
        "lineno": line,
        "end_lineno": end,
        "col_offset": column,
        "end_col_offset": end_column,
    }
    call = ast.Call(ast.Name("__here__", ast.Load(), **place), [], [], **place)
    code = compile(ast.Module([ast.Expr(call, **place)], []), file, "exec", dont_inherit=True)
    return code.replace(co_name=name, co_qualname=qualified)


_remembered: Final[deque[str]] = deque()


def _remember(file: str, first: int, lines: tuple[str, ...]) -> None:
    """Let `linecache` show lines of a file that is not here; an entry without a time is never looked for on disk."""
    if not 1 <= first <= _LAST_LINE:
        return
    entry = linecache.cache.get(file)
    known: list[str] = entry[2] if entry is not None and len(entry) == 4 else []
    if known[first - 1 : first - 1 + len(lines)] == list(lines):
        return
    known = list(known)
    known += ["\n"] * (first - 1 + len(lines) - len(known))
    known[first - 1 : first - 1 + len(lines)] = lines
    if entry is None:
        _remembered.append(file)
        while len(_remembered) > _MOST_FILES:
            linecache.cache.pop(_remembered.popleft(), None)
    linecache.cache[file] = (0, None, known, file)  # without a time nobody compares the size


__all__ = ["Taken", "build", "take"]
