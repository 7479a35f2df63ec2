"""A small environment for drivers in labs: what bigmachine needs and nothing else, copied from the tests' own one.

What is on a driver's path goes to its machines, and the tools of developers are a few hundred megabytes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def make(folder: Path, project: Path, *extra: str) -> Path:
    """Make an environment with the dependencies of `project` and the packages `extra`; gives its interpreter."""
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    needed = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    for found in _closure([*needed, *extra]):
        for file in found.files or ():
            target = site / file
            if target.suffix != ".pyc" and Path(str(found.locate_file(file))).is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(found.locate_file(file)), target)
    return python


def _closure(requirements: Iterable[str]) -> Iterable[Distribution]:
    waiting, found = list(requirements), dict[str, Distribution]()
    while waiting:
        requirement = waiting.pop()
        match = _NAME.match(requirement)
        if match is None or "extra ==" in requirement or match[0].lower() in found:
            continue
        try:
            found[match[0].lower()] = distribution(match[0])
        except PackageNotFoundError:  # of another platform, by its marker
            continue
        waiting += found[match[0].lower()].requires or ()
    return found.values()
