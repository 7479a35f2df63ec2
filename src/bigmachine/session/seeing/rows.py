"""Rows of a table that is told again and again, and what keeps them short. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
Row = dict[str, object]


def thinned(items: Sequence[T], most: int) -> Sequence[T]:
    """Give at most so many of them, evenly chosen, the last one among them."""
    count = len(items)
    if count <= most:
        return items
    return [items[(at + 1) * count // most - 1] for at in range(most)]


def rounded(value: float) -> float:
    """Keep three digits, which is what a page shows."""
    return float(f"{value:.3g}")


__all__ = ["Row", "rounded", "thinned"]
