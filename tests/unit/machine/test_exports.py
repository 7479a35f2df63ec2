"""The room's face."""

from __future__ import annotations

import bigmachine.machine


def test_the_public_names_are_these() -> None:
    assert bigmachine.machine.__all__ == [
        "Address",
        "Fate",
        "Host",
        "Machine",
        "Owner",
        "Phase",
        "Pinger",
        "Settle",
        "State",
        "receive_with",
    ]
    assert all(hasattr(bigmachine.machine, name) for name in bigmachine.machine.__all__)
