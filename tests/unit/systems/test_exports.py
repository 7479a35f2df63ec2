"""The rooms' faces."""

from __future__ import annotations

import bigmachine.systems.inprocess


def test_the_public_names_are_these() -> None:
    assert bigmachine.systems.inprocess.__all__ == ["InprocessMachine", "InprocessSystem"]
    assert all(hasattr(bigmachine.systems.inprocess, name) for name in bigmachine.systems.inprocess.__all__)
