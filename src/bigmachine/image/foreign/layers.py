"""Layers for a machine that cannot load what is compiled for the driver, and packages that only machines are to have.

What is pure goes as it is. For the rest `uv` resolves the environment for the target's platform, here on the driver,
with the versions that are installed here as constraints, and unpacks the wheels into the cache; from there they are
layers like any others. So no machine needs a package index, and what cannot be had is known before one is paid for.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.image.foreign import requirements
from bigmachine.image.foreign.requirements import Distribution
from bigmachine.image.foreign.unresolved import explained, is_of_platform
from bigmachine.image.foreign.uv import Uv, UvFailed, described, site_of, uv_platform
from bigmachine.image.image import Image
from bigmachine.image.manifest import Platform
from bigmachine.image.platforms import takes, this_platform, wheel_fits
from bigmachine.image.scan import conda, record
from bigmachine.image.scan.placed import Placed, compiled
from bigmachine.image.scan.sites import scan_site

_log = logging.getLogger("bigmachine.image")

_ABOUT: Final = frozenset({"METADATA", "PKG-INFO", "WHEEL"})


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
    found = _layers(Uv(target, cache_dir), asked, pins, installed, image.packages)
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


def _layers(
    uv: Uv, asked: Sequence[str], pins: Sequence[str], installed: Mapping[str, Distribution], extra: Sequence[str]
) -> list[Placed]:
    """Return the layers of what is asked for, resolved within the pins; kept ones of the same version excepted."""

    def fill(prefix: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="bigmachine-") as folder:
            _fill(uv, prefix, Path(folder), asked, pins, installed, extra)

    site = site_of(uv.kept(("layers", *asked, "", *pins), fill))
    found = scan_site(str(site), uv.cache_dir).placed if site is not None else []
    return [
        each if each.layer.pure else each._replace(layer=dataclasses.replace(each.layer, kind="foreign"))
        for each in found
        if each.layer.kind == "dist"
    ]


def _fill(
    uv: Uv,
    prefix: Path,
    folder: Path,
    asked: Sequence[str],
    pins: Sequence[str],
    installed: Mapping[str, Distribution],
    extra: Sequence[str],
) -> None:
    (folder / "asked.in").write_text("\n".join(asked) + "\n")
    (folder / "pins.txt").write_text("\n".join(pins) + "\n")
    inputs = ("-c", str(folder / "pins.txt"), str(folder / "asked.in"))
    try:
        told = uv.run("pip", "compile", "--no-header", "--no-annotate", *uv.for_packages, *inputs)
        missing = [
            f"{name}=={version}"
            for name, version in requirements.versions(told).items()
            if not (name in installed and installed[name].is_kept and installed[name].version == version)
        ]
        if missing:
            uv.install(prefix, missing)
    except UvFailed as error:
        raise explained(str(error), described(uv.target), [*asked, *pins], extra) from error


def is_for_others(error: ImageError) -> bool:
    """Whether a platform other than the one that this was raised for may have what cannot be had for it."""
    return isinstance(error.__cause__, UvFailed) and is_of_platform(str(error.__cause__))


__all__ = ["is_for_others", "resolved"]
