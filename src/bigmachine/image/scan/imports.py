"""Which files beside a lone script belong to it.

A script in a folder that is no project (a home directory, a downloads folder) must not take the folder along. What it
needs of it are the modules that it imports: those that are imported already, and those that its source says it will
import. A package comes whole, with its data.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from types import ModuleType


def loose_files(folder: str, script: str | None, modules: Iterable[tuple[str, ModuleType | None]]) -> list[str]:
    """Return the files, and the folders of whole packages, that a program in `folder` needs of it (absolute).

    `script` is its main, if that is a file there; `modules` are those that are imported.
    """
    found: dict[str, None] = {}
    waiting = [script] if script is not None else []
    for name, module in modules:
        file = getattr(module, "__file__", None)
        # By its name, since an environment or a standard library may lie below a home directory, too.
        if isinstance(file, str) and file in _found(folder, name):
            waiting.append(file)
    while waiting:
        unit = _unit(folder, waiting.pop())
        if unit in found:
            continue
        found[unit] = None
        for source in _sources(unit):
            for name in imported_names(source):
                waiting += [path for path in _found(folder, name) if _unit(folder, path) not in found]
    return sorted(found)


def _unit(folder: str, path: str) -> str:
    """Return the outermost package that a file below `folder` is in, or the file itself."""
    parts = path[len(folder.rstrip("/")) + 1 :].split("/")
    for number in range(1, len(parts)):
        package = os.path.join(folder, *parts[:number])
        if os.path.exists(f"{package}/__init__.py"):
            return package
    return path


def _sources(unit: str) -> Iterator[str]:
    if not os.path.isdir(unit):
        yield unit
        return
    for place, folders, names in os.walk(unit):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (os.path.join(place, name) for name in names if name.endswith(".py"))


def imported_names(source: str) -> set[str]:
    """Return the modules that a file's source imports by absolute names, wherever in it; none if it is no source."""
    try:
        with open(source, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _found(folder: str, name: str) -> list[str]:
    """Return the file of a module below `folder`, and of each package around it that has one."""
    found: list[str] = []
    parts = name.split(".")
    for number in range(1, len(parts) + 1):
        base = os.path.join(folder, *parts[:number])
        found += filter(os.path.isfile, (f"{base}.py", f"{base}/__init__.py", *_extensions(base)))
    return found


def _extensions(base: str) -> list[str]:
    from importlib.machinery import EXTENSION_SUFFIXES

    return [base + suffix for suffix in EXTENSION_SUFFIXES]


__all__ = ["imported_names", "loose_files"]
