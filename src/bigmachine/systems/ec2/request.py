"""Ask for instances, one rung of the ladder after the other, until there are enough or there is no rung left."""

from __future__ import annotations

import base64
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen
from bigmachine.systems.ec2.disks import block_devices
from bigmachine.systems.ec2.failures import Kind, Refused
from bigmachine.systems.ec2.plan import Offer, Rung, Tried
from bigmachine.systems.ec2.tags import specifications

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api
    from bigmachine.systems.ec2.image import Ami
    from bigmachine.systems.ec2.options import Options

_log = logging.getLogger("bigmachine")
#: Seconds for one request, with all its attempts.
_PATIENCE = 15.0


@frozen
class Bought:
    """An instance that is being started: `private` is its address, if it is known already."""

    id: str
    type: str
    market: str
    zone: str = ""
    private: str = ""
    price: float | None = None


@frozen
class Wanted:
    """What every instance of one request has: image, user data, tags, groups."""

    options: Options
    ami: Ami
    user_data: str
    groups: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """Say it as RunInstances and launch templates both take it."""
        options = self.options
        fields: dict[str, Any] = {
            "ImageId": self.ami.id,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "BlockDeviceMappings": block_devices(options, self.ami.root, self.ami.gib),
            # Nothing on a host but its own processes gets at its credentials, and none without a token.
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        }
        if self.groups:
            fields["SecurityGroupIds"] = [*self.groups]
        if options.key_name:
            fields["KeyName"] = options.key_name
        if options.instance_profile:
            is_arn = options.instance_profile.startswith("arn:")
            fields["IamInstanceProfile"] = {"Arn" if is_arn else "Name": options.instance_profile}
        return fields


#: Told of each instance as soon as it is known.
Take = Callable[[Bought], None]


def climb(
    api: Api, n: int, wanted: Wanted, rungs: Sequence[Rung], tags: Callable[[str], Mapping[str, str]], take: Take
) -> list[Tried]:
    """Ask for `n` instances, rung by rung; gives what was tried. `tags` gives those of a request by its token.

    Raises:
        ProvisionError: if the API refuses for a reason that holds on every rung. What was bought before stays bought.
    """
    tried: list[Tried] = []
    got = 0
    for rung in rungs:
        if got >= n:
            break
        ask = _fleet if rung.market == "spot" else _run
        is_unclear = False
        try:
            bought, why = ask(api, n - got, wanted, rung, tags)
        except Refused as refused:
            if refused.kind is Kind.FINAL:
                raise refused.told() from refused
            bought, why = [], f"{refused.code}: {refused.text.rstrip('.')}"
            is_unclear = refused.kind is Kind.TRANSIENT
        for each in bought:
            take(each)
        tried.append(Tried(rung, n - got, len(bought), why, is_unclear))
        got += len(bought)
        _log.info("ec2: %s", tried[-1])
    return tried


def _run(
    api: Api, n: int, wanted: Wanted, rung: Rung, tags: Callable[[str], Mapping[str, str]]
) -> tuple[list[Bought], str]:
    """Ask for on-demand instances of one type in one place: for all of them, or else for what there is.

    A refusal says why there are not enough; an answer with fewer than were asked for does not.
    """
    try:
        return _run_at_least(n, api, n, wanted, rung, tags), ""
    except Refused as refused:
        if n == 1 or refused.kind is not Kind.CAPACITY:
            raise
        return _run_at_least(1, api, n - 1, wanted, rung, tags), f"{refused.code}: {refused.text.rstrip('.')}"


def _run_at_least(
    least: int, api: Api, n: int, wanted: Wanted, rung: Rung, tags: Callable[[str], Mapping[str, str]]
) -> list[Bought]:
    offer = rung.offers[0]
    token = secrets.token_hex(16)
    place = _place(offer)
    if zone := place.pop("AvailabilityZone", ""):
        place["Placement"] = {"AvailabilityZone": zone}
    answer = api.call(
        "run_instances",
        timeout=_PATIENCE,
        **wanted.fields(),
        **place,
        InstanceType=offer.type,
        UserData=wanted.user_data,
        ClientToken=token,
        TagSpecifications=specifications(tags(token), "instance", "volume"),
        MinCount=least,
        MaxCount=n,
    )
    return [
        Bought(
            each["InstanceId"],
            each.get("InstanceType", offer.type),
            "on-demand",
            each.get("Placement", {}).get("AvailabilityZone", ""),
            each.get("PrivateIpAddress", ""),
            offer.price,
        )
        for each in answer["Instances"]
    ]


def _fleet(
    api: Api, n: int, wanted: Wanted, rung: Rung, tags: Callable[[str], Mapping[str, str]]
) -> tuple[list[Bought], str]:
    """Ask for spot instances of any of the offers. A fleet takes its parameters from a launch template."""
    token = secrets.token_hex(16)
    marks = tags(token)
    data = {
        **wanted.fields(),
        "UserData": base64.b64encode(wanted.user_data.encode()).decode(),
        "TagSpecifications": specifications(marks, "instance", "volume"),
    }
    cap = wanted.options.max_price
    overrides = [
        {"InstanceType": offer.type, **_place(offer), **({"MaxPrice": f"{cap:.4f}"} if cap is not None else {})}
        for offer in rung.offers
    ]
    name = f"bigmachine-{token}"
    try:
        api.call(
            "create_launch_template",
            timeout=_PATIENCE,
            LaunchTemplateName=name,
            LaunchTemplateData={**data, "InstanceType": rung.offers[0].type},
            TagSpecifications=specifications(marks, "launch-template"),
            ClientToken=token,
        )
        template = {"LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "$Latest"}}
        answer = api.call(
            "create_fleet",
            timeout=_PATIENCE,
            Type="instant",
            ClientToken=token,
            LaunchTemplateConfigs=[{**template, "Overrides": overrides}],
            SpotOptions={"AllocationStrategy": "price-capacity-optimized", "InstanceInterruptionBehavior": "terminate"},
            TargetCapacitySpecification={
                "TotalTargetCapacity": n,
                "SpotTargetCapacity": n,
                "OnDemandTargetCapacity": 0,
                "DefaultTargetCapacityType": "spot",
            },
        )
    finally:
        with contextlib.suppress(Refused, ProvisionError):  # `reap` finds it by its tags
            api.call("delete_launch_template", timeout=_PATIENCE, is_last=True, LaunchTemplateName=name)
    bought, errors = _spot_bought(answer, rung), answer.get("Errors", ())
    if not bought and errors and all(refused.kind is Kind.FINAL for refused in map(_refused, errors)):
        raise _refused(errors[0])  # it would be refused everywhere
    return bought, _why(errors)


def _spot_bought(answer: Mapping[str, Any], rung: Rung) -> list[Bought]:
    bought = []
    for group in answer.get("Instances", ()):
        kind = group.get("InstanceType", rung.offers[0].type)
        zone = group.get("LaunchTemplateAndOverrides", {}).get("Overrides", {}).get("AvailabilityZone", "")
        prices = [o.price for o in rung.offers if o.type == kind and (not zone or o.where.zone == zone)]
        price = next((price for price in prices if price is not None), None)
        bought += [Bought(name, kind, "spot", zone, "", price) for name in group.get("InstanceIds", ())]
    return bought


def _refused(error: Mapping[str, Any]) -> Refused:
    return Refused("CreateFleet", str(error.get("ErrorCode", "")), str(error.get("ErrorMessage", "")))


def _why(errors: Sequence[Mapping[str, Any]]) -> str:
    """Sum up what a fleet says of the offers that failed."""
    texts: dict[str, list[str]] = {}
    for error in errors:
        refused = _refused(error)
        where = error.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
        place = where.get("AvailabilityZone") or where.get("SubnetId") or ""
        texts.setdefault(f"{refused.code}: {refused.text.rstrip('.')}", []).append(
            f"{where.get('InstanceType', '?')}{f' in {place}' if place else ''}"
        )
    return "; ".join(f"{', '.join(places)}: {text}" for text, places in texts.items())


def _place(offer: Offer) -> dict[str, Any]:
    if offer.where.subnet:
        return {"SubnetId": offer.where.subnet}
    return {"AvailabilityZone": offer.where.zone} if offer.where.zone else {}


__all__ = ["Bought", "Take", "Wanted", "climb"]
