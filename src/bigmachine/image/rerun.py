"""Run the program's main again, in a machine's process, the way the interpreter runs it.

`runpy` does almost this, but undoes it at the end (a main that was loaded with its guard shut must stay), and gives
a script another `__package__` and `__loader__` than the interpreter gives it.

The main becomes a new module in `sys.modules["__main__"]` before its first line runs: pickle looks classes up there
while the main is still at work, since `start` never returns in a machine's process. A new module rather than the old
one emptied, because the code that called this is still running in the old one's globals. Whoever said
`import __main__` before has the old one; `multiprocessing` has the same limit.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import sys
from importlib.machinery import BuiltinImporter, ModuleSpec, PathFinder, SourceFileLoader, SourcelessFileLoader
from importlib.util import MAGIC_NUMBER, find_spec
from types import CodeType, ModuleType, TracebackType

from bigmachine.errors import ImageError
from bigmachine.image.entry import Entry


def run(entry: Entry) -> None:
    """Run the main of `entry` as the real `__main__` of this process, and return when it ends.

    `sys.path` is already the program's. `sys.argv` is set here, as the interpreter sets it, and the working directory;
    the main may change both again. With the form "none", `__main__` is left empty. Whatever the main raises passes
    through, `SystemExit` included.

    Raises:
        ImageError: The script or the module is not on this machine.
    """
    module = _install(entry.run_name)
    if entry.directory:
        with contextlib.suppress(OSError):  # it is on the driver's host only; then where the driver is now has to do
            os.chdir(entry.directory)
    if entry.arguments is not None:
        sys.argv[1:] = entry.arguments
    if entry.form == "script":
        code = _script(_given(entry.path, entry), module)
    elif entry.form == "module":
        code = _module(_given(entry.module, entry), module)
    else:
        return
    exec(code, vars(module))  # noqa: S102 - the program's own main, which is what a machine is for


def program_traceback(error: BaseException) -> TracebackType | None:
    """Return the traceback of an error that passed through `run`, from the main's own first frame on.

    None if the main had not begun to run: then the frames say nothing to the user that the error does not.
    """
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals is not vars(sys.modules["__main__"]):
        traceback = traceback.tb_next
    return traceback


def _given(name: str | None, entry: Entry) -> str:
    if not name:
        raise ImageError(f"the entry {entry!r} names no {entry.form}: make entries by detect() or Image.entry()")
    return name


def _install(run_name: str) -> ModuleType:
    module = ModuleType(run_name)
    vars(module).update(__builtins__=builtins, __loader__=BuiltinImporter)
    if sys.version_info < (3, 14):
        vars(module).update(__annotations__={})
    sys.modules["__main__"] = sys.modules[run_name] = module
    return module


def _become(module: ModuleType, argv0: str, **attributes: object) -> None:
    vars(module).update(attributes)
    sys.argv[:1] = [argv0]


def _script(path: str, module: ModuleType) -> CodeType:
    if not os.path.exists(path):
        raise ImageError(
            f"script {path} is not there: keep it while the program runs, and on a path that the machine sees, too"
        )
    if (spec := _main_inside(path)) is not None:
        return _contained(path, spec, module)
    source = _read(path)
    compiled = source[:4] == MAGIC_NUMBER  # whatever its name: so does the interpreter
    loader = SourcelessFileLoader("__main__", path) if compiled else SourceFileLoader("__main__", path)
    _become(module, path, __file__=path, __loader__=loader, __cached__=None, __spec__=None, __package__=None)
    return _code(loader.get_code("__main__"), path) if compiled else _compiled(source, path)


def _compiled(source: bytes, path: str) -> CodeType:
    code: CodeType = compile(source, path, "exec", dont_inherit=True)
    return code


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"script {path} cannot be read on the machine ({error}): make it readable there") from error


def _main_inside(path: str) -> ModuleSpec | None:
    """Find the `__main__` of a directory or an archive; None for a plain file."""
    spec = PathFinder.find_spec("__main__", [path])
    if spec is None and sys.path_importer_cache.get(path) is not None:  # something to import from
        raise ImageError(f"{path} has no __main__.py to run: name a script, or what has one")
    return spec


def _contained(path: str, spec: ModuleSpec, module: ModuleType) -> CodeType:
    if path not in sys.path:
        sys.path.insert(0, path)
    return _by_spec(spec, path, module)


def _module(name: str, module: ModuleType) -> CodeType:
    spec = _found(name)
    return _by_spec(spec, spec.origin or name, module)


def _found(name: str) -> ModuleSpec:
    try:
        spec = find_spec(name)
    except ModuleNotFoundError as error:
        # Only the module itself or a package around it; what those import and lack is the program's own error.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise _unknown(name) from error
    if spec is None:
        raise _unknown(name)
    if spec.submodule_search_locations is not None:
        return _found(f"{name}.__main__")
    return spec


def _unknown(name: str) -> ImageError:
    return ImageError(
        f"module {name} cannot be found on the machine, in {sys.path}: "
        "is it installed there, and was sys.path as long when the session started?"
    )


def _by_spec(spec: ModuleSpec, argv0: str, module: ModuleType) -> CodeType:
    get_code = getattr(spec.loader, "get_code", None)
    if get_code is None:
        raise ImageError(f"module {spec.name} has no code to run ({spec.loader!r}): name one that is written in Python")
    _become(
        module,
        argv0,
        __file__=spec.origin,
        __loader__=spec.loader,
        __cached__=spec.cached,
        __spec__=spec,
        __package__=spec.parent,
    )
    return _code(get_code(spec.name), spec.name)


def _code(code: CodeType | None, name: str) -> CodeType:
    if code is None:
        raise ImageError(f"{name} has no code to run: name a module or script that is written in Python")
    return code
