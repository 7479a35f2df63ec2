"""A security group that lets this computer in, and nobody else: made if asked for, and removed with the session."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen
from bigmachine.systems.ec2.failures import Refused
from bigmachine.systems.ec2.tags import specifications

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api

_log = logging.getLogger("bigmachine")
#: Says where a question comes from, as the outside sees it.
_WHO_AM_I: Final = "https://checkip.amazonaws.com"


@frozen
class Group:
    """A security group of ours."""

    id: str
    network: str


def my_network(told: str) -> str:
    """Give the network that `open` names: itself, or this computer's address ("me").

    Raises:
        ProvisionError: if that cannot be found out.
    """
    if told != "me":
        return str(ipaddress.ip_network(told))
    try:
        with urllib.request.urlopen(_WHO_AM_I, timeout=5) as answer:
            return f"{ipaddress.ip_address(answer.read(64).decode().strip())}/32"
    except (OSError, ValueError) as error:
        raise ProvisionError(
            f"ec2: this computer's public address could not be found out ({_WHO_AM_I}: {error}): name it, as in "
            "--bigm.ec2open=203.0.113.7/32"
        ) from error


def open_group(api: Api, name: str, network: str, port: int, vpc: str, tags: Mapping[str, str]) -> Group:
    """Make a group that opens one port to one network, and to its own members.

    Raises:
        ProvisionError: if it cannot be.
    """
    where: dict[str, Any] = {"VpcId": vpc} if vpc else {}
    try:
        made = api.call(
            "create_security_group",
            GroupName=name,
            Description=f"bigmachine: port {port} for {network}",
            TagSpecifications=specifications(tags, "security-group"),
            **where,
        )
        group = Group(made["GroupId"], network)
        rule: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port}
        is_new = ":" in network
        ranges = {"Ipv6Ranges": [{"CidrIpv6": network}]} if is_new else {"IpRanges": [{"CidrIp": network}]}
        try:
            api.call(
                "authorize_security_group_ingress",
                GroupId=group.id,
                IpPermissions=[{**rule, **ranges, "UserIdGroupPairs": [{"GroupId": group.id}]}],
            )
        except BaseException:
            remove_group(api, group)
            raise
        return group
    except Refused as refused:
        raise refused.told() from refused


def remove_group(api: Api, group: Group) -> None:
    """Remove it; it costs nothing, and stays while an instance of it is still ending: then `reap` removes it."""
    with contextlib.suppress(ProvisionError):
        try:
            api.call("delete_security_group", is_last=True, timeout=5.0, GroupId=group.id)
        except Refused as refused:
            _log.info(
                "ec2: the security group %s stays for now (%s): `bigmachine reap` removes it", group.id, refused.code
            )


__all__ = ["Group", "my_network", "open_group", "remove_group"]
