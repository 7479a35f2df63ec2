"""Which of the driver's environment variables a machine gets by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_NAMES: Final = frozenset({"LANG", "LANGUAGE", "TZ"})
_STARTS: Final = ("LC_", "OMP_", "MKL_", "OPENBLAS_")

#: They name places of the driver's host, or decide where an interpreter looks for modules, which the image says.
_NOT: Final = frozenset({"PYTHONPATH", "PYTHONHOME", "PYTHONEXECUTABLE", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX"})


def shipped_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return those of these variables that go to another host: how Python behaves, language and time zone, threads.

    Nothing else does, for environments are full of secrets. What a machine is to have besides is said by
    `start(environ=...)`.
    """
    return {name: value for name, value in environ.items() if _goes(name)}


def _goes(name: str) -> bool:
    if name.startswith("PYTHON"):
        return name not in _NOT
    return name in _NAMES or name.startswith(_STARTS)


__all__ = ["shipped_environ"]
