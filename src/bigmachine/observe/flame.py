"""A profile as a picture: speedscope's file format, and a flame graph as SVG. Pure.

Source of speedscope's layout: https://www.speedscope.app/file-format-schema.json. The SVG is one file without script:
every box has a title, which browsers show when the pointer is on it.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Final

from bigmachine.observe.profile import Frame, Profile, Stack

_UNITS: Final = {"nanoseconds": "nanoseconds", "bytes": "bytes"}
_WIDTH: Final = 1200
_ROW: Final = 18
#: The title and the comments are lines above it, so high and so many letters long.
_NOTE: Final = 16
_LINE: Final = 160
#: Boxes narrower than this many pixels are not drawn.
_NARROW: Final = 0.4
#: So many pixels a letter takes.
_LETTER: Final = 7.0


def speedscope(profile: Profile, name: str, at: int = -1, split: str = "machine") -> bytes:
    """Write it for speedscope: one profile for each value of the label `split`, and all of them together first."""
    frames: dict[Frame, int] = {}
    groups: dict[str, list[tuple[list[int], int]]] = {}
    for (stack, labels), values in profile.samples.items():
        indices = [frames.setdefault(frame, len(frames)) for frame in stack]
        key = dict(labels).get(split)
        groups.setdefault("all", []).append((indices, values[at]))
        if key is not None:
            groups.setdefault(f"{split} {key}", []).append((indices, values[at]))
    if len(groups) == 2:  # all, and the only one
        groups.pop("all")
    unit = _UNITS.get(profile.kinds[at][1], "none")
    return json.dumps(
        {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "exporter": "bigmachine",
            "name": name,
            "shared": {"frames": [_described(frame) for frame in frames]},
            "profiles": [_sampled(title, samples, unit) for title, samples in groups.items()],
        },
        separators=(",", ":"),
    ).encode()


def _described(frame: Frame) -> dict[str, object]:
    described: dict[str, object] = {"name": frame.function}
    if frame.file:
        described["file"] = frame.file
    if frame.line:
        described["line"] = frame.line
    return described


def _sampled(title: str, samples: list[tuple[list[int], int]], unit: str) -> dict[str, object]:
    return {
        "type": "sampled",
        "name": title,
        "unit": unit,
        "startValue": 0,
        "endValue": sum(value for _, value in samples),
        "samples": [indices for indices, _ in samples],
        "weights": [value for _, value in samples],
    }


@dataclass(slots=True)
class _Box:
    value: int = 0
    children: dict[Frame, _Box] = field(default_factory=dict)

    def add(self, stack: Stack, value: int) -> None:
        box = self
        box.value += value
        for frame in stack:
            box = box.children.setdefault(frame, _Box())
            box.value += value


def svg(profile: Profile, title: str, at: int = -1) -> bytes:
    """Draw a flame graph: the outermost frames at the top, a box as wide as its share; labels are its first rows."""
    root = _Box()
    for (stack, labels), values in profile.samples.items():
        marks = tuple(Frame(f"{key} {value}") for key, value in labels if key in ("machine", "thread"))
        root.add((*marks, *stack), values[at])
    unit = profile.kinds[at][1]
    notes = [line for note in (title, *profile.comments) for line in textwrap.wrap(note, _LINE)]
    top = 20 + len(notes) * _NOTE
    boxes = list(_boxes(root, root.value, unit, top)) if root.value else []
    depth = max((row for row, _ in boxes), default=0) + 1
    height = top + depth * _ROW + 8
    said = "; ".join([title, *profile.comments])
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="monospace" font-size="12" role="img"><title>{escape(said)}</title>'
        '<rect width="100%" height="100%" fill="#fdfdfd"/>'
    )
    head += "".join(f'<text x="6" y="{20 + at * _NOTE}">{escape(note)}</text>' for at, note in enumerate(notes))
    return (head + "".join(text for _, text in boxes) + "</svg>\n").encode("utf-8", "replace")


def _boxes(root: _Box, total: int, unit: str, top: int) -> Iterator[tuple[int, str]]:
    waiting = list(_placed(root, 0, 0.0, total))
    while waiting:
        row, left, frame, box = waiting.pop()
        width = box.value * _WIDTH / total
        if width < _NARROW:
            continue
        yield row, _drawn(top + row * _ROW, left, width, frame, box.value, total, unit)
        waiting.extend(_placed(box, row + 1, left, total))


def _placed(parent: _Box, row: int, left: float, total: int) -> Iterator[tuple[int, float, Frame, _Box]]:
    for frame, box in sorted(parent.children.items()):
        yield row, left, frame, box
        left += box.value * _WIDTH / total


def _drawn(y: int, left: float, width: float, frame: Frame, value: int, total: int, unit: str) -> str:
    said = f"{frame}: {_amount(value, unit)}, {100 * value / total:.1f} %"
    room = int((width - 6) / _LETTER)
    name = frame.function if len(frame.function) <= room else f"{frame.function[: room - 1]}…" if room > 3 else ""
    label = f'<text x="{left + 3:.1f}" y="{y + 13}">{escape(name)}</text>' if name else ""
    place = f'x="{left:.1f}" y="{y}" width="{max(0.1, width - 0.5):.1f}" height="{_ROW - 1}"'
    return f'<g><title>{escape(said)}</title><rect {place} fill="{_colour(frame)}"/>{label}</g>'


def _colour(frame: Frame) -> str:
    """Choose one by the file, so that what belongs together looks alike."""
    hue = 20 + sum(frame.file.encode("utf-8", "replace")) * 37 % 200
    return f"hsl({hue},60%,78%)"


def _amount(value: int, unit: str) -> str:
    if unit == "nanoseconds":
        return f"{value / 1e9:.3f} s"
    if unit == "bytes":
        return f"{value / 2**20:.2f} MiB"
    return f"{value:,} {unit}"


__all__ = ["speedscope", "svg"]
