"""What each machine costs: its part of what its host does, as the machines of one host share it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bigmachine.system.cost import Receipt, Use


def shares(receipt: Receipt, machine_ids: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Give dollars an hour at the moment, and so far, of those machines whose hosts' prices are known."""
    uses: dict[str, Use] = {}
    for machine_id in machine_ids:
        use = receipt.of(machine_id)
        if use is not None and use.price is not None:
            uses[machine_id] = use
    machines = Counter(use.id for use in uses.values())
    return {
        machine_id: (
            (use.price or 0.0) / machines[use.id] if use.ended is None else 0.0,
            use.dollars(receipt.now) / machines[use.id],
        )
        for machine_id, use in uses.items()
    }


__all__ = ["shares"]
