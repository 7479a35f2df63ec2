"""What a machine is to run, where that is not this program (Go: `MachineExe`)."""

from __future__ import annotations

import os
from collections.abc import Sequence

from bigmachine.errors import ImageError
from bigmachine.frozen import frozen
from bigmachine.image.entry import Entry, detect, module_entry, no_entry, script_entry
from bigmachine.image.interpreter import interpreter_args, interpreter_flags


@frozen
class Image:
    """What a machine is to run, to override the default (this program, again).

    `program` is the path of a script, of a directory with a `__main__.py` or of a zipapp; `module` is one to run as
    `python -m` does. With neither, nothing is run but the services: what to say in a program that must not be run
    again from its beginning, such as a web server. `args` replaces `sys.argv[1:]`. `python` is the interpreter, by its
    path or a name on the machine's `PATH`. On this host it must have the packages that the program and its services
    need; on another one it gets those that go there, and has to be of the same minor version and build.

    The rest is of what goes to machines on other hosts; those on this one share its files. `files` are files and
    folders that go besides, even if the rules would leave them here; one that lies in the project is at its place in
    it. `packages` are requirements such as `"pandas>=2"` of what is to be installed there and is not here. `exclude`
    are patterns of project files to leave here, in the syntax of gitignore; `without` are names of installed
    distributions to leave here.

    Raises:
        ImageError: `program` and `module` are both given, `program` or one of `files` is not there, or a sequence of
            strings is none.
    """

    program: str | os.PathLike[str] | None = None
    module: str | None = None
    args: Sequence[str] | None = None
    python: str | os.PathLike[str] | None = None
    files: Sequence[str | os.PathLike[str]] = ()
    packages: Sequence[str] = ()
    exclude: Sequence[str] = ()
    without: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.program is not None and self.module is not None:
            raise ImageError(f"an image runs program={self.program!r} or module={self.module!r}, not both: give one")
        if self.args is not None:
            self._keep_strings("args", self.args, "['-n', '3']")
        self._keep_strings("packages", self.packages, "['pandas>=2']")
        self._keep_strings("exclude", self.exclude, "['data/', '*.csv']")
        self._keep_strings("without", self.without, "['torch']")
        if self.program is not None:
            # Absolute at once: the driver may change its directory before a machine is started.
            object.__setattr__(self, "program", os.path.abspath(self.program))
            if not os.path.exists(self.program):
                raise ImageError(f"program {self.program} is not there: give the path of a script")
        self._keep_strings("files", _fspaths(self.files), "['model.bin']")
        object.__setattr__(self, "files", tuple(os.path.abspath(path) for path in self.files))
        for path in self.files:
            if not os.path.exists(path):
                raise ImageError(f"file {path} is not there: name files and folders that are")
        if self.python is not None:
            python = os.fspath(self.python)
            is_name = python == os.path.basename(python)  # to be looked up on the machine's PATH
            object.__setattr__(self, "python", python if is_name else os.path.abspath(python))

    def _keep_strings(self, name: str, given: Sequence[str], example: str) -> None:
        if isinstance(given, str) or not all(isinstance(each, str) for each in given):
            raise ImageError(f"{name}={given!r} is no sequence of strings: give one such as {example}")
        object.__setattr__(self, name, tuple(given))

    def entry(self) -> Entry:
        """Return what the machine runs; its classes of `__main__` are ours only if it runs what we run."""
        if self.program is not None:
            path = os.fspath(self.program)
            return script_entry(path, by_value=not _is_own_script(path))
        if self.module is not None:
            return module_entry(self.module, by_value=not _is_own_module(self.module))
        return no_entry("nothing but the services")

    def interpreter(self) -> list[str]:
        """Return the command that starts the interpreter: `python`, or the driver's own, with the driver's flags."""
        if self.python is None:
            return interpreter_args()
        return [os.fspath(self.python), *interpreter_flags()]


def _fspaths(given: Sequence[str | os.PathLike[str]]) -> Sequence[str]:
    return given if isinstance(given, str) else [os.fspath(path) for path in given]


def _own_main() -> Entry | None:
    """Return our own main, if its classes can be found by name."""
    try:
        own = detect()
    except ImageError:  # it is not there any more, which is no fault of the image
        return None
    return None if own.by_value else own


def _is_own_script(path: str) -> bool:
    own = _own_main()
    if own is None or own.path is None or not os.path.exists(path):
        return False
    return os.path.samefile(own.path, path)  # names may differ: the driver's can have links and dots in it


def _is_own_module(name: str) -> bool:
    own = _own_main()
    return own is not None and own.module in (name, f"{name}.__main__")
