"""The room's face."""

from __future__ import annotations

import bigmachine.system


def test_the_public_names_are_these() -> None:
    assert bigmachine.system.__all__ == [
        "Foreseen",
        "Guest",
        "HasMachineId",
        "Keepalive",
        "Launched",
        "MakeDialer",
        "Runtime",
        "System",
        "Ticket",
        "agent_id_of",
        "create",
        "lines",
        "names",
        "register_system",
    ]
    assert all(hasattr(bigmachine.system, name) for name in bigmachine.system.__all__)
