"""Names of a package that are imported when somebody asks for them: a module's `__getattr__` (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazily(package: str, home: Mapping[str, str]) -> Callable[[str], object]:
    """Make the `__getattr__` of `package`; `home`: the module in it that has each name."""

    def find(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next one does not come here
        return value

    return find


__all__ = ["lazily"]
