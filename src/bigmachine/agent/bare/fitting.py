"""Which interpreter an agent runs on, on a host that is known: its own if it fits, or one that goes there."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bigmachine.errors import ImageError
from bigmachine.image.bundles.runtime import interpreter_bundle
from bigmachine.image.foreign.runtime import foreign_interpreter
from bigmachine.image.manifest import Platform
from bigmachine.image.platforms import libc_version, this_platform, usual_machine

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bigmachine.image.bundles.bundle import Bundle


def is_fit(theirs: Platform, ours: Platform, *, openssl: bool, lacks: Sequence[str]) -> bool:
    """Whether a host's own Python runs what the driver's does: the same minor version and build, no module less.

    Its system and processor may be others: what is compiled is found for them.
    """
    return (
        theirs.system in ("Linux", ours.system)
        and (theirs.minor, _build(theirs.abi)) == (ours.minor, _build(ours.abi))
        and openssl
        and not lacks
    )


def _build(abi: str) -> str:
    """Return what a tag of extension modules says of the interpreter alone: `cpython-313t` of ...-x86_64-linux-gnu."""
    return "-".join(abi.split("-")[:2])


def interpreter_for(
    host: str, system: str, machine: str, libc: str, *, cache: Path | None = None
) -> tuple[Bundle, Platform]:
    """Give an interpreter that can go to a host, and the platform that it is there: the driver's own, if it runs there.

    Raises:
        ImageError: if there is none; the text names the host and the remedy.
    """
    ours = this_platform()
    theirs = replace(ours, system=system, machine=machine, libc=libc)
    if (system, usual_machine(machine)) == (ours.system, usual_machine(ours.machine)) and "musl" not in libc:
        bundle = interpreter_bundle(cache=cache)
        platform = replace(ours, libc=libc)
        what = "the driver's Python"
    else:
        try:
            bundle, platform = foreign_interpreter(theirs, cache=cache)
        except ImageError as error:
            raise ImageError(f"{host}: {error}") from error
        what = f"Python {platform.python}"
    check_libc(bundle, what, host, libc)
    return bundle, platform


def check_libc(bundle: Bundle, what: str, host: str, libc: str) -> None:
    """Make sure that a host's C library runs the compiled files of a bundle.

    Raises:
        ImageError: if it cannot; the text names both versions.
    """
    if bundle.libc == (0, 0) or not libc:
        return
    needed = f"glibc {bundle.libc[0]}.{bundle.libc[1]}"
    if not libc.startswith("glibc") and "musl" in libc:
        raise ImageError(f"{host} has {libc}, and {what} needs {needed}: take a host with glibc")
    if (has := libc_version(libc)) and has < bundle.libc:
        raise ImageError(
            f"{host} has {libc}, and {what} needs {needed} or later: install Python {this_platform().minor} there from "
            "its own packages, or run the driver on a system that is as old"
        )


__all__ = ["check_libc", "interpreter_for", "is_fit"]
