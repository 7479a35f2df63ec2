"""The agent's packages for a host that cannot load the driver's: found by uv, in the versions that we have."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.image.foreign import requirements
from bigmachine.image.foreign.uv import Uv, UvFailed, described, site_of
from bigmachine.image.manifest import Platform

#: The distribution of a module that has another name.
_DISTRIBUTIONS: Final = {"_cffi_backend": "cffi"}


def found_for(target: Platform, modules: Mapping[str, bool], cache_dir: Path) -> dict[str, Path]:
    """Return where the modules are for a platform: a folder or a file of each. True: the agent needs that one.

    Others are left out if they are not installed here, or are not to be had for that platform.

    Raises:
        ImageError: One that is needed cannot be had; names it and what to do.
    """
    uv = Uv(target, cache_dir)
    needed = _pinned(name for name, is_needed in modules.items() if is_needed)
    everything = {**needed, **_pinned((name for name, is_needed in modules.items() if not is_needed), strict=False)}
    try:
        return _unpacked(uv, modules, everything)
    except UvFailed as error:
        if everything == needed:
            raise _missing(target, needed, error) from error
    try:
        return _unpacked(uv, modules, needed)
    except UvFailed as error:
        raise _missing(target, needed, error) from error


def _pinned(modules: Iterable[str], *, strict: bool = True) -> dict[str, str]:
    """Return the versions that are installed here, by the distribution's name."""
    found = {}
    for module in modules:
        name = _DISTRIBUTIONS.get(module, module)
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError as error:
            if strict:
                raise ImageError(
                    f"the package {name} is not installed here, and the agent needs it: install it"
                ) from error
    return found


def _unpacked(uv: Uv, modules: Iterable[str], versions: Mapping[str, str]) -> dict[str, Path]:
    packages = [f"{name}=={version}" for name, version in sorted(versions.items())]
    site = site_of(uv.kept(("kit", *packages), lambda prefix: uv.install(prefix, packages)))
    found = {}
    for module in modules:
        place = _place(site, module) if site is not None else None
        if place is not None and _DISTRIBUTIONS.get(module, module) in versions:
            found[module] = place
    return found


def _place(site: Path, module: str) -> Path | None:
    if (site / module).is_dir():
        return site / module
    return next((path for path in sorted(site.glob(f"{module}.*")) if path.suffix in (".py", ".so")), None)


def _missing(target: Platform, needed: Mapping[str, str], error: UvFailed) -> ImageError:
    name = requirements.mentioned(str(error), needed)
    package = f"{name} {needed[name]}" if name else "a package"
    return ImageError(
        f"the agent needs {package} for {described(target)}, which cannot be had: install another version of "
        f"{name or 'it'} here that has a wheel for that platform, or start the driver on such a host. uv said: {error}"
    )


__all__ = ["found_for"]
