"""This interpreter's platform, and whether another can use what is compiled for it."""

from __future__ import annotations

import os
import platform
import re
import sys
import sysconfig

from bigmachine.image.manifest import Platform


def this_platform() -> Platform:
    """Return the platform of this interpreter."""
    abi = sysconfig.get_config_var("SOABI")
    return Platform(platform.python_version(), str(abi or ""), platform.system(), platform.machine(), _libc())


def _libc() -> str:
    if sys.platform != "linux":
        return ""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # no glibc
        name, version = platform.libc_ver()
        return f"{name or 'musl'} {version}".strip()


def libc_version(libc: str) -> tuple[int, ...]:
    """Return the number in `glibc 2.36`."""
    return tuple(int(part) for part in re.findall(r"\d+", libc)[:2])


def takes(target: Platform, ours: Platform) -> bool:
    """Whether `target` can load what is compiled for `ours`: the same kind, and a C library that is not older."""
    same = (target.system, target.machine, target.minor, target.abi) == (
        ours.system,
        ours.machine,
        ours.minor,
        ours.abi,
    )
    kind, other = ours.libc.partition(" ")[0], target.libc.partition(" ")[0]
    return same and kind == other and libc_version(target.libc) >= libc_version(ours.libc)


__all__ = ["libc_version", "takes", "this_platform"]
