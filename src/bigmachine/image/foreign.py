"""Layers for a machine that cannot load what is compiled for the driver, and packages that only machines are to have.

What is pure goes as it is. For the rest `uv` resolves the environment for the target's platform, here on the driver,
with the versions that are installed here as constraints, and unpacks the wheels into the cache; from there they are
layers like any others. So no machine needs a package index, and what cannot be had is known before one is paid for.

`uv` is a program of its own and only used here: it is found on `PATH`, or in the package `uv`. Indexes and credentials
are its own settings (`UV_INDEX_URL`, uv.toml, keyring).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.image import conda, record, requirements
from bigmachine.image.image import Image
from bigmachine.image.manifest import Platform
from bigmachine.image.placed import Placed, compiled
from bigmachine.image.platforms import libc_version, takes, this_platform, wheel_fits
from bigmachine.image.requirements import Distribution
from bigmachine.image.scan_cache import private_directory
from bigmachine.image.sites import scan_site

_log = logging.getLogger("bigmachine.image")

_SECONDS: Final = 600.0

#: The versions of glibc that uv knows a platform for.
_MANYLINUX: Final = (17, 28, *range(31, 41))
_ABOUT: Final = frozenset({"METADATA", "PKG-INFO", "WHEEL"})
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def uv_platform(target: Platform) -> str:
    """Return uv's name of a platform.

    Raises:
        ImageError: It has none.
    """
    machine = _MACHINES.get(target.machine.lower(), target.machine.lower())
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


def resolved(
    layers: Sequence[Placed], trees: Iterable[Placed], target: Platform, image: Image, cache_dir: Path
) -> list[Placed]:
    """Return a target's layers: those that fit it as they are, and in place of the others those of its platform.

    With `image.packages`, those are among them, too, and take the place of other versions.

    Raises:
        ImageError: Something cannot be had for the target; names the package and what to do.
    """
    is_ours = takes(target, this_platform())
    if not is_ours:  # wheels bring the libraries that conda has in packages of their own
        layers = [each for each in layers if not each.layer.name.startswith(conda.NAME)]
    installed = {each.layer.name: _distribution(each, target) for each in layers if each.layer.kind == "dist"}
    if not is_ours:
        for placed in (*layers, *trees):
            if placed.layer.kind != "dist":
                _refuse_compiled(placed, target)
    wanted = {requirements.name_of(line) for line in image.packages}
    asked = sorted({*image.packages, *(() if is_ours else requirements.asked_for(installed.values()))})
    if not asked:
        return [each for each in layers if each.layer.kind != "dist" or installed[each.layer.name].is_kept]
    for each in installed.values():
        if "+" in each.version and not each.is_kept:
            _log.info("%s %s is asked for without its local part for %s", each.name, each.version, uv_platform(target))
    pins = requirements.constraints(installed.values(), wanted)
    found = _Uv(target, cache_dir).layers(asked, pins, installed)
    new = {each.layer.name: each for each in found if not _is_same(installed.get(each.layer.name), each)}
    stay = [each for each in layers if each.layer.name not in new or each.layer.kind != "dist"]
    return [*new.values(), *(e for e in stay if e.layer.kind != "dist" or installed[e.layer.name].is_kept)]


def _is_same(installed: Distribution | None, found: Placed) -> bool:
    return installed is not None and installed.is_kept and installed.version == found.layer.version


def _distribution(placed: Placed, target: Platform) -> Distribution:
    layer, ours = placed.layer, this_platform()
    about: dict[str, str] = {}
    for file, source in zip(layer.files, placed.sources, strict=True):
        folder, _, name = file.path.rpartition("/")
        if folder.endswith("-info") and name in _ABOUT:
            about[name] = _text(source)
    is_kept = (
        takes(target, ours)
        or layer.pure
        or _is_only_metadata(placed)
        or wheel_fits(record.tag(about.get("WHEEL", "")).tags, target, ours)
    )
    requires = requirements.required_by(about.get("METADATA") or about.get("PKG-INFO") or "")
    return Distribution(layer.name, layer.version, requires, is_kept)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        raise ImageError(f"resolve: {path} cannot be read ({error.strerror}): make it readable") from error


def _is_only_metadata(placed: Placed) -> bool:
    """Whether it is an editable install, of which the files are in a tree."""
    return all("-info/" in file.path for file in placed.layer.files)


def _refuse_compiled(placed: Placed, target: Platform) -> None:
    layer = placed.layer
    for file, source in zip(layer.files, placed.sources, strict=True):
        if compiled([file]):
            raise ImageError(
                f"resolve: {source} is compiled for this platform and of no package that an index has for "
                f"{target.system} on {target.machine}: publish a wheel of it for that platform and install it here, or "
                "leave it out by a line in .bigmachineignore or Image(exclude=...)"
            )


class _Uv:
    """Asks uv for one platform."""

    def __init__(self, target: Platform, cache_dir: Path) -> None:
        self._target = target
        self._options = (
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

    def layers(self, asked: Sequence[str], pins: Sequence[str], installed: dict[str, Distribution]) -> list[Placed]:
        """Return the layers of what is asked for, resolved within the pins; kept ones of the same version excepted."""
        place = self._cache / self._name("layers", *asked, "", *pins)
        if not place.is_dir():
            self._make_cache()
            with tempfile.TemporaryDirectory(dir=self._cache, prefix=".new-") as folder:
                self._fill(Path(folder), asked, pins, installed)
                try:
                    os.rename(Path(folder, "prefix"), place)
                except OSError:
                    if not place.is_dir():  # or another start was faster
                        raise
        os.utime(place)
        sites = sorted(place.glob("lib/python*/site-packages"))
        found = scan_site(str(sites[0]), self._cache.parent).placed if sites else []
        return [
            each if each.layer.pure else each._replace(layer=dataclasses.replace(each.layer, kind="foreign"))
            for each in found
            if each.layer.kind == "dist"
        ]

    def _fill(
        self, folder: Path, asked: Sequence[str], pins: Sequence[str], installed: dict[str, Distribution]
    ) -> None:
        (folder / "asked.in").write_text("\n".join(asked) + "\n")
        (folder / "pins.txt").write_text("\n".join(pins) + "\n")
        inputs = ("-c", str(folder / "pins.txt"), str(folder / "asked.in"))
        told = self._run(("pip", "compile", "--no-header", "--no-annotate", *self._options, *inputs), installed)
        (folder / "prefix").mkdir()
        missing = [
            f"{name}=={version}"
            for name, version in requirements.versions(told).items()
            if not (name in installed and installed[name].is_kept and installed[name].version == version)
        ]
        if missing:
            goal = ("--no-deps", "--prefix", str(folder / "prefix"))
            self._run(("pip", "install", *goal, *self._options, *missing), installed)

    def _make_cache(self) -> None:
        try:
            private_directory(self._cache)
        except OSError as error:
            raise ImageError(
                f"resolve: packages for another platform are kept in {self._cache}, which cannot be made "
                f"({error.strerror}): make it writable, or set XDG_CACHE_HOME"
            ) from error

    def _name(self, *parts: str) -> str:
        text = "\0".join((*self._options, *parts))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _run(self, arguments: Sequence[str], installed: dict[str, Distribution]) -> str:
        where = f"{self._target.system} on {self._target.machine}, Python {self._target.minor}"
        try:
            done = subprocess.run(
                (_uv(), *arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ImageError(
                f"resolve: uv found no packages for {where} within {_SECONDS:.0f} s: is the package index reachable?"
            ) from error
        if done.returncode:
            package = requirements.mentioned(done.stderr, installed)
            raise ImageError(
                f"resolve: {package or 'a package'} cannot be had for {where}. Install a version here that has a wheel "
                f"for that platform, publish one, or leave it: Image(without=[{package or '...'!r}]). uv said: "
                f"{done.stderr.strip()}"
            )
        return done.stdout


def _uv() -> str:
    found = shutil.which("uv")
    if found is None:
        try:
            from uv import find_uv_bin

            found = str(find_uv_bin())
        except (ImportError, FileNotFoundError) as error:
            raise ImageError(
                "resolve: packages for another platform are found by uv, which is not here: pip install uv"
            ) from error
    return found


__all__ = ["resolved", "uv_platform"]
