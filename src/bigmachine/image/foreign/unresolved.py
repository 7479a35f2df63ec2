"""What it means that uv found no package, and what to do about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from bigmachine.errors import ImageError
from bigmachine.image.foreign.requirements import mentioned, name_of

_NOT_REACHED: Final = re.compile(
    r"Failed to (?:fetch|download)|could not be queried|An index .* returned a|network (?:was|is) disabled|"
    r"dns error|error sending request|timed out"
)
_MISSING: Final = re.compile(r"(\S+) was not found in the package registry|there (?:is|are) no versions? of (\S+)")
#: Of what has wheels for other platforms; of what has none at all uv says "no usable wheels".
_OTHER_PLATFORMS: Final = "matching platform tag"
_NO_WHEEL: Final = re.compile(r"(\S+) (?:has|have) no (?:usable )?wheels?")


def explained(said: str, platform: str, asked: Collection[str], extra: Collection[str]) -> ImageError:
    """Make the error of what uv said: the package, why it cannot be had for a platform, and the remedy.

    `asked` is all that was asked for, `extra` what `Image(packages=...)` asks for besides what is installed here.
    """
    known = {name_of(line): line for line in (*asked, *extra)}
    further = {name_of(line) for line in extra}

    def about(found: re.Match[str] | None) -> str:
        told = next((group for group in found.groups() if group), "") if found is not None else ""
        return name_of(told) or mentioned(said, known)

    if _NOT_REACHED.search(said):
        names = ", ".join(sorted(filter(None, further or known))) or "packages"
        return ImageError(
            f"resolve: {names} cannot be looked up for {platform}, since the package index was not reached, or refused "
            "to answer: see that this program reaches it (HTTPS_PROXY), or name another, or its credentials "
            f"(UV_DEFAULT_INDEX, uv.toml). uv said: {said}"
        )
    if (found := _MISSING.search(said)) is not None:
        name = about(found)
        remedy = (
            "correct its name or version in Image(packages=...), or name the index that has it (UV_INDEX)"
            if name in further or not name
            else f"install a version here that an index has, publish this one, or leave it: Image(without=[{name!r}])"
        )
        return ImageError(
            f"resolve: {_quoted(name, known)} is in no package index that uv asks, on no platform: {remedy}. "
            f"uv said: {said}"
        )
    name = about(_NO_WHEEL.search(said))
    why = "there is no wheel of it. " if _NO_WHEEL.search(said) else ""
    remedy = (
        "Ask Image(packages=...) for a version that has one there, or publish one"
        if name in further
        else "Install a version here that has a wheel for that platform, publish one, or leave it: "
        f"Image(without=[{name or '...'!r}])"
    )
    return ImageError(f"resolve: {name or 'a package'} cannot be had for {platform}: {why}{remedy}. uv said: {said}")


def is_of_platform(said: str) -> bool:
    """Whether another platform may have what cannot be had for this one."""
    return _OTHER_PLATFORMS in said and not _NOT_REACHED.search(said)


def _quoted(name: str, known: dict[str, str]) -> str:
    return known.get(name) or name or "a package"


__all__ = ["explained", "is_of_platform"]
