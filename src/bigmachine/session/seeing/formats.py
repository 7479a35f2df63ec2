"""What was collected, in the format that somebody wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from bigmachine.errors import InvalidCall
from bigmachine.observe import flame, pprof
from bigmachine.observe.profile import Profile, to_folded
from bigmachine.observe.stacks import as_groups, as_text
from bigmachine.session.seeing.collecting import Collected

#: The media type of each format, for pages.
MEDIA: Final[Mapping[str, str]] = {
    "pprof": "application/octet-stream",
    "folded": "text/plain; charset=utf-8",
    "speedscope": "application/json",
    "svg": "image/svg+xml",
    "text": "text/plain; charset=utf-8",
}
#: So many rows of a table are what somebody reads.
_ROWS: Final = 200


def check_format(name: str, debug: int) -> str:
    """Give the format; `debug` above 0 asks for text, as Go's pages have it.

    Raises:
        InvalidCall: if there is no such format or level.
    """
    if debug not in (0, 1, 2):
        raise InvalidCall(f"debug={debug!r}: it has to be 0 (as {name}), 1 (text, grouped) or 2 (text, in full)")
    if name not in MEDIA:
        raise InvalidCall(f"no such format {name!r}: there is {', '.join(sorted(MEDIA))}")
    return "text" if debug else name


def rendered(collected: Collected, format: str, debug: int = 0) -> bytes:  # noqa: A002 (the parameter's public name)
    """Write it; `format` as `check_format` gives it."""
    writers: dict[str, Callable[[Profile], bytes]] = {
        "pprof": pprof.encode,
        "folded": lambda profile: to_folded(profile).encode("utf-8", "replace"),
        "speedscope": lambda profile: flame.speedscope(profile, collected.kind),
        "svg": lambda profile: flame.svg(profile, collected.kind),
        "text": lambda _: _as_text(collected, debug).encode("utf-8", "replace"),
    }
    return writers[format](collected.profile)


def _as_text(collected: Collected, debug: int) -> str:
    lines = [f"# {comment}" for comment in collected.profile.comments]
    if collected.kind != "goroutine":
        return "\n".join([*lines, *_table(collected.profile, None if debug > 1 else _ROWS), ""])
    write = as_text if debug > 1 else as_groups
    for machine, standing in sorted(collected.standing.items()):
        lines += [f"{machine}:", write(standing)]
    return "\n".join([*lines, ""])


def _table(profile: Profile, rows: int | None) -> list[str]:
    """Write a table of the innermost frames, those with the most first, in the last measure."""
    sums: dict[str, list[int]] = {}
    for (stack, _), values in profile.samples.items():
        known = sums.setdefault(str(stack[-1]) if stack else "?", [0] * len(values))
        known[:] = map(sum, zip(known, values, strict=True))
    heads = [f"{name} ({unit})" for name, unit in profile.kinds]
    lines = ["  ".join([*(f"{head:>22}" for head in heads), "where"])]
    for name, values in sorted(sums.items(), key=lambda item: (-item[1][-1], item[0]))[:rows]:
        lines.append("  ".join([*(f"{value:>22}" for value in values), name]))
    return lines


__all__ = ["MEDIA", "check_format", "rendered"]
