"""What an instance does at its first start: one document, under 16 kB, that runs stage 0 as a unit of systemd. Pure.

However that unit ends, and even if it cannot start, the host is switched off, which terminates the instance: it is
requested with InstanceInitiatedShutdownBehavior=terminate. Two more things end it that need nothing of ours: a timer
that is set before anything else, and the default target, which makes of a second start a switching off.

cloud-init takes its time, and stage 0 waits for as little of it as it can: it is started by the first stage that has
a network, and runs as soon as that is over, while cloud-init is still busy with packages and the like.

Debian, Ubuntu and Amazon Linux take cloud-config (YAML, of which JSON is a part: there is nothing to quote wrongly).
Flatcar takes Ignition, and gets its Python as one of its own extensions.
"""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from typing import Any, Final

from bigmachine.errors import ProvisionError
from bigmachine.systems.ec2.disks import DATA, data_script, data_volumes
from bigmachine.systems.ec2.options import Options

#: Bytes of user data that EC2 takes.
LIMIT: Final = 16384
#: What is installed on the host.
PROGRAM: Final = "/opt/bigmachine/stage0.py"
UNIT: Final = "bigmachine.service"
#: Temporary files, where there is a data space.
SCRATCH: Final = f"{DATA}/tmp"  # noqa: S108 (made by us, on a disk of our own)
LIFE: Final = "bigmachine-life"
#: Takes units to start, and names and contents of units.
_EARLY: Final = """\
s=$1; shift
while [ $# -gt 0 ]; do printf %s "$2" >"/run/systemd/system/$1"; shift 2; done
systemctl daemon-reload
systemctl set-default poweroff.target
systemctl start --no-block $s
"""
_SETTINGS: Final = "/etc/sysctl.d/90-bigmachine.conf"
#: Files that a host may have open, and one of its processes, as in Go.
_FILES, _FILES_EACH = 134217728, 33554432
_SYSCTL: Final = f"fs.file-max={_FILES}\nfs.nr_open={_FILES_EACH}\nkernel.dmesg_restrict=0\n"
#: What would restart a host or take its time, by flavor.
_QUIET: Final = {
    "debian": ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"),
    "ubuntu": ("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service", "snapd.service"),
    "amazon": ("dnf-makecache.timer", "dnf-automatic.timer"),
    "flatcar": ("update-engine.service", "locksmithd.service"),
}


def cache_of(options: Options) -> str:
    """Return the folder where a host keeps programs: on the data space, if there is one."""
    return f"{DATA if data_volumes(options.data_gib) else '/var/cache'}/bigmachine"


def document(options: Options, program: str, ssh_keys: Sequence[str] = ()) -> str:
    """Write the user data. `program` is stage 0 with its orders; `ssh_keys` may log in.

    Raises:
        ProvisionError: if it is larger than what EC2 takes.
    """
    write = _ignition if options.flavor == "flatcar" else _cloud_config
    text = write(options, program, ssh_keys)
    size = len(text.encode())
    if size > LIMIT:
        raise ProvisionError(
            f"ec2: the user data would be {size} bytes, and EC2 takes {LIMIT}: leave out additional files or units, or "
            f"some of the {len(ssh_keys)} SSH keys ({len(program)} bytes are bigmachine's own)"
        )
    return text


def _files(options: Options, program: str) -> list[tuple[str, str, str]]:
    """List the files of a host: path, mode, content."""
    files = [
        (PROGRAM, "0700", program),
        (_SETTINGS, "0644", _SYSCTL),
        *((file.path, file.mode, file.content) for file in options.files),
    ]
    if volumes := data_volumes(options.data_gib):
        files.append(("/opt/bigmachine/data.sh", "0700", data_script(len(volumes))))
    return files


def _service(options: Options) -> str:
    environment = {"HOME": "/root", "XDG_CACHE_HOME": cache_of(options).rpartition("/")[0]}
    before: list[str] = []
    if data_volumes(options.data_gib):
        environment["TMPDIR"] = SCRATCH
        before = ["ExecStartPre=/opt/bigmachine/data.sh", f"ExecStartPre=/bin/mkdir -p -m 1777 {SCRATCH}"]
    lines = [
        "[Unit]",
        "Description=bigmachine",
        "Wants=network-online.target",
        # The second is what newer versions call the first.
        "After=network-online.target cloud-init.service cloud-init-network.service",
        "[Service]",
        *(f"Environment={name}={value}" for name, value in environment.items()),
        f"ExecStartPre=-/sbin/sysctl -q -p {_SETTINGS}",
        *before,
        f"ExecStart=/usr/bin/env python3 -IS {PROGRAM}",
        "ExecStopPost=/bin/systemctl poweroff --no-block",
        "Restart=no",
        "KillMode=mixed",
        "TimeoutStartSec=300",
        "TimeoutStopSec=10",
        "Delegate=yes",
        # The kernel takes programs first (the agent sees to it), then the agent, and the system's own services last.
        "OOMScoreAdjust=500",
        "OOMPolicy=continue",
        f"LimitNOFILE={_FILES_EACH}",
        "TasksMax=infinity",
    ]
    return "\n".join(lines) + "\n"


_LIFE_SERVICE: Final = """\
[Unit]
Description=the end of this host's maximum life
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/systemctl poweroff --force
"""
_LIFE_TIMER: Final = """\
[Unit]
Description=the maximum life of this host
DefaultDependencies=no
[Timer]
OnBootSec={:.0f}
AccuracySec=1
"""


def _own_units(options: Options) -> dict[str, str]:
    """Give our units by their names: the timer of the maximum life and what it starts, and stage 0's."""
    return {
        f"{LIFE}.service": _LIFE_SERVICE,
        f"{LIFE}.timer": _LIFE_TIMER.format(options.life),
        UNIT: _service(options),
    }


def _cloud_config(options: Options, program: str, ssh_keys: Sequence[str]) -> str:
    files = [
        *_files(options, program),
        *((f"/etc/systemd/system/{unit.name}", "0644", unit.content) for unit in options.units),
    ]
    own = [text for pair in _own_units(options).items() for text in pair]
    is_striped = len(data_volumes(options.data_gib)) > 1
    early = [f"{LIFE}.timer"] if is_striped else [f"{LIFE}.timer", UNIT]
    late = [*([UNIT] if is_striped else []), *(unit.name for unit in options.units if unit.start)]
    config: dict[str, Any] = {
        # First of all: whatever fails from here on, the host ends. It must not wait: the system is not up yet.
        "bootcmd": [["sh", "-c", _EARLY, "sh", " ".join(early), *own]],
        "package_update": False,
        "package_upgrade": False,
        "write_files": [{"path": path, "permissions": mode, "content": text} for path, mode, text in files],
        "runcmd": [
            *(["systemctl daemon-reload"] if options.units else []),
            *([f"systemctl start --no-block {' '.join(late)}"] if late else []),
            *(f"systemctl mask --now {name} || :" for name in _QUIET[options.flavor]),
        ],
    }
    if is_striped:
        config["packages"] = ["mdadm"]  # to stripe them; not every image has it
    if ssh_keys:
        config["ssh_authorized_keys"] = list(ssh_keys)
        if options.user:
            key_holder = {"name": options.user, "ssh_authorized_keys": list(ssh_keys)}
            config["users"] = ["default", {**key_holder, "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/bash"}]
            del config["ssh_authorized_keys"]
    return "#cloud-config\n" + json.dumps(config, indent=0, ensure_ascii=False) + "\n"


def _ignition(options: Options, program: str, ssh_keys: Sequence[str]) -> str:
    """Write it for Flatcar: units are there when systemd starts, so there is nothing to run."""

    def contents(text: str) -> dict[str, str]:
        return {"source": "data:," + urllib.parse.quote(text, safe="/:;=,@$&+!*'()~")}

    files = [
        *_files(options, program),
        # Flatcar's own extension with an interpreter; without it there is no Python on the host.
        ("/etc/flatcar/enabled-sysext.conf", "0644", "python\n"),
    ]
    units: list[dict[str, Any]] = []
    own = [(name, text, name != f"{LIFE}.service") for name, text in _own_units(options).items()]
    for name, text, is_started in (*((unit.name, unit.content, unit.start) for unit in options.units), *own):
        wanted = "\n[Install]\nWantedBy=" + ("timers.target" if name.endswith(".timer") else "multi-user.target") + "\n"
        content = text + wanted.lstrip("\n") if is_started and "[Install]" not in text else text
        units.append({"name": name, "contents": content, **({"enabled": True} if is_started else {})})
    units += [{"name": name, "mask": True} for name in _QUIET["flatcar"]]
    config: dict[str, Any] = {
        "ignition": {"version": "3.3.0"},
        "storage": {
            "files": [{"path": path, "mode": int(mode, 8), "contents": contents(text)} for path, mode, text in files]
        },
        "systemd": {"units": units},
    }
    if ssh_keys:
        config["passwd"] = {"users": [{"name": options.login, "sshAuthorizedKeys": list(ssh_keys)}]}
    return json.dumps(config, separators=(",", ":"), ensure_ascii=False) + "\n"


__all__ = ["LIFE", "LIMIT", "PROGRAM", "UNIT", "cache_of", "document"]
