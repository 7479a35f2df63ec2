"""Which modules of the running program are worth being loaded before machines are forked.

Those that come from files by the ordinary importers, under their own names, in the order in which they were loaded;
not the standard library (what others need of it comes along), not this library (machines have it anyway), not what
drives the program (a test runner, a notebook's kernel), and never the program's main, which each machine runs itself.

A program that has loaded only a few modules is better off without: they take less time than another zygote.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec, SourceFileLoader
from typing import TYPE_CHECKING, Final

from bigmachine.agent import Preload

if TYPE_CHECKING:
    from collections.abc import Mapping

#: From so many modules on a zygote of their own is made.
WORTHWHILE: Final = 20
#: This library and what it loads in a driver.
_OURS: Final = frozenset({"_cffi_backend", "aiofastnet", "bigmachine", "cffi", "cryptography", "uvloop"})
_DRIVERS: Final = frozenset(
    {"IPython", "_pytest", "coverage", "debugpy", "hypothesis", "ipykernel", "pluggy", "pydevd", "pytest", "xdist"}
)
_LEFT_OUT: Final = sys.stdlib_module_names | _OURS | _DRIVERS
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def chosen(modules: Mapping[str, object]) -> Preload:
    """Choose among `modules`, a snapshot of `sys.modules`."""
    main = modules.get("__main__")
    main_names = {"__main__", getattr(getattr(main, "__spec__", None), "name", None)}
    main_file = getattr(main, "__file__", None)
    installed: list[str] = []
    project: list[str] = []
    for name, module in modules.items():
        if name.partition(".")[0] in _LEFT_OUT or name in main_names:
            continue
        spec = getattr(module, "__spec__", None)
        if not isinstance(spec, ModuleSpec) or spec.name != name or spec.origin in (None, main_file):
            continue
        if type(spec.loader) in (SourceFileLoader, ExtensionFileLoader):
            parts = str(spec.origin).split(os.sep)
            (project if _INSTALLED.isdisjoint(parts) else installed).append(name)
    if len(installed) + len(project) < WORTHWHILE:
        return Preload()
    return Preload(tuple(installed), tuple(project))


__all__ = ["WORTHWHILE", "chosen"]
