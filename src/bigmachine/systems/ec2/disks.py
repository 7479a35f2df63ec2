"""The disks of an instance, and the script that makes one data space of several. Pure."""

from __future__ import annotations

from typing import Any, Final

from bigmachine.systems.ec2.options import SYSTEM_GIB, Options

#: GiB: below this a gp3 volume is not worth its while; EC2 attaches no more than so many.
LEAST, MOST = 16, 25
DATA: Final = "/mnt/data"


def data_volumes(space: int) -> tuple[int, ...]:
    """Divide a data space of so many GiB into volumes, as Go does: 16 GiB each, or 25 larger ones."""
    if space <= 0:
        return ()
    count = -(-space // LEAST)
    if count <= MOST:
        return (LEAST,) * count
    return (-(-space // MOST),) * MOST


def device(index: int) -> str:
    """Name the data volume of this index as EC2 does."""
    return f"/dev/sd{chr(ord('b') + index)}"


def block_devices(options: Options, root: str, image_gib: int = 0) -> list[dict[str, Any]]:
    """Say it for RunInstances. `root`: the image's root device; `image_gib`: the size that it cannot go below."""

    def gp3(name: str, size: int) -> dict[str, Any]:
        volume = {"VolumeSize": size, "VolumeType": "gp3", "DeleteOnTermination": True}
        return {"DeviceName": name, "Ebs": volume}

    volumes = data_volumes(options.data_gib)
    mapped = [gp3(device(index), size) for index, size in enumerate(volumes)]
    return [gp3(root, max(options.root_gib + SYSTEM_GIB, image_gib)), *mapped]


def data_script(count: int) -> str:
    """Write the script that mounts so many data volumes as one at /mnt/data; it may be run again.

    On most types the volumes appear as NVMe, in any order: they are found by the serial number that EBS gives them,
    and by the device's name where there is no NVMe.
    """
    return f"""#!/bin/sh
# The data space of a bigmachine host: {count} volumes, mounted as one.
set -eu
d={DATA}
mountpoint -q $d && exit 0
n=0
while :; do
  v=
  for f in /sys/block/nvme*/device/serial; do
    [ -e "$f" ] || continue
    b=$(basename "$(dirname "$(dirname "$f")")")
    case $(cat "$f") in vol*) grep -qs "^/dev/$b" /proc/mounts || v="$v /dev/$b";; esac
  done
  [ -n "$v" ] || v=$(ls /dev/xvd[b-z] /dev/sd[b-z] 2>/dev/null || :)
  set -- $v
  [ $# -ge {count} ] && break
  n=$((n + 1)); [ $n -lt 60 ] || {{ echo "only $# of {count} data volumes appeared: $v" >&2; exit 1; }}
  sleep 1
done
if [ $# -gt 1 ]; then
  mdadm --create /dev/md0 --run --level=0 --chunk=256 --raid-devices=$# "$@"
  set -- /dev/md0
fi
mkfs.ext4 -q -E nodiscard "$1"
mkdir -p $d
mount -o data=writeback,noatime "$1" $d
"""


__all__ = ["DATA", "block_devices", "data_script", "data_volumes", "device"]
