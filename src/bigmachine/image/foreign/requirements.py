"""What an environment's distributions require of each other, read from their metadata (PEP 508, PEP 566).

To make the same environment for another platform, it is not enough to ask for the same names: a package may need
others there. So what is asked for are the requirements, with the versions that are installed here as constraints.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from bigmachine.image.scan.record import normalized

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")
_EXTRA = re.compile(r"\bextra\s*==")


class Distribution(NamedTuple):
    """An installed distribution: `requires` are its lines, `is_kept` says that its files fit the target as they are."""

    name: str
    version: str
    requires: tuple[str, ...]
    is_kept: bool


def required_by(metadata: str) -> tuple[str, ...]:
    """Return the requirements in a METADATA file, without those of its extras, of which nobody noted if they apply."""
    head = metadata.partition("\n\n")[0]
    lines = (line.partition(":")[2].strip() for line in head.splitlines() if line.startswith("Requires-Dist:"))
    return tuple(line for line in lines if not _EXTRA.search(line))


def name_of(requirement: str) -> str:
    """Return the normalised name in a requirement, "" if there is none."""
    match = _NAME.match(requirement)
    return normalized(match.group(1)) if match else ""


def asked_for(installed: Iterable[Distribution]) -> list[str]:
    """Return what to resolve for a target, so that with the kept distributions it is a whole environment.

    That is what the kept ones require of others, and those of the others that no distribution requires (somebody
    installed them, or an extra brought them).
    """
    installed = list(installed)
    kept = {each.name for each in installed if each.is_kept}
    required = {name_of(line) for each in installed for line in each.requires}
    lines = {line for each in installed if each.is_kept for line in each.requires if name_of(line) not in kept}
    roots = {pinned(each) for each in installed if not each.is_kept and each.name not in required}
    return sorted(lines | roots)


def pinned(each: Distribution) -> str:
    """Return the requirement of this very version; without its local part (`+cpu`), which is of one platform."""
    return f"{each.name}=={each.version.partition('+')[0]}"


def constraints(installed: Iterable[Distribution], free: Collection[str]) -> list[str]:
    """Return constraints to the versions that are installed, but for the names in `free`."""
    return sorted(pinned(each) for each in installed if each.version and each.name not in free)


def versions(resolution: str) -> dict[str, str]:
    """Read what `uv pip compile` says: name -> version."""
    found: dict[str, str] = {}
    for line in resolution.splitlines():
        name, equals, rest = line.partition("==")
        if equals and not line.lstrip().startswith("#"):
            found[normalized(name.partition("[")[0].strip())] = re.split(r"[\s;]", rest, maxsplit=1)[0]
    return found


def mentioned(message: str, names: Mapping[str, object]) -> str:
    """Return which of these names an error message speaks of first, or ""."""
    words = (normalized(word) for word in re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", message))
    return next((word for word in words if word in names), "")


__all__ = [
    "Distribution",
    "asked_for",
    "constraints",
    "mentioned",
    "name_of",
    "pinned",
    "required_by",
    "versions",
]
