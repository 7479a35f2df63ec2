"""All that has to be known, and can be checked, before anything is bought."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen
from bigmachine.image.platforms import usual_machine
from bigmachine.system import Foreseen
from bigmachine.systems.ec2 import catalogue, image
from bigmachine.systems.ec2.catalogue import Prices
from bigmachine.systems.ec2.failures import Refused
from bigmachine.systems.ec2.plan import Plan, Where, ladder

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api
    from bigmachine.systems.ec2.catalogue import InstanceType
    from bigmachine.systems.ec2.image import Ami
    from bigmachine.systems.ec2.options import Options


@frozen
class Survey:
    """What there is: types, image, prices, places; `vpc` is the network of the subnets ("": the default one)."""

    region: str
    kinds: tuple[InstanceType, ...]
    ami: Ami
    spot: Mapping[tuple[str, str], float]
    places: tuple[Where, ...]
    vpc: str = ""

    def plan(self, n: int, options: Options, ondemand: Mapping[str, float]) -> Plan:
        """Put the ladder together; `ondemand`: prices by type, as far as they are known.

        Raises:
            ProvisionError: if nothing may be asked for.
        """
        rungs, dropped = ladder(options, self.kinds, Prices(self.spot, ondemand), self.places)
        return Plan(n, self.region, self.ami.id, options.life, rungs, dropped)

    def foreseen(self) -> Foreseen:
        """Say what is known of the instances; all types are of one architecture, that of the image."""
        types = " or ".join(kind.name for kind in self.kinds)
        machine = usual_machine(self.ami.arch)
        return Foreseen(f"an instance of type {types}", machine, libc=self.ami.libc, python=self.ami.python)

    def vcpus(self, name: str) -> int:
        """Say how many vCPUs a type has."""
        return next((kind.vcpus for kind in self.kinds if kind.name == name), 1)


def survey(api: Api, options: Options) -> Survey:
    """Ask for all of it.

    Raises:
        ProvisionError: if something that the options name is not there; the text says what, and what to do.
    """
    try:
        kinds = catalogue.types(api, options.types)
        ami = image.find(api, options.flavor, kinds[0].arch, options.ami)
        places, vpc = _places(api, options)
        _check_named(api, options)
        spot = catalogue.spot_prices(api, options.types) if options.may_spot else {}
        sold = {name for name, _ in spot}
        if any(name not in sold for name in options.types):
            catalogue.check_offered(api, options.types)
    except Refused as refused:
        raise refused.told() from refused
    return Survey(api.region, tuple(kinds), ami, spot, places, vpc)


def _places(api: Api, options: Options) -> tuple[tuple[Where, ...], str]:
    if options.subnets:
        found = api.call("describe_subnets", SubnetIds=[*options.subnets])["Subnets"]
        by_id: Mapping[str, Mapping[str, Any]] = {each["SubnetId"]: each for each in found}
        networks = {each["VpcId"] for each in found}
        if len(networks) > 1:
            raise ProvisionError(
                f"ec2: the subnets are of several VPCs ({', '.join(sorted(networks))}): name those of one"
            )
        places = tuple(Where(name, by_id[name]["AvailabilityZone"]) for name in options.subnets if name in by_id)
        if options.zones:
            places = tuple(where for where in places if where.zone in options.zones)
        if not places:
            raise ProvisionError("ec2: none of the subnets is in one of the zones that are named")
        return places, next(iter(networks))
    if options.zones:
        zones = api.call("describe_availability_zones", ZoneNames=[*options.zones])["AvailabilityZones"]
        _all_there("availability zone", options.zones, (zone["ZoneName"] for zone in zones), api.region)
        return tuple(Where(zone=zone) for zone in options.zones), ""
    return (Where(),), ""


def _check_named(api: Api, options: Options) -> None:
    if options.groups:
        found = api.call("describe_security_groups", GroupIds=[*options.groups])["SecurityGroups"]
        _all_there("security group", options.groups, (each["GroupId"] for each in found), api.region)
    if options.key_name:
        api.call("describe_key_pairs", KeyNames=[options.key_name])
    profile = options.instance_profile
    if profile and not profile.startswith("arn:"):
        try:
            api.call("get_instance_profile", service="iam", timeout=10.0, InstanceProfileName=profile)
        except Refused as refused:
            if refused.code == "NoSuchEntity":
                raise ProvisionError(
                    f"ec2: there is no instance profile {profile!r} in this account: see `aws iam "
                    "list-instance-profiles`; it is not the name of a role"
                ) from refused
            if refused.code not in ("AccessDenied", "UnauthorizedOperation"):  # whoever may not look may still use it
                raise


def _all_there(what: str, wanted: Iterable[str], found: Iterable[str], region: str) -> None:
    missing = sorted(set(wanted) - set(found))
    if missing:
        command = f"aws ec2 describe-{what.replace(' ', '-')}s"
        raise ProvisionError(f"ec2: there is no {what} {', '.join(missing)} in {region}: see `{command}`")


__all__ = ["Survey", "survey"]
