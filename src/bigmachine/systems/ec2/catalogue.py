"""What types of instances are and cost, as the API tells: nothing of it stands in a table here."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen
from bigmachine.systems.ec2.failures import Refused

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api

_log = logging.getLogger("bigmachine")
#: Seconds that a price may take: without one there is no cap and no budget, but there are machines.
_PATIENCE = 4.0


@frozen
class InstanceType:
    """A type of instance; `memory` in bytes, `arch` as images have it."""

    name: str
    vcpus: int
    memory: int
    arch: str
    markets: frozenset[str] = frozenset(("spot", "on-demand"))


@frozen
class Prices:
    """Dollars an hour: of spot instances by type and zone, of others by type. What is not in here is not known."""

    spot: Mapping[tuple[str, str], float] = field(default_factory=dict)
    ondemand: Mapping[str, float] = field(default_factory=dict)

    def of(self, market: str, name: str, zone: str = "") -> float | None:
        """Give a price; of spot instances in no zone in particular, the lowest."""
        if market != "spot":
            return self.ondemand.get(name)
        if zone:
            return self.spot.get((name, zone))
        return min((price for (each, _), price in self.spot.items() if each == name), default=None)

    def zones(self, name: str) -> list[str]:
        """List the zones where spot instances of a type are sold."""
        return sorted(zone for each, zone in self.spot if each == name)


def types(api: Api, names: Sequence[str]) -> list[InstanceType]:
    """Describe types, in the order of `names`.

    Raises:
        ProvisionError: if one is not there in this region, or they are of several architectures.
    """
    try:
        found = {
            each["InstanceType"]: _type(each)
            for each in api.call("describe_instance_types", InstanceTypes=[*names])["InstanceTypes"]
        }
    except Refused as refused:
        if refused.code.startswith("InvalidInstanceType"):
            raise ProvisionError(
                f"ec2: {refused.text.rstrip('.')} in {api.region}: see `aws ec2 describe-instance-types`, or choose "
                "another region"
            ) from refused
        raise refused.told() from refused
    _all_there(api, names, found)
    listed = [found[name] for name in names]
    if len({each.arch for each in listed}) > 1:
        kinds = ", ".join(f"{each.name} {each.arch}" for each in listed)
        raise ProvisionError(f"ec2: the types are of several architectures ({kinds}), and an image is for one")
    return listed


def check_offered(api: Api, names: Sequence[str]) -> None:
    """See that types are sold in this region.

    Raises:
        ProvisionError: if one is not.
    """
    filters = [{"Name": "instance-type", "Values": [*names]}]
    answer = api.call("describe_instance_type_offerings", LocationType="region", Filters=filters)
    _all_there(api, names, [each["InstanceType"] for each in answer["InstanceTypeOfferings"]])


def _all_there(api: Api, names: Sequence[str], found: Collection[str]) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise ProvisionError(
            f"ec2: {api.region} has no instances of type {', '.join(missing)}: see `aws ec2 "
            "describe-instance-type-offerings`, or choose another region"
        )


def _type(facts: Mapping[str, Any]) -> InstanceType:
    known = facts.get("ProcessorInfo", {}).get("SupportedArchitectures", [])
    arch = next((each for each in known if each in ("x86_64", "arm64")), "x86_64")
    return InstanceType(
        facts["InstanceType"],
        int(facts.get("VCpuInfo", {}).get("DefaultVCpus", 1)),
        int(facts.get("MemoryInfo", {}).get("SizeInMiB", 0)) << 20,
        arch,
        frozenset(facts.get("SupportedUsageClasses", ("spot", "on-demand"))),
    )


def spot_prices(api: Api, names: Sequence[str]) -> dict[tuple[str, str], float]:
    """Look the prices of spot instances up, by type and zone; what cannot be found out is left out, and said."""
    found: dict[tuple[str, str], float] = {}
    try:
        history = api.pages(
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=[*names],
            ProductDescriptions=["Linux/UNIX"],
            StartTime=datetime.now(UTC),
            timeout=_PATIENCE,
        )
        for entry in history:
            found.setdefault((entry["InstanceType"], entry["AvailabilityZone"]), float(entry["SpotPrice"]))
    except (Refused, ProvisionError) as error:
        _log.warning("ec2: the prices of spot instances are not known: %s", error)
    return found


def ondemand_prices(api: Api, names: Sequence[str]) -> dict[str, float]:
    """Look the prices of on-demand instances up, by type; what cannot be found out is left out."""
    found: dict[str, float] = {}
    for name in names:
        wanted = {"regionCode": api.region, "instanceType": name, "operatingSystem": "Linux", "tenancy": "Shared"}
        wanted |= {"preInstalledSw": "NA", "capacitystatus": "Used", "marketoption": "OnDemand"}
        filters = [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in wanted.items()]
        try:
            answer = api.call(
                "get_products", service="pricing", timeout=_PATIENCE, ServiceCode="AmazonEC2", Filters=filters
            )
            price = _price(answer.get("PriceList", ()))
        except (Refused, ProvisionError, ValueError) as error:
            _log.info("ec2: the on-demand prices are not known: %.200s", error)
            return found
        if price is not None:
            found[name] = price
    return found


def _price(offers: Sequence[str]) -> float | None:
    """Find the price of an hour in what the price list says; 0 is what reserved ones cost, and is none."""
    for text in offers:
        for term in json.loads(text).get("terms", {}).get("OnDemand", {}).values():
            for dimension in term.get("priceDimensions", {}).values():
                price = float(dimension.get("pricePerUnit", {}).get("USD", 0))
                if dimension.get("unit") == "Hrs" and price > 0:
                    return price
    return None


__all__ = ["InstanceType", "Prices", "check_offered", "ondemand_prices", "spot_prices", "types"]
