"""The document that an instance gets, byte for byte, for each flavor of system; and that it fits."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from bigmachine.agent.bare.delivery import Stage0Orders, user_data
from bigmachine.errors import ProvisionError
from bigmachine.systems.ec2.options import FLAVORS, HostFile, Options, Unit
from bigmachine.systems.ec2.userdata import LIMIT, document
from bigmachine.trust import Authority, Role

DOCUMENTS = Path(__file__).parent / "documents"
PROGRAM = "#!/usr/bin/env python3\nprint('stage 0 & \"its\" orders')\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKsomebody me@here"
#: The least that can be said, and all of it.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full": {
        "data_gib": 100,
        "user": "somebody",
        "life": 7200.0,
        "files": (HostFile("/etc/motd", "it's a host & 100 % ours\n", "0640"),),
        "units": (
            Unit("extra.service", "[Service]\nExecStart=/bin/true\n"),
            Unit("idle.service", "[Service]\n", False),
        ),
    },
}


def written(flavor: str, kind: str) -> str:
    return document(Options(("m5.large",), flavor=flavor, **KINDS[kind]), PROGRAM, [KEY] if kind == "full" else [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_document_is_the_one_that_was_looked_at(flavor: str, kind: str) -> None:
    assert written(flavor, kind) == (DOCUMENTS / f"{flavor}-{kind}.txt").read_text("utf-8")


@pytest.mark.parametrize("flavor", ["debian", "ubuntu", "amazon"])
def test_the_end_of_the_host_is_settled_before_anything_else(flavor: str) -> None:
    text = written(flavor, "full")
    config = json.loads(text.removeprefix("#cloud-config\n"))
    assert next(iter(config)) == "bootcmd"
    early = " ".join(config["bootcmd"][0])
    assert "OnBootSec=7200\n" in early
    assert "ExecStart=/bin/systemctl poweroff --force\n" in early
    assert "\nsystemctl set-default poweroff.target\n" in early
    assert "\nExecStopPost=/bin/systemctl poweroff --no-block\n" in early


def test_stage_0_does_not_wait_for_what_cloud_init_does_late_unless_it_needs_it() -> None:
    for kind, first in (("plain", "bigmachine-life.timer bigmachine.service"), ("full", "bigmachine-life.timer")):
        config = json.loads(written("debian", kind).removeprefix("#cloud-config\n"))
        assert config["bootcmd"][0][4] == first
        # What stripes disks may have to be installed before.
        assert (
            config.get("packages"),
            "systemctl start --no-block bigmachine.service extra.service" in config["runcmd"],
        ) == ((["mdadm"], True) if kind == "full" else (None, False))


@pytest.mark.parametrize("flavor", FLAVORS)
def test_nobody_but_root_reads_the_program_with_its_key(flavor: str) -> None:
    config = json.loads(written(flavor, "plain").removeprefix("#cloud-config\n"))
    listed = config["write_files"] if "write_files" in config else config["storage"]["files"]
    (program,) = [each for each in listed if each["path"] == "/opt/bigmachine/stage0.py"]
    assert program.get("permissions", program.get("mode")) in ("0700", 0o700)


@pytest.mark.parametrize("kind", KINDS)
def test_what_ignition_reads_as_a_url_is_one(kind: str) -> None:
    """By RFC 2397 and 2396 all but these characters are escaped; Ignition refuses a document with a space there."""
    config = json.loads(written("flatcar", kind))
    sources = {each["path"]: each["contents"]["source"] for each in config["storage"]["files"]}
    for source in sources.values():
        assert re.fullmatch(r"data:,(?:[A-Za-z0-9;/?:@&=+$,_.!~*'()-]|%[0-9A-Fa-f]{2})*", source)
    assert urllib.parse.unquote(sources["/opt/bigmachine/stage0.py"].removeprefix("data:,")) == PROGRAM


@pytest.mark.parametrize("flavor", FLAVORS)
def test_it_fits_with_the_real_stage_0_and_some_keys(flavor: str) -> None:
    orders = Stage0Orders(Authority("abcd1234").issue(Role.BOOTSTRAP, "b1234567"), listen=("0.0.0.0", 443))
    rsa = "ssh-rsa " + "A" * 540 + " me@here"
    text = document(Options(("m5.large",), flavor=flavor, data_gib=400), user_data(orders), [rsa, KEY])
    assert len(text.encode()) < LIMIT


def test_one_that_is_too_large_says_what_could_be_left_out() -> None:
    options = Options(("m5.large",), files=(HostFile("/etc/big", "x" * 20000),))
    with pytest.raises(ProvisionError, match=r"would be 2\d+ bytes, and EC2 takes 16384: leave out additional files"):
        document(options, PROGRAM)
