"""The fenced code blocks of a Markdown document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]

_FENCE = re.compile(
    r"^(?:<!-- run with: (?P<arguments>.*?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block, where it stands, and the arguments that a comment before it gives to its program."""

    document: Path
    line: int
    language: str
    text: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of all documents that are in one of these languages."""
    return [block for path in DOCUMENTS for block in _blocks_of(path) if block.language in languages]


def _blocks_of(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        yield Block(path, line, match["language"], match["text"], tuple((match["arguments"] or "").split()))
