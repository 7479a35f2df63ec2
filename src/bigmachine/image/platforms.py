"""This interpreter's platform, and whether another can use what is compiled for it."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.image.manifest import Platform

#: Where the tag of extension modules says the processor, as in `cpython-311-x86_64-linux-gnu`.
_TRIPLET: Final = re.compile(r"-([^-]+)-linux-")
_64_BITS: Final = ("x86_64", "aarch64")
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


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


def usual_machine(machine: str) -> str:
    """Return the name that Linux has for a processor: macOS says arm64, and Linux aarch64."""
    return _MACHINES.get(machine.lower(), machine.lower())


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


def check_processor(target: Platform) -> None:
    """See that a platform's Python is for its processor: systems with 32 bits run on processors with 64.

    Raises:
        ImageError: if it is not.
    """
    machine = usual_machine(target.machine)
    built = _TRIPLET.search(target.abi)
    if built is not None and machine in _64_BITS and usual_machine(built[1]) != machine:
        raise ImageError(
            f"its Python is for {built[1]}, and its processor is {target.machine}: take a system that is for "
            f"{target.machine}, too, or install such a Python there"
        )


#: Names of the tags from before they said the version of glibc (PEP 600).
_LEGACY = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


def wheel_fits(tags: Iterable[str], target: Platform, ours: Platform) -> bool:
    """Whether `target` can load a wheel with these tags that is installed here, even if its glibc is older than ours.

    A wheel for `manylinux_2_17` was built so that it runs with glibc 2.17.
    """
    version = libc_version(target.libc)
    is_alike = takes(dataclasses.replace(target, libc=ours.libc), ours) and target.libc.startswith("glibc")
    return is_alike and any(needed is not None and needed <= version for needed in map(_glibc_of, tags))


def _glibc_of(tag: str) -> tuple[int, ...] | None:
    """Return the version of glibc that a wheel's tag asks for; None if it says none."""
    name = tag.rpartition("-")[2]
    match = re.match(r"manylinux_(\d+)_(\d+)_", name)
    return (int(match[1]), int(match[2])) if match else _LEGACY.get(name.partition("_")[0])


__all__ = ["check_processor", "libc_version", "takes", "this_platform", "usual_machine", "wheel_fits"]
