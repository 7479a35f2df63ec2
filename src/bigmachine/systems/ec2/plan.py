"""The ladder: in which order instances are asked for, what an hour of them costs, and why it came to nothing. Pure.

First spot instances of all types in all zones together, from which the provider picks those that are cheap and will
last; then, unless only spot instances are wanted, on-demand ones, type by type and place by place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen
from bigmachine.systems.ec2.catalogue import InstanceType, Prices
from bigmachine.systems.ec2.options import Options


@frozen
class Where:
    """Where instances may be: a subnet, or a zone (its default subnet), or wherever there is room."""

    subnet: str = ""
    zone: str = ""

    def __str__(self) -> str:
        return self.zone or self.subnet or "any zone"


@frozen
class Offer:
    """A type in a place, and its price in dollars an hour, if that is known."""

    type: str
    where: Where
    price: float | None
    vcpus: int = 1


@frozen
class Rung:
    """What is asked for in one go, in a market ("spot" or "on-demand"): any of the offers."""

    market: str
    offers: tuple[Offer, ...]

    def __str__(self) -> str:
        kinds = ", ".join(dict.fromkeys(offer.type for offer in self.offers))
        places = ", ".join(dict.fromkeys(str(offer.where) for offer in self.offers))
        return f"{self.market} {kinds} in {places}"


@frozen
class Plan:
    """What `n` machines would be, before anything is bought: the rungs in their order, and what is not asked for.

    `str` is a table with prices an hour.
    """

    n: int
    region: str
    image: str
    life: float
    rungs: tuple[Rung, ...]
    dropped: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        lines = [
            f"{self.n} machines in {self.region} from {self.image}, {self.life / 3600:g} h at most; in this order:",
            f"  {'market':<10} {'type':<16} {'place':<18} {'vCPUs':>5} {'$/h each':>10} {'$/h all':>10}",
        ]
        for rung in self.rungs:
            for offer in rung.offers:
                each = all_ = "unknown"
                if offer.price is not None:
                    each, all_ = f"{offer.price:.4g}", f"{self.n * offer.price:.4g}"
                lines.append(
                    f"  {rung.market:<10} {offer.type:<16} {offer.where!s:<18} {offer.vcpus:>5} {each:>10} {all_:>10}"
                )
        return "\n".join([*lines, *(f"  not asked: {text}" for text in self.dropped)])


def ladder(
    options: Options, kinds: Sequence[InstanceType], prices: Prices, places: Sequence[Where]
) -> tuple[tuple[Rung, ...], tuple[str, ...]]:
    """Give the rungs in their order, and what is left out because of its price.

    Raises:
        ProvisionError: if nothing is left.
    """
    dropped: list[str] = []

    def kept(market: str, kind: InstanceType, wheres: Sequence[Where]) -> list[Offer]:
        offers = [Offer(kind.name, where, prices.of(market, kind.name, where.zone), kind.vcpus) for where in wheres]
        why = [_unwanted(market, kind, offer, options) for offer in offers]
        dropped.extend(
            f"{market} {each.type} in {each.where}: {text}" for each, text in zip(offers, why, strict=True) if text
        )
        return [offer for offer, text in zip(offers, why, strict=True) if not text]

    rungs: list[Rung] = []
    if options.may_spot:
        spot = [offer for kind in kinds for offer in kept("spot", kind, _spot_places(kind, prices, places))]
        rungs += [Rung("spot", tuple(spot))] if spot else []
    if options.may_demand:
        rungs += [Rung("on-demand", (offer,)) for kind in kinds for offer in kept("on-demand", kind, places)]
    if not rungs:
        text = "".join(f"\n  {each}" for each in dropped)
        raise ProvisionError(
            f"ec2: nothing may be asked for; raise ec2maxprice, name other types, or leave the limit out:{text}"
        )
    return tuple(rungs), tuple(dropped)


def _spot_places(kind: InstanceType, prices: Prices, places: Sequence[Where]) -> Sequence[Where]:
    """Name the zones where spot instances of a type are sold, if nobody has chosen any."""
    zones = prices.zones(kind.name)
    return [Where(zone=zone) for zone in zones] if zones and [*places] == [Where()] else places


def _unwanted(market: str, kind: InstanceType, offer: Offer, options: Options) -> str:
    """Say why an offer is not asked for; "" if it is."""
    cap, price = options.max_price, offer.price
    if market not in kind.markets:
        return "there are none of this type"
    if cap is not None and price is None:
        return f"its price is not known, and there is a cap of ${cap:g}/h"
    if options.budget is not None and price is None:
        return f"its price is not known, and there is a budget of ${options.budget:g}"
    if cap is not None and price is not None and price > cap:
        return f"it costs ${price:.4g}/h, and the cap is ${cap:g}/h"
    return ""


@frozen
class Tried:
    """What became of a rung: how many came of it, and why no more; `is_unclear`: more may have been bought."""

    rung: Rung
    wanted: int
    got: int
    why: str = ""
    is_unclear: bool = False

    def __str__(self) -> str:
        return f"{self.rung}: {self.got} of {self.wanted}{f' ({self.why})' if self.why else ''}"


def refusal(n: int, tried: Sequence[Tried], dropped: Sequence[str]) -> ProvisionError:
    """Say that there is no machine to be had, what was tried, and why each failed."""
    text = "".join(f"\n  {each}" for each in (*tried, *(f"not asked: {each}" for each in dropped)))
    return ProvisionError(
        f"ec2: none of {n} machines could be had; name more types or zones, or come back later:{text}", temporary=True
    )


__all__ = ["Offer", "Plan", "Rung", "Tried", "Where", "ladder", "refusal"]
