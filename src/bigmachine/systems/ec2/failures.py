"""What an API's refusals mean: whether to ask again, whether to try elsewhere, and what the user can do. Pure."""

from __future__ import annotations

import enum
from typing import Any

from bigmachine.errors import ProvisionError


class Kind(enum.Enum):
    """What to do about a refusal."""

    THROTTLED = "ask again, slower"
    TRANSIENT = "ask again"
    CAPACITY = "try elsewhere"
    FINAL = "tell the user"


_THROTTLED = frozenset(
    (
        *("RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled"),
        *("TooManyRequestsException", "RequestThrottledException", "EC2ThrottledException", "SlowDown"),
    )
)
_TRANSIENT = frozenset(
    (
        "InternalError",
        "InternalFailure",
        "Unavailable",
        "ServiceUnavailable",
        "RequestTimeout",
        "RequestTimeoutException",
    )
)
#: There may be room in another type, zone or market.
_CAPACITY = frozenset(
    (
        *("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity"),
        *("InsufficientFreeAddressesInSubnet", "InsufficientCapacity", "UnfulfillableCapacity", "SpotMaxPriceTooLow"),
        *("MaxSpotInstanceCountExceeded", "InstanceLimitExceeded", "VcpuLimitExceeded", "Unsupported"),
    )
)

_REMEDIES = {
    "InsufficientInstanceCapacity": "AWS has none of this type there at the moment: name more types or zones",
    "InvalidInstanceType": "see `aws ec2 describe-instance-types`; types are written like m5.large",
    "InvalidAMIID.NotFound": "images belong to a region: name one of this region by ec2ami, or none for the default",
    "InvalidAMIID.Malformed": "images are written like ami-0123456789abcdef0",
    "InvalidAMIID.Unavailable": "the image is not usable any more: name another one by ec2ami",
    "InvalidSubnetID.NotFound": "name a subnet of this region and account by ec2subnets",
    "InvalidSubnet.NotFound": "name a subnet of this region and account by ec2subnets",
    "InvalidGroup.NotFound": "name security groups of the subnet's VPC by ec2groups, by their ids (sg-...)",
    "InvalidGroupId.Malformed": "security groups are written like sg-0123456789abcdef0",
    "InvalidSecurityGroupID.NotFound": "name security groups of the subnet's VPC by ec2groups",
    "InvalidKeyPair.NotFound": "name a key pair of this region by ec2keyname, or none: the keys in ~/.ssh go along",
    "InvalidParameterValue": "see the parameter that is named",
    "InvalidIamInstanceProfileArn.Malformed": "name an instance profile, not a role, by ec2profile",
    "InvalidBlockDeviceMapping": "choose other sizes by ec2root and ec2data",
    "MaxSpotInstanceCountExceeded": "ask for fewer, or raise the account's limit of spot instances (Service Quotas)",
    "InstanceLimitExceeded": "ask for fewer, or raise the account's limit (Service Quotas)",
    "VcpuLimitExceeded": "ask for fewer, or raise the account's limit of vCPUs (Service Quotas)",
    "SpotMaxPriceTooLow": "raise ec2maxprice",
    "UnauthorizedOperation": "let the account's administrator allow this action; docs/ec2.md lists all that are needed",
    "AccessDenied": "let the account's administrator allow this action; docs/ec2.md lists all that are needed",
    "AuthFailure": "the credentials are not those of an account that is known here: check AWS_PROFILE or the keys, "
    "and this computer's clock",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": "the account's administrator has to make it, once: `aws iam "
    "create-service-linked-role --aws-service-name spot.amazonaws.com`; or ask for on-demand instances (ec2ondemand)",
    "InvalidClientTokenId": "the access key does not exist (any more): make a new one, or choose another AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key, or this computer's clock is wrong",
    "ExpiredToken": "the credentials have expired: log in again, as by `aws sso login`, and start anew",
    "ExpiredTokenException": "the credentials have expired: log in again, as by `aws sso login`, and start anew",
    "RequestExpired": "the credentials have expired or this computer's clock is wrong: log in again",
    "OptInRequired": "the account is not enabled for this region: enable it, or choose another one",
    "RequestLimitExceeded": "the account asks its API too much: wait a minute; does something else poll it?",
    "VPCIdNotSpecified": "the account has no default VPC here: name a subnet by ec2subnets",
    "MissingInput": "the account has no default subnet here: name one by ec2subnets",
}


class Refused(Exception):
    """An API's refusal: its code, its text, the status of the answer."""

    def __init__(self, action: str, code: str, text: str, status: int = 0) -> None:
        super().__init__(f"{action}: {code}: {text}")
        self.action = action
        self.code = code
        self.text = text
        self.status = status

    @classmethod
    def of(cls, action: str, response: dict[str, Any]) -> Refused:
        """Read it from what botocore has of an answer."""
        error = response.get("Error", {})
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return cls(action, str(error.get("Code", "")), str(error.get("Message", "")), int(status))

    @property
    def kind(self) -> Kind:
        """What to do about it. A lack of capacity comes with status 500, too: it is not to be asked again."""
        if self.code in _THROTTLED:
            return Kind.THROTTLED
        if self.code in _CAPACITY:
            return Kind.CAPACITY
        if self.code in _TRANSIENT or self.status >= 500:
            return Kind.TRANSIENT
        return Kind.FINAL

    @property
    def remedy(self) -> str:
        """What the user can do; "" if nothing is known."""
        if "iaminstanceprofile" in self.text.lower() or "instance profile" in self.text.lower():
            return "name an instance profile of this account by ec2profile; it is not the name of a role"
        return _REMEDIES.get(self.code) or _REMEDIES.get(self.code.partition(".")[0], "")

    def told(self) -> ProvisionError:
        """Say it as the library does."""
        remedy = f"; {self.remedy}" if self.remedy else ""
        text = f"ec2: {self.action} was refused: {self.code}: {self.text.rstrip('.')}{remedy}"
        return ProvisionError(text, temporary=self.kind is not Kind.FINAL)


__all__ = ["Kind", "Refused"]
