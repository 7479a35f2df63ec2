"""What machines cost: an hour now, altogether so far, and as a receipt in the end. Pure.

Reckoned from the prices that the provider told before the start, by the second and at least for a minute, as instances
with Linux are billed. Disks, traffic and taxes are not in it, and a spot price may change meanwhile: the bill is the
provider's.
"""

from __future__ import annotations

from collections.abc import Iterable

from bigmachine.frozen import frozen

_LEAST = 60.0


@frozen
class Use:
    """The use of one host. `price`: dollars an hour, if known; `ended`: None while it runs.

    `id` is the provider's, `agent_id` ours. `began` and `ended` are seconds since the epoch.
    """

    id: str
    type: str
    zone: str
    market: str
    price: float | None
    began: float
    ended: float | None = None
    agent_id: str = ""

    def seconds(self, now: float) -> float:
        """How long it has run."""
        return max(0.0, (now if self.ended is None else self.ended) - self.began)

    def dollars(self, now: float) -> float:
        """What it has cost; 0 if its price is not known."""
        return (self.price or 0.0) * max(_LEAST, self.seconds(now)) / 3600


@frozen
class Receipt:
    """What all hosts of a session cost: `per_hour` those that run, `total` all so far, in dollars; `str` is a table.

    `is_complete`: every price is known; otherwise both are too low.
    """

    uses: tuple[Use, ...]
    now: float

    @property
    def per_hour(self) -> float:
        """Dollars an hour, at the moment."""
        return sum((use.price or 0.0 for use in self.uses if use.ended is None), 0.0)

    @property
    def total(self) -> float:
        """Dollars so far."""
        return sum((use.dollars(self.now) for use in self.uses), 0.0)

    @property
    def unpriced(self) -> int:
        """How many hosts have no price that is known."""
        return sum(use.price is None for use in self.uses)

    @property
    def is_complete(self) -> bool:
        """Whether every price is known."""
        return not self.unpriced

    def of(self, machine_id: str) -> Use | None:
        """Give the use of the host that a machine is or was on; machines of one host share it."""
        agent_id = machine_id.rpartition("-")[0]
        return next((use for use in self.uses if use.agent_id == agent_id), None) if agent_id else None

    def __str__(self) -> str:
        lines = [f"{'instance':<20} {'type':<14} {'zone':<14} {'market':<10} {'seconds':>8} {'$/h':>9} {'$':>9}"]
        for use in self.uses:
            each = cost = "unknown"
            if use.price is not None:
                each, cost = f"{use.price:.4g}", f"{use.dollars(self.now):.4g}"
            lines.append(
                f"{use.id:<20} {use.type:<14} {use.zone or '?':<14} {use.market:<10} "
                f"{use.seconds(self.now):>8.0f} {each:>9} {cost:>9}"
            )
        lines.append(f"{'total':<80} {self.total:>8.4g}{'' if self.is_complete else ' and what is unknown'}")
        return "\n".join(lines)


def receipt(uses: Iterable[Use], now: float) -> Receipt:
    """Add them up, in the order in which they began."""
    return Receipt(tuple(sorted(uses, key=lambda use: (use.began, use.id))), now)


__all__ = ["Receipt", "Use", "receipt"]
