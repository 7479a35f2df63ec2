"""What a zygote does before it forks machines of a program: import what that program has loaded.

All machines then share these imports: their time and their memory. That is only right as long as nobody can tell, so
a zygote in which an import did more than define things is unfit, and ends without having forked. A module

- may print: what it printed is printed again by every machine;
- may not start threads or processes, nor keep files open: a fork has no threads, and closes all files but its own;
- may not ask whether it is in the driver (`bigmachine.is_driver`, `init`, `start`): it is in neither;
- may not be one whose libraries are known not to survive a fork (`NOT_TO_FORK`).

What an import cannot be caught at: values that are made once a process (a UUID, `os.getpid()`, a private random
generator) are the same in all machines, if a module makes them at its top level. NumPy's global generator and
`random` are seeded anew.

OpenBLAS (in NumPy) starts threads when it is loaded, which Python does not know. It stops them before any fork, and
starts them again when they are needed; so whether threads are there is looked at after a fork for trial.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from bigmachine.agent.processes.scratch import directory_environ, make_directory
from bigmachine.agent.processes.tree import threads
from bigmachine.program import boot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Packages that hold threads, devices or connections from their import on, or change how the whole process works.
NOT_TO_FORK: Final = frozenset(
    {"cupy", "eventlet", "gevent", "grpc", "jax", "jaxlib", "mpi4py", "pycuda", "ray", "tensorflow"}
)


class Unfit(Exception):
    """These modules cannot be shared by machines; the message says why."""


class Loaded:
    """What has been imported. `output`: what was written meanwhile, to descriptors 1 and 2."""

    def __init__(self, files: Mapping[str, tuple[int, int] | None], output: Sequence[bytes]) -> None:
        self._files = files
        self._output = output
        self._checked = 0

    def is_stale(self, asked: int) -> bool:
        """Tell whether a file of these modules is not what it was; `asked`: when this became of interest.

        Times are in nanoseconds of the monotonic clock, which is the same in all processes.
        """
        if asked <= self._checked:
            return False
        self._checked = time.monotonic_ns()
        return any(_stamp(file) != stamp for file, stamp in self._files.items())

    def replay(self) -> None:
        """Write what the imports wrote."""
        for descriptor, data in zip((1, 2), self._output, strict=True):
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]


def load(orders: Mapping[str, Any]) -> Loaded:
    """Make this process look like the program's, and import what `orders` name.

    Raises:
        Unfit: if a machine must not be a fork of what comes of it; this process is of no use then.
    """
    os.environ.clear()
    scratch = orders["scratch"] if make_directory(orders["scratch"]) else ""
    os.environ.update(orders["environ"] | directory_environ(scratch))
    os.environ["BIGMACHINE_MODE"] = "machine"
    time.tzset()
    sys.argv[:] = orders["argv"]
    sys.path[:] = orders["sys_path"]
    try:
        os.chdir(orders["cwd"])
    except OSError as error:
        raise Unfit(str(error)) from error
    try:
        return _imported(orders["modules"])
    finally:
        if scratch:
            with contextlib.suppress(OSError):  # something is in it, for all machines
                os.rmdir(scratch)


def _imported(names: Iterable[str]) -> Loaded:
    importlib.invalidate_caches()  # what was listed when this zygote's parent started
    before = set(sys.modules)
    files = _open_files()
    with _captured() as output, boot.rehearsing() as asked:
        for name in names:
            _load(name)
            if asked:  # and something kept the exception from us
                raise Unfit(f"{name}: {asked[0]}")
    if held := sorted(NOT_TO_FORK & sys.modules.keys()):
        raise Unfit(f"its modules load {', '.join(held)}, and that does not survive a fork")
    _look_for_traces(files)
    gc.collect()  # once, so that what the imports left behind is not in every machine
    loaded = [sys.modules[name] for name in sys.modules.keys() - before]
    named = (getattr(module, "__file__", None) for module in loaded)
    return Loaded({file: _stamp(file) for file in named if isinstance(file, str)}, output)


def _load(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # else nothing has run: it was removed, and who imports it will hear of it
            raise Unfit(f"{name} cannot be imported: {error}") from error
    except boot.Untimely as error:
        raise Unfit(f"{name}: {error}") from error
    except BaseException as error:  # the program's own, of any class
        raise Unfit(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _captured() -> Iterator[list[bytes]]:
    """Keep what is written to stdout and stderr; it is in the list at the end."""
    written: list[bytes] = []
    kept = [(number, os.dup(number), os.memfd_create("bigmachine")) for number in (1, 2)]
    for number, _, memory in kept:
        os.dup2(memory, number)
    try:
        yield written
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # closed, or replaced by something of the program's
                stream.flush()
        for number, original, memory in kept:
            os.dup2(original, number)
            os.close(original)
            with open(memory, "rb") as file:
                file.seek(0)
                written.append(file.read())


def _look_for_traces(files: Iterable[int]) -> None:
    """Raise Unfit if the imports left something that a fork would not have."""
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if names:
        raise Unfit(f"one of its modules starts threads at import: {', '.join(names)}")
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        raise Unfit("one of its modules starts a process at import")
    if kept := sorted(_open_files() - set(files)):
        what = ", ".join(_target(descriptor) for descriptor in kept)
        raise Unfit(f"one of its modules keeps files open from its import on: {what}")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    if (count := threads()) != 1:
        raise Unfit(f"one of its modules starts threads of its own at import: {count - 1}")


def _open_files() -> set[int]:
    # The one that lists them is closed again, and its number may be that of a file that stays.
    return {number for number in map(int, os.listdir("/proc/self/fd")) if _target(number)}


def _target(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


__all__ = ["NOT_TO_FORK", "Loaded", "Unfit", "load"]
