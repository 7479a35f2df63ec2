"""What the program's main is, so that a machine can run it again.

A machine becomes a copy of the driver by running the same `__main__`, the way the interpreter was told to run it
here: a script, a module (`-m`), or nothing at all where there is nothing that could be run again (`-c`, standard
input, a REPL, a notebook) or that should be (a test runner). `detect` finds out which, in the driver; `Entry` is
the picklable answer; `bigmachine.image.rerun` carries it out.

The rules, in the order in which they are tried:

1. A child of `multiprocessing` is not where the program began. One that was spawned has loaded the main as
   `__mp_main__`, with its guard shut: so does the machine. One that was forked has a main that would start children
   again: it is not run.
2. A prompt is live (`sys.ps1`, IPython, Jupyter, IDLE): what was typed is nowhere to be run again. This also covers
   `python -i app.py` once the script has ended.
3. A test runner drives: running it again would run the tests on the machine.
4. Code runs under the name `__main__` without being `sys.modules["__main__"]`: a launcher such as `python -m
   cProfile app.py` put it there, and it is the program. Pickle cannot find its classes even in the driver.
5. `__main__.__spec__` names a module, or a directory or archive with a `__main__.py`; without it, `__main__.__file__`
   is a script.
6. Nothing is left to run again: `-c`, standard input, an embedding program.

Limits: a program that forks by itself (a pre-forking web server) cannot be told from one that does not, and is run
again from its beginning; `Image()` is the way out. A script that is edited while it runs is run again as edited.
"""

from __future__ import annotations

import dataclasses
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import field
from types import FrameType
from typing import Literal

from bigmachine import _directory as _first_directory
from bigmachine.errors import ImageError
from bigmachine.frozen import frozen
from bigmachine.image.interpreter import parse_command_line

#: What kind of main there is. "script" is a file, directory or archive by its path, console scripts included;
#: "module" goes by name, as with `-m`; "none" is not run again.
Form = Literal["script", "module", "none"]

#: The name that `multiprocessing` gives to the main in its spawned children.
MP_MAIN = "__mp_main__"

#: A session of pytest has one of these on a stack: the command line's way in, or (in pytest-xdist's workers) its main.
_PYTEST = frozenset({"_pytest.config", "_pytest.main"})

_TEST_RUNNERS = frozenset({"unittest.__main__", "doctest", "nose2.__main__"})


@frozen
class Entry:
    """How to run the program's main again.

    `path` is absolute. `by_value` is true where a machine cannot find the classes of `__main__` by name, so that
    they must be pickled by value. `run_name` is the `__name__` that the main gets. `description` is for messages.
    `directory` is where the main began, and `arguments` those that it began with, since it may have changed both; None:
    as they are now.
    """

    form: Form
    path: str | None = None
    module: str | None = None
    by_value: bool = False
    run_name: str = "__main__"
    description: str = ""
    directory: str | None = field(default=None, compare=False)
    arguments: tuple[str, ...] | None = field(default=None, compare=False)

    @property
    def calls_start(self) -> bool:
        """Whether the main, run again, is to arrive at `start` or `init`; otherwise the machine serves after it."""
        return self.form != "none" and self.run_name == "__main__"

    def __str__(self) -> str:
        return self.description or self.path or self.module or self.form


def script_entry(path: str, *, by_value: bool = False, run_name: str = "__main__") -> Entry:
    """Make the entry of a script, directory or archive at an absolute `path`."""
    return Entry("script", path=path, by_value=by_value, run_name=run_name, description=f"script {path}")


def module_entry(name: str, *, by_value: bool = False, run_name: str = "__main__") -> Entry:
    """Make the entry of a module; `pkg.__main__` is the main of package `pkg`."""
    shown = f"python -m {name.removesuffix('.__main__')}"
    return Entry("module", module=name, by_value=by_value, run_name=run_name, description=shown)


def no_entry(description: str, *, by_value: bool = True) -> Entry:
    """Make the entry of a program whose main is not run again."""
    return Entry("none", by_value=by_value, description=description)


def detect() -> Entry:
    """Find out, in the driver, how this program's main is run again on a machine.

    Raises:
        ImageError: The main is a file that is not there any more.
    """
    main = sys.modules.get("__main__")
    space: Mapping[str, object] = {} if main is None else vars(main)
    entry = (
        _multiprocessing_child(space)
        or _live_prompt()
        or _test_runner(space)
        or _launched_inside(space)
        or _program(space)
        or _unnamed()
    )
    if entry.form == "none":
        return entry
    return dataclasses.replace(entry, directory=_first_directory or None, arguments=_first_arguments(entry))


def _first_arguments(entry: Entry) -> tuple[str, ...] | None:
    """Return what the interpreter's command line gives to this main; None if it gives that to another one."""
    line = parse_command_line(getattr(sys, "orig_argv", []))
    if entry.form == "module":
        named = line.target == "-m" and line.rest and line.rest[0] in (entry.module, _package_of(entry.module))
        return line.rest[1:] if named else None
    path = os.path.join(_first_directory, line.target or "")
    here = entry.path is not None and os.path.exists(path) and os.path.samefile(path, entry.path)
    return line.rest if here else None


def _package_of(module: str | None) -> str | None:
    return None if module is None else module.removesuffix(".__main__")


def _multiprocessing_child(space: Mapping[str, object]) -> Entry | None:
    if space.get("__name__") == MP_MAIN:
        return _program(space, run_name=MP_MAIN)
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None or _is_pytest_running():
        return None  # in a fork of a test: as in the test
    return no_entry("a child of multiprocessing")


def _live_prompt() -> Entry | None:
    ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    if ipython is not None and ipython() is not None:
        return no_entry("a Jupyter notebook" if "ipykernel" in sys.modules else "an IPython prompt")
    if "idlelib.run" in sys.modules:
        return no_entry("an IDLE shell")
    # The interpreter sets ps1 when it begins to prompt, hence not while `python -i app.py` still runs app.py.
    return no_entry("an interactive prompt") if hasattr(sys, "ps1") else None


def _test_runner(space: Mapping[str, object]) -> Entry | None:
    # Test modules are importable by name, so nothing has to travel by value.
    if _is_pytest_running():
        return no_entry("pytest", by_value=False)
    name = getattr(space.get("__spec__"), "name", None)
    if name in _TEST_RUNNERS:
        return no_entry(f"python -m {name.removesuffix('.__main__')}", by_value=False)
    return None


def _is_pytest_running() -> bool:
    # By the stack: the variables that pytest sets (PYTEST_VERSION) are inherited by programs that a test starts, and
    # the presence of the module proves only an import.
    if _PYTEST.isdisjoint(sys.modules):
        return False
    return any(
        frame.f_globals.get("__name__") in _PYTEST for top in sys._current_frames().values() for frame in _outwards(top)
    )


def _launched_inside(space: Mapping[str, object]) -> Entry | None:
    # The innermost, since around it are the launcher and, in a machine's process, what ran this main.
    for frame in _outwards(_main_thread_frame()):
        inside = frame.f_globals
        if frame.f_code.co_name == "<module>" and inside.get("__name__") == "__main__":
            return None if inside is space else _program(inside, by_value=True)
    return None


def _main_thread_frame() -> FrameType | None:
    import threading

    return sys._current_frames().get(threading.main_thread().ident or 0)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _program(space: Mapping[str, object], *, by_value: bool = False, run_name: str = "__main__") -> Entry | None:
    """Read the entry from the globals of a main; None where they name nothing that can be run again."""
    spec = space.get("__spec__")
    name = getattr(spec, "name", None)
    if isinstance(name, str) and name != "__main__":
        return module_entry(name, by_value=by_value, run_name=run_name)
    file = space.get("__file__")
    if name == "__main__" and getattr(spec, "loader", None) is not None:
        file = _container(spec) or file
    if not isinstance(file, str):
        return None
    if file == "<stdin>" or file.startswith(("/dev/", "/proc/")):
        return no_entry(_streamed(file))
    path = _located(file)
    if stat.S_ISFIFO(os.stat(path).st_mode):
        return no_entry(_streamed(path))
    return script_entry(path, by_value=by_value, run_name=run_name)


def _container(spec: object) -> str | None:
    # `python app.pyz` and `python directory` leave no other trace of their argument than this.
    archive = getattr(getattr(spec, "loader", None), "archive", None)
    if isinstance(archive, str):
        return archive
    origin = getattr(spec, "origin", None)
    return os.path.dirname(origin) or os.curdir if isinstance(origin, str) else None


def _streamed(file: str) -> str:
    return "standard input" if file in ("<stdin>", "/dev/stdin") else f"a pipe ({file})"


def _located(file: str) -> str:
    """Return the absolute path of the main's file, which must exist."""
    # The interpreter gives scripts an absolute path. Launchers do not always, and the program may have changed its
    # directory since; `-m launcher` leaves the first one in sys.path, multiprocessing remembers the one at its import.
    here = [file] if os.path.isabs(file) else [os.path.join(place, file) for place in _starting_places()]
    for path in here:
        if os.path.exists(path):
            return path
    raise ImageError(
        f"the program's main file {here[0]} is not there, so no machine can run it again: "
        "keep the file while the program runs, or give image=Image() to run nothing but the services"
    )


def _starting_places() -> list[str]:
    remembered = getattr(sys.modules.get("multiprocessing.process"), "ORIGINAL_DIR", None)
    absolute = [path for path in sys.path if os.path.isabs(path)]
    places = [_first_directory, remembered, *absolute, _working_directory(), os.environ.get("PWD")]
    return [place for place in places if place]


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed under the program's feet
        return None


def _unnamed() -> Entry:
    target = parse_command_line(getattr(sys, "orig_argv", [])).target
    if target == "-c":
        return no_entry("python -c")
    return no_entry("standard input" if target == "-" else "a program that embeds Python")
