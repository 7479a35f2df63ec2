"""What an EC2 system is told: its options, checked as far as that needs no API. Pure but for reading public keys."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from typing import Any, TypeVar

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen

FLAVORS = ("debian", "ubuntu", "amazon", "flatcar")
#: Who an image lets log in.
USERS = {"debian": "admin", "ubuntu": "ubuntu", "amazon": "ec2-user", "flatcar": "core"}
#: How the kinds of public keys begin.
KEYS = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-", "sk-ssh-ed25519@", "sk-ecdsa-sha2-")
#: GiB. A root disk gets this much more than what was asked for, as in Go: the system itself needs room.
SYSTEM_GIB = 50
#: EC2 takes so many of ours, with this prefix reserved for its own.
_TAGS, _RESERVED = 40, "aws:"
#: GiB of a gp3 volume; the data space is striped over up to 25 of them.
_MOST_ROOT, _MOST_DATA = 16384, 25 * 16384
#: Seconds and hours of a life: a minute at least, and not for ever.
_LEAST_LIFE, _MOST_LIFE = 60.0, 24 * 365
_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_BUCKET = re.compile(r"(s3://)?[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/|$)")
_FILE = re.compile(r"/[^\0]*[^\0/]")
_MODE = re.compile("0?[0-7]{3,4}")
_UNIT = re.compile(r"[\w.:@\\-]+\.(service|timer|socket|mount|automount|path|target|slice|swap)")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
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
        self._check_files()
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
        limits = {"root": (self.root_gib, 1, _MOST_ROOT), "data": (self.data_gib, 0, _MOST_DATA)}
        for name, (value, least, most) in limits.items():
            if not _is_within(value, least, most):
                raise ProvisionError(f"ec2: {name}={value!r}: it has to be {least} to {most} (GiB)")
        if not _LEAST_LIFE <= self.life <= _MOST_LIFE * 3600:
            raise ProvisionError(
                f"ec2: life={self.life / 3600:g} is in hours: it has to be at least {_LEAST_LIFE / 3600:.3g} (a "
                f"minute) and at most {_MOST_LIFE} (a year)"
            )
        for name, price in (("maxprice", self.max_price), ("budget", self.budget)):
            if price is not None and not 0 < price < math.inf:
                raise ProvisionError(f"ec2: {name}={price!r}: an amount of dollars has to be above 0, and finite")
        if not _is_within(self.port, 1, 65535):
            raise ProvisionError(f"ec2: port={self.port!r} is no port")

    def _check_files(self) -> None:
        """Refuse what the host would stumble over, after it was bought."""
        for file in self.files:
            if not _FILE.fullmatch(file.path) or not _MODE.fullmatch(file.mode):
                raise ProvisionError(
                    f"ec2: the file {file.path!r} (mode {file.mode!r}) cannot be: its path has to begin with /, and "
                    "its mode is written like 0644"
                )
        for unit in self.units:
            if not _UNIT.fullmatch(unit.name):
                raise ProvisionError(f"ec2: {unit.name!r} is no name of a unit; they are written like my.service")
        for key in self.ssh_keys or ():
            if not is_key(key):
                raise ProvisionError(
                    f"ec2: sshkeys has {key[:40]!r}, which is no public key; they are written like ssh-ed25519 AAAA..."
                )
        if self.user and not _USER.fullmatch(self.user):
            raise ProvisionError(f"ec2: user={self.user!r} is no name of a user")

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


def _is_within(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def words(value: str | Sequence[str]) -> tuple[str, ...]:
    """Read a list of words, or a text of them with commas between."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def keys(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Read public keys, or a text of them with one on each line."""
    lines = value.splitlines() if isinstance(value, str) else value
    return None if lines is None else tuple(line.strip() for line in lines if line.strip())


def is_key(line: str) -> bool:
    """Whether a line is a public SSH key."""
    return len(line.split()) >= 2 and line.lstrip().startswith(KEYS)


def labels(value: Mapping[str, str] | None) -> dict[str, str]:
    """Read tags.

    Raises:
        ProvisionError: if they are no table.
    """
    if value is not None and not isinstance(value, Mapping):
        raise ProvisionError(f'ec2: tags={value!r} is no table, such as {{ team = "astro" }}')
    return dict(value or {})


def seconds(hours: object) -> float:
    """Read the hours of a life.

    Raises:
        ProvisionError: if they are no number.
    """
    if isinstance(hours, bool) or not isinstance(hours, int | float):
        raise ProvisionError(f"ec2: life={hours!r} is no number of hours")
    return hours * 3600.0


def dollars(value: str | float | None, name: str) -> float | None:
    """Read an amount of dollars.

    Raises:
        ProvisionError: if it is none.
    """
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ProvisionError(f"ec2: {name}={value!r} is no amount of dollars, such as 0.25") from error


__all__ = [
    "FLAVORS",
    "SYSTEM_GIB",
    "HostFile",
    "Options",
    "Unit",
    "dollars",
    "is_key",
    "keys",
    "labels",
    "seconds",
    "words",
    "written",
]
