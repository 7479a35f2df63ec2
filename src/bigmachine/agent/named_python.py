"""A Python of this host that the program names for its machines (`Image(python=...)`): found, and asked what it is.

What comes with the program was chosen for one minor version and build; any other would not load it, or do so half.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from bigmachine.agent.watch.following import follow
from bigmachine.errors import BigmachineError, ImageError

if TYPE_CHECKING:
    from bigmachine.agent.processes.reaper import Reaper

#: A Python on a slow disk that starts for the first time takes seconds.
_PATIENCE: Final = 30.0
#: What it says stands behind this: a wrapper may print something, too.
_MARK: Final = "bigmachine:"
#: One of a virtual environment says which it was made from, since the image is an environment itself.
_CODE: Final = (
    "import sys, sysconfig;"
    "print(); print('bigmachine:', sys.version.split()[0], sysconfig.get_config_var('SOABI') or '-',"
    " getattr(sys, '_base_executable', '') or sys.executable)"
)


async def find(reaper: Reaper, named: str, minor: str, abi: str) -> str:
    """Give the path of the interpreter that `named` (a path, or a name on `PATH`) is.

    `minor` and `abi` are what the program's packages are for: a version as `3.11`, and the tag of extension modules.

    Raises:
        ImageError: there is none, or it is another one; the text names it, this host and what to do.
    """
    host = socket.gethostname()
    found = shutil.which(named)
    if found is None:
        where = "" if os.path.isabs(named) else f" on the PATH ({os.environ.get('PATH', '')})"
        raise ImageError(
            f"{host}: the Python {named} of Image(python=...) is not there{where}, or cannot be executed: install "
            f"Python {minor} there, or name one that the host has"
        )
    try:
        async with asyncio.timeout(_PATIENCE):
            said = await _output(reaper, [found, "-I", "-c", _CODE])
        version, its_abi, path = said.rpartition(_MARK)[2].strip().split(" ", 2)
    except (BigmachineError, TimeoutError, ValueError) as error:
        why = str(error) or f"it did not answer within {_PATIENCE:.0f} s"
        raise ImageError(f"{host}: {found} of Image(python=...) does not run as a Python: {why}") from error
    if version.rpartition(".")[0] != minor or its_abi != (abi or "-"):
        raise ImageError(
            f"{host}: {found} of Image(python=...) is Python {version} ({its_abi}), and the program's packages are for "
            f"Python {minor} ({abi}): name one of that kind, or run the driver with Python {version}"
        )
    return path


async def _output(reaper: Reaper, command: list[str]) -> str:
    async with aclosing(follow(reaper, command)) as told:
        return b"".join([piece async for piece in told]).decode(errors="replace")


__all__ = ["find"]
