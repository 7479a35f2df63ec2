"""What an EC2 system is told: its options, checked as far as that needs no API. Pure but for reading public keys."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from typing import Any, TypeVar

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen

FLAVORS = ("debian", "ubuntu", "amazon", "flatcar")
#: Who an image lets log in.
USERS = {"debian": "admin", "ubuntu": "ubuntu", "amazon": "ec2-user", "flatcar": "core"}
#: GiB. A root disk gets this much more than what was asked for, as in Go: the system itself needs room.
SYSTEM_GIB = 50
#: EC2 takes so many of ours, with this prefix reserved for its own.
_TAGS, _RESERVED = 40, "aws:"
_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_BUCKET = re.compile(r"(s3://)?[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/|$)")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")


@frozen
class HostFile:
    """A file that every host gets at its first start; `mode` as in chmod(1)."""

    path: str
    content: str
    mode: str = "0644"


@frozen
class Unit:
    """A unit of systemd that every host gets, and starts if `start`."""

    name: str
    content: str
    start: bool = True


T = TypeVar("T", HostFile, Unit)


def written(kind: type[T], given: Sequence[T | Mapping[str, Any]], name: str) -> tuple[T, ...]:
    """Read a list of `kind`, of which some are tables as in a configuration file; `name` is the option's.

    Raises:
        ProvisionError: if one cannot be read.
    """
    return tuple(each if isinstance(each, kind) else _written(kind, each, name) for each in given)


def _written(kind: type[T], table: object, name: str) -> T:
    types = {each.name: bool if each.type == "bool" else str for each in fields(kind)}
    if not isinstance(table, Mapping) or any(not isinstance(table[key], types.get(key, ())) for key in table):
        allowed = ", ".join(f"{key} ({each.__name__})" for key, each in types.items())
        raise ProvisionError(f"ec2: {name} has {table!r}: each has to be a table with {allowed}")
    try:
        return kind(**table)
    except TypeError as error:
        raise ProvisionError(f"ec2: {name} has {table!r}: {error}") from error


@frozen
class Options:
    """The options of an `EC2System`; see there.

    Raises:
        ProvisionError: if one cannot be, or two contradict each other.
    """

    types: tuple[str, ...]
    ondemand: bool = False
    spotonly: bool = False
    ami: str = ""
    flavor: str = "debian"
    region: str = ""
    instance_profile: str = ""
    groups: tuple[str, ...] = ()
    open_to: str = ""
    subnets: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    root_gib: int = 200
    data_gib: int = 0
    ssh_keys: tuple[str, ...] | None = None
    key_name: str = ""
    user: str = ""
    files: tuple[HostFile, ...] = ()
    units: tuple[Unit, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    life: float = 86400.0
    max_price: float | None = None
    budget: float | None = None
    bucket: str = ""
    port: int = 443

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        for key, value in self.tags.items():
            if not _are_texts(key, value):
                raise ProvisionError(f"ec2: the tag {key!r}: {value!r} is not allowed: both have to be strings")
            if not 0 < len(key) <= 128 or len(value) > 256 or key.lower().startswith(_RESERVED):
                raise ProvisionError(
                    f"ec2: the tag {key!r}: {value!r} is not allowed: a key has 1 to 128 characters and does not begin "
                    "with 'aws:', a value has at most 256"
                )
        if len(self.tags) > _TAGS:
            raise ProvisionError(f"ec2: {len(self.tags)} tags are too many: it takes {_TAGS} beside our own")

    def _check_choices(self) -> None:
        if not self.types:
            raise ProvisionError("ec2: no type of instance was named; such as --bigm.ec2type=m5.large")
        for name in self.types:
            if not _TYPE.fullmatch(name):
                raise ProvisionError(f"ec2: {name!r} is no type of instance; they are written like m5.large")
        if self.flavor not in FLAVORS:
            raise ProvisionError(f"ec2: flavor={self.flavor!r} is none of {', '.join(FLAVORS)}")
        if self.region and not _REGION.fullmatch(self.region):
            raise ProvisionError(f"ec2: {self.region!r} is no region; they are written like eu-central-1")
        if self.ami and not self.ami.startswith("ami-"):
            raise ProvisionError(f"ec2: ami={self.ami!r} is no image; they are written like ami-0123456789abcdef0")
        if self.bucket and not _BUCKET.match(self.bucket):
            raise ProvisionError(
                f"ec2: bucket={self.bucket!r} is no bucket; they are written like my-bucket or my-bucket/prefix"
            )
        if self.open_to not in ("", "me"):
            try:
                ipaddress.ip_network(self.open_to)
            except ValueError as error:
                raise ProvisionError(
                    f"ec2: open={self.open_to!r} is neither 'me' nor a network such as 203.0.113.7/32: {error}"
                ) from error

    def _check_numbers(self) -> None:
        limits = {"root": (self.root_gib, 1), "data": (self.data_gib, 0), "life": (self.life, 60)}
        for name, (value, least) in limits.items():
            if value < least:
                raise ProvisionError(f"ec2: {name}={value:g} is too little: it has to be at least {least}")
        for name, price in (("maxprice", self.max_price), ("budget", self.budget)):
            if price is not None and not price > 0:
                raise ProvisionError(f"ec2: {name}={price!r}: an amount of dollars has to be above 0")
        if not _is_port(self.port):
            raise ProvisionError(f"ec2: port={self.port!r} is no port")

    @property
    def login(self) -> str:
        """Who may log in with the SSH keys."""
        return self.user or USERS[self.flavor]

    @property
    def may_spot(self) -> bool:
        """Whether spot instances are asked for; `spotonly` wins over `ondemand`, as in Go."""
        return self.spotonly or not self.ondemand

    @property
    def has_limit(self) -> bool:
        """Whether prices have to be known before anything is bought."""
        return self.max_price is not None or self.budget is not None

    @property
    def may_demand(self) -> bool:
        """Whether on-demand instances are asked for, first or after spot ones."""
        return not self.spotonly


def _are_texts(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_port(value: object) -> bool:
    return isinstance(value, int) and 0 < value < 65536


def words(value: str | Sequence[str]) -> tuple[str, ...]:
    """Read a list of words, or a text of them with commas between."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def dollars(value: str | float | None, name: str) -> float | None:
    """Read an amount of dollars.

    Raises:
        ProvisionError: if it is none.
    """
    if value is None or value == "":
        return None
    try:
        return float(value)
    except ValueError as error:
        raise ProvisionError(f"ec2: {name}={value!r} is no amount of dollars, such as 0.25") from error


__all__ = ["FLAVORS", "SYSTEM_GIB", "HostFile", "Options", "Unit", "dollars", "words", "written"]
