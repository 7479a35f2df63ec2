"""What the driver says about a machine that is to start."""

from __future__ import annotations

import base64
import binascii
import os
import pickle
from dataclasses import field, replace
from typing import TYPE_CHECKING, Final

from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bigmachine.image import Entry
    from bigmachine.trust import Identity

#: What an interpreter, the C library or the dynamic linker reads once, when a process starts. A fork does not start
#: anew, so a machine that differs in one of these is spawned.
_READ_AT_START: Final = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_", "OMP_", "OPENBLAS_", "MKL_")
#: Noted from the first import on, which a zygote has done already.
_NOTED: Final = ("BIGMACHINE_MUTEX", "BIGMACHINE_TRACEMALLOC")


@frozen
class Preload:
    """The names of modules that a program has loaded: those of installed packages, and its own."""

    installed: tuple[str, ...] = ()
    project: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.installed or self.project)

    def without(self, level: int) -> tuple[str, ...]:
        """Give what to import at the first attempt (`level` 0), the second, and so on; in the end nothing."""
        return ((*self.installed, *self.project), self.installed, ())[min(level, 2)]


@frozen
class LaunchSpec:
    """All that makes a machine's process the program's copy.

    `argv` and `sys_path` become `sys.argv` and `sys.path`; `environ` is the whole environment, not an addition.
    `interpreter` is the command to start Python with; empty: the one that the agent was given. `interactive`: the
    driver's `__main__` is a prompt or a notebook, whose classes travel by value. `limit`: bytes of one call's arguments
    or result. `threads`: the most for plain methods. `breakpoint_wait`: seconds that a `breakpoint()` waits for
    somebody, 0: for ever. `levels`: those of the driver's loggers, "" being the root.
    `root`: the image's directory on this host, where the program has been brought here; then `digest` is the image's,
    and `environ` is added to the host's own. `scratch`: the directory for temporary files that this process makes for
    itself, and the agent will remove; empty: it has none of its own.
    """

    machine_id: str
    name: str
    identity: Identity
    argv: list[str]
    environ: dict[str, str] = field(repr=False)
    cwd: str
    entry: Entry
    sys_path: list[str] = field(repr=False)
    session_name: str = ""
    driver_pid: int = 0
    system_name: str = ""
    maxprocs: int = 1
    interactive: bool = False
    interpreter: list[str] = field(default_factory=list)
    limit: int = 16 * 2**30
    threads: int = 256
    breakpoint_wait: float = 0.0
    levels: dict[str, int] = field(default_factory=dict)
    preload: Preload = field(default=Preload(), repr=False)
    root: str = ""
    digest: str = ""
    scratch: str = ""

    def whole_environ(self) -> dict[str, str]:
        """Give what the process has in its environment from its start."""
        from bigmachine.agent.processes.scratch import directory_environ  # drivers come by here, and need nothing of it

        return self.environ | directory_environ(self.scratch)

    def at_home(self, environ: Mapping[str, str]) -> LaunchSpec:
        """Give it as it is on a host whose environment is `environ`."""
        if not self.root:
            return self
        path = f"{self.root}/bin{os.pathsep}{environ.get('PATH', os.defpath)}"
        return replace(self, environ={**environ, "VIRTUAL_ENV": self.root, "PATH": path, **self.environ})

    def to_text(self) -> str:
        """Pickle it, but for `preload`, as text for the control socket."""
        return base64.b64encode(pickle.dumps(replace(self, preload=Preload()))).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> LaunchSpec:
        """Read what `to_text` gave.

        Raises:
            ValueError: if it is none.
        """
        try:
            spec = pickle.loads(base64.b64decode(text, validate=True))
        except (pickle.UnpicklingError, EOFError, binascii.Error) as error:
            raise ValueError(f"a machine cannot start from {text[:40]!r}...: it is no LaunchSpec") from error
        if not isinstance(spec, cls):
            raise ValueError(f"a machine cannot start from {type(spec).__name__}: it takes a LaunchSpec")  # noqa: TRY004 (bad bytes, not a bad argument)
        return spec


def reason_to_spawn(spec: LaunchSpec, interpreter: list[str], environ: Mapping[str, str]) -> str | None:
    """Tell why this machine cannot be a fork of a zygote, which runs `interpreter` in `environ`; None: it can."""
    if spec.interpreter and spec.interpreter != interpreter:
        return f"it wants the interpreter {' '.join(spec.interpreter)}"
    for name in sorted({*spec.environ, *environ}):
        if name.startswith(_READ_AT_START + _NOTED) and spec.environ.get(name) != environ.get(name):
            return f"its environment differs in {name}, which is read when a process starts"
    return None


__all__ = ["LaunchSpec", "Preload", "reason_to_spawn"]
