"""Which files the running program has loaded so far."""

from __future__ import annotations

import os
import sys


def loaded_files() -> set[str]:
    """Return the files of imported modules and of mapped libraries (absolute; by every name that is known of each)."""
    found: set[str] = set()
    for module in list(sys.modules.values()):  # a copy, since another thread may be importing
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            found.add(os.path.abspath(file))
    found |= _mapped()
    return found | {os.path.realpath(path) for path in found}


def _mapped() -> set[str]:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return set()  # no Linux: libraries are only known as modules
    paths = (line.split(maxsplit=5)[5:] for line in lines)
    return {path[0] for path in paths if path and path[0].startswith("/")}


__all__ = ["loaded_files"]
