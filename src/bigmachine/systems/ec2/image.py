"""Which image an instance boots from: the newest of a flavor, by the parameters that its makers publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen
from bigmachine.systems.ec2.failures import Kind, Refused

if TYPE_CHECKING:
    from bigmachine.systems.ec2.api import Api

#: Public parameters of the Systems Manager, each of one release; `{arch}` is as each of the makers writes it.
_PARAMETERS: Final = {
    "debian": ("/aws/service/debian/release/12/latest/{arch}", {"x86_64": "amd64", "arm64": "arm64"}),
    "ubuntu": (
        "/aws/service/canonical/ubuntu/server/24.04/stable/current/{arch}/hvm/ebs-gp3/ami-id",
        {"x86_64": "amd64", "arm64": "arm64"},
    ),
    "amazon": (
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}",
        {"x86_64": "x86_64", "arm64": "arm64"},
    ),
}
#: The C library and the Python of those releases.
_FACTS: Final = {
    "debian": ("glibc 2.36", "3.11"),
    "ubuntu": ("glibc 2.39", "3.12"),
    "amazon": ("glibc 2.34", "3.9"),
}
#: Owner and name, for images that no parameter tells.
_NAMES: Final = {"flatcar": ("075585003325", "Flatcar-stable-*-hvm*")}


@frozen
class Ami:
    """An image: its id, the name of its root device, the GiB that this has at least, its architecture.

    `libc` and `python` are what it has, such as "glibc 2.36" and "3.11"; empty if that is not known.
    """

    id: str
    root: str
    gib: int
    arch: str
    libc: str = ""
    python: str = ""


def find(api: Api, flavor: str, arch: str, given: str = "") -> Ami:
    """Find the image `given`, or the newest of a flavor.

    Raises:
        ProvisionError: if there is none, or it is for another architecture.
    """
    try:
        name = given or _newest(api, flavor, arch)
        images = api.call("describe_images", ImageIds=[name])["Images"]
    except Refused as refused:
        raise refused.told() from refused
    if not images:
        raise ProvisionError(f"ec2: there is no image {name} in {api.region}: images belong to a region")
    image = images[0]
    if image.get("Architecture") not in (None, "", arch):
        raise ProvisionError(
            f"ec2: the image {name} is for {image['Architecture']}, and the type of instance is {arch}: choose another "
            "one of the two"
        )
    root = image.get("RootDeviceName") or "/dev/xvda"
    sizes = [
        each.get("Ebs", {}).get("VolumeSize", 0)
        for each in image.get("BlockDeviceMappings", ())
        if each.get("DeviceName") == root
    ]
    libc, python = ("", "") if given else _FACTS.get(flavor, ("", ""))
    return Ami(name, root, max(sizes, default=0), arch, libc, python)


def _newest(api: Api, flavor: str, arch: str) -> str:
    if flavor in _NAMES:
        owner, name = _NAMES[flavor]
        filters = [{"Name": "name", "Values": [name]}, {"Name": "architecture", "Values": [arch]}]
        found = api.call("describe_images", Owners=[owner], Filters=filters)["Images"]
        if not found:
            raise ProvisionError(f"ec2: no image of {flavor} for {arch} is in {api.region}: name one by ec2ami")
        return str(max(found, key=lambda image: image["CreationDate"])["ImageId"])
    path, names = _PARAMETERS[flavor]
    if arch not in names:
        raise ProvisionError(f"ec2: there is no image of {flavor} for {arch}: name one by ec2ami")
    parameter = path.format(arch=names[arch])
    try:
        return str(api.call("get_parameter", service="ssm", Name=parameter)["Parameter"]["Value"])
    except Refused as refused:
        if refused.kind is not Kind.FINAL:
            raise
        raise ProvisionError(
            f"ec2: the newest image of {flavor} could not be found out in {api.region} ({parameter}: {refused.code}): "
            "name one by ec2ami"
        ) from refused


__all__ = ["Ami", "find"]
