"""Where a machine looks for the program's modules.

That is the driver's `sys.path`, made absolute, and after it the folders of modules that the driver has but would not
find there: pytest's import mode "importlib" loads test modules by their files, and a program may have changed
`sys.path`, or the directory that its relative entries mean, since it imported something.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType

_MAINS = frozenset({"__main__", "__mp_main__"})


def search_path() -> list[str]:
    """Return what `sys.path` has to be on a machine for it to find every module by its name."""
    here = [os.path.abspath(path) for path in sys.path]
    # A copy, since another thread may be importing.
    return [*here, *folders_outside(here, list(sys.modules.items()))]


def folders_outside(path: Iterable[str], modules: Iterable[tuple[str, ModuleType | None]]) -> list[str]:
    """Return the folders, none of them in `path`, from where these modules would be found by their names."""
    known = set(path)
    return list(dict.fromkeys(folder for folder in _folders(modules) if folder not in known))


def _folders(modules: Iterable[tuple[str, ModuleType | None]]) -> Iterator[str]:
    for name, module in modules:
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and name not in _MAINS and os.path.isabs(file):
            inside = os.sep + name.replace(".", os.sep)
            for ending in (f"{inside}.py", f"{inside}{os.sep}__init__.py"):
                if file.endswith(ending):
                    yield file[: -len(ending)] or os.sep


__all__ = ["folders_outside", "search_path"]
