"""Asks `uv` what another platform needs: its packages, and an interpreter for it.

`uv` is a program of its own and only used here: it is found on `PATH`, or in the package `uv`. Indexes, mirrors and
credentials are its own settings (`UV_INDEX_URL`, `UV_PYTHON_INSTALL_MIRROR`, uv.toml, keyring). What it found is kept
in the driver's cache, by what was asked, so the next start does not ask again.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.image.manifest import Platform
from bigmachine.image.platforms import libc_version, usual_machine
from bigmachine.image.scan.cache import private_directory

_SECONDS: Final = 600.0
#: The versions of glibc that uv knows a platform for.
_MANYLINUX: Final = (17, 28, *range(31, 41))


class UvFailed(Exception):
    """It ended with an error; the text is what it said."""


def uv_platform(target: Platform) -> str:
    """Return uv's name of a platform.

    Raises:
        ImageError: It has none.
    """
    machine = usual_machine(target.machine)
    if target.system == "Darwin" and machine in ("x86_64", "aarch64"):
        return f"{machine}-apple-darwin"
    if target.system == "Linux" and machine in ("x86_64", "aarch64"):
        if not target.libc.startswith("glibc"):
            return f"{machine}-unknown-linux-musl"
        version = libc_version(target.libc)
        known = [minor for minor in _MANYLINUX if (2, minor) <= version]
        if known:
            return f"{machine}-manylinux_2_{known[-1]}"
    raise ImageError(
        f"resolve: no packages are known for {target.system} on {target.machine} ({target.libc or 'no C library'}): "
        "use machines with Linux (glibc 2.17 or later, or musl) or macOS on x86-64 or ARM64"
    )


def described(target: Platform) -> str:
    """Name a platform as messages do."""
    libc = " with musl" if "musl" in target.libc else ""
    return f"{target.system} on {target.machine}{libc}, Python {target.minor}"


class Uv:
    """Asks for one platform; `cache_dir` is the driver's."""

    def __init__(self, target: Platform, cache_dir: Path) -> None:
        self.target = target
        self.cache_dir = cache_dir
        self.for_packages = (
            "--python-platform",
            uv_platform(target),
            "--python-version",
            target.minor,
            "--python",
            sys.executable,
            "--only-binary",
            ":all:",
            "--no-progress",
        )
        self._cache = cache_dir / "foreign"

    def kept(self, asked: Sequence[str], fill: Callable[[Path], None]) -> Path:
        """Give the folder that `fill` fills for what is asked; it is filled once.

        Raises:
            ImageError: The cache cannot be written.
        """
        text = "\0".join((*self.for_packages, *asked))
        place = self._cache / hashlib.sha256(text.encode()).hexdigest()[:32]
        if not place.is_dir():
            self._make_cache()
            with tempfile.TemporaryDirectory(dir=self._cache, prefix=".new-") as folder:
                made = Path(folder, "made")
                made.mkdir()
                fill(made)
                try:
                    os.rename(made, place)
                except OSError:
                    if not place.is_dir():  # or another start was faster
                        raise
        os.utime(place)
        return place

    def _make_cache(self) -> None:
        try:
            private_directory(self._cache)
        except OSError as error:
            raise ImageError(
                f"resolve: packages for another platform are kept in {self._cache}, which cannot be made "
                f"({error.strerror}): make it writable, or set XDG_CACHE_HOME"
            ) from error

    def install(self, prefix: Path, packages: Sequence[str]) -> None:
        """Unpack these very packages below a prefix, and nothing that they require.

        Raises:
            UvFailed: It cannot.
            ImageError: uv is not here, or takes too long.
        """
        self.run("pip", "install", "--no-deps", "--prefix", str(prefix), *self.for_packages, *packages)

    def run(self, *arguments: str) -> str:
        """Run it; gives its output.

        Raises:
            UvFailed: It says that it cannot.
            ImageError: uv is not here, or takes too long.
        """
        with subprocess.Popen(
            (_program(), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            atexit.register(process.kill)  # a thread that waits here does not see that the program ends
            try:
                told, complaint = process.communicate(timeout=_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise ImageError(
                    f"resolve: uv found nothing for {described(self.target)} within {_SECONDS:.0f} s: is the package "
                    "index reachable?"
                ) from error
            finally:
                process.kill()
                atexit.unregister(process.kill)
        if process.returncode:
            raise UvFailed(complaint.strip())
        return told


def site_of(prefix: Path) -> Path | None:
    """Return where packages are below a prefix; None if there are none."""
    return next(iter(sorted(prefix.glob("lib/python*/site-packages"))), None)


def _program() -> str:
    found = shutil.which("uv")
    if found is None:
        try:
            from uv import find_uv_bin

            found = str(find_uv_bin())
        except (ImportError, FileNotFoundError) as error:
            raise ImageError(
                "resolve: what another platform needs is found by uv, which is not here: pip install uv"
            ) from error
    return found


__all__ = ["Uv", "UvFailed", "described", "site_of", "uv_platform"]
