"""Which system a program runs on, and with which options: one name for a thing, wherever it is said.

An option `ec2type` is the flag `--bigm.ec2type`, the environment variable `BIGMACHINE_EC2TYPE` and the key `ec2type`
in `[tool.bigmachine]` of a `pyproject.toml` or at the top of a `bigmachine.toml`. Who speaks first is heard:

    argument > flag > environment > file > default

The upper half of this file is pure: a table of options, and `resolve`, which maps what the sources said to
`Settings`. The lower half reads the environment and the file. The file is the nearest one, from the working directory
upwards, that has something to say about bigmachine.

In a file a system's options may also stand in a table of its own, by the names that its factory has for them:
`type` in `[tool.bigmachine.ec2]` is `ec2type`. What is no flag, being a list of tables or the like, and all options of
a system that is not of this library, stand there only; they reach the factory as they are in the file, and it is the
factory that checks them.
"""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from bigmachine.errors import BigmachineError
from bigmachine.frozen import frozen

PREFIX = "BIGMACHINE_"


class ConfigError(BigmachineError, ValueError):
    """A setting is wrong (fault: who wrote it); the text names the place, the key and what is allowed there."""


class Kind(enum.Enum):
    """What an option holds; the value says it in an error."""

    TEXT = "a string"
    PATH = "the path of a file, as a string"
    SWITCH = "true or false"
    LIST = "a list of strings"
    NUMBER = "an integer above 0"
    OUTPUT = "stream, off or files:FOLDER, each perhaps with ,drop behind it"


@frozen
class Option:
    """One thing that can be set: `key` for people, `name` for the factory of `system`."""

    key: str
    system: str
    name: str
    kind: Kind
    help: str
    default: object = None

    @property
    def flag(self) -> str:
        """The flag on a command line."""
        return f"--bigm.{self.key}"

    @property
    def dest(self) -> str:
        """The attribute of an `argparse.Namespace`."""
        return "bigm_" + self.key.replace("-", "_")

    @property
    def variable(self) -> str:
        """The variable of the environment."""
        return PREFIX + self.key.replace("-", "_").upper()


#: The choice of the system itself; its `system` is empty because it is an option of none.
SYSTEM = Option("system", "", "system", Kind.TEXT, "where machines come from", "local")

#: A system's owner adds its options here: a line makes the flag, the variable and the key.
OPTIONS: tuple[Option, ...] = (
    SYSTEM,
    Option("limit", "", "limit", Kind.NUMBER, "the most bytes of one call's arguments or result", 16 * 2**30),
    Option("threads", "", "threads", Kind.NUMBER, "the most threads for plain methods on a machine", 256),
    Option("output", "", "output", Kind.OUTPUT, "what machines print: stream, off or files:FOLDER", "stream"),
    Option("events", "", "events", Kind.PATH, "a file to which what happens to machines is appended, as JSON lines"),
    Option("dumps", "", "dumps", Kind.PATH, "a folder for what machines hold that run short of memory"),
    Option("dump-on", "", "dump_on", Kind.PATH, "a folder for dumps: at SIGUSR1, and when an error ends the program"),
    Option("control", "", "control", Kind.SWITCH, "whether `bigmachine` on the command line finds the session", True),
    Option("ec2type", "ec2", "type", Kind.TEXT, "EC2: the type of instance, or several with commas", "m3.medium"),
    Option("ec2ondemand", "ec2", "ondemand", Kind.SWITCH, "EC2: on-demand instances instead of spot ones", False),
    Option("ec2spotonly", "ec2", "spotonly", Kind.SWITCH, "EC2: spot instances or none"),
    Option("ec2ami", "ec2", "ami", Kind.TEXT, "EC2: the image (the newest of its flavor)"),
    Option("ec2flavor", "ec2", "flavor", Kind.TEXT, "EC2: debian, ubuntu, amazon or flatcar (debian)"),
    Option("ec2region", "ec2", "region", Kind.TEXT, "EC2: the region (as AWS's own tools have it)"),
    Option("ec2zones", "ec2", "zones", Kind.LIST, "EC2: the zones (wherever there is room)"),
    Option("ec2subnets", "ec2", "subnets", Kind.LIST, "EC2: the subnets (the default ones)"),
    Option("ec2groups", "ec2", "groups", Kind.LIST, "EC2: the security groups (the default one)"),
    Option("ec2open", "ec2", "open", Kind.TEXT, "EC2: make a security group that lets in `me`, or a network"),
    Option("ec2profile", "ec2", "profile", Kind.TEXT, "EC2: the instance profile (none)"),
    Option("ec2root", "ec2", "root", Kind.NUMBER, "EC2: GiB of the root disk, beside 50 for the system (200)"),
    Option("ec2data", "ec2", "data", Kind.NUMBER, "EC2: GiB of a data space at /mnt/data (none)"),
    Option("ec2keyname", "ec2", "keyname", Kind.TEXT, "EC2: a key pair for SSH, beside your own keys (none)"),
    Option("ec2user", "ec2", "user", Kind.TEXT, "EC2: who may log in by SSH (who the image has)"),
    Option("ec2life", "ec2", "life", Kind.NUMBER, "EC2: hours after which an instance ends in any case (24)"),
    Option("ec2maxprice", "ec2", "maxprice", Kind.TEXT, "EC2: dollars an hour that an instance may cost (any)"),
    Option("ec2budget", "ec2", "budget", Kind.TEXT, "EC2: dollars that all may cost together before they end (any)"),
    Option("ec2bucket", "ec2", "bucket", Kind.TEXT, "EC2: a bucket of S3 from which hosts fetch programs (none)"),
    Option("hosts", "ssh", "hosts", Kind.LIST, "ssh: the hosts, separated by commas"),
    Option("ssh-config", "ssh", "config", Kind.PATH, "ssh: the client's configuration file"),
    Option("ssh-machines", "ssh", "machines", Kind.NUMBER, "ssh: the machines on a host that does not say so itself"),
)

#: Options that can stand in a system's table only; the factory checks them.
_TABLED: Mapping[str, frozenset[str]] = {"ec2": frozenset(("files", "port", "sshkeys", "tags", "units"))}
#: Those that hold for any system.
_GENERAL = tuple(option for option in OPTIONS if not option.system and option is not SYSTEM)
_BY_KEY = {option.key: option for option in OPTIONS}
#: By the names of a system and of an option in its table.
_BY_NAME = {(option.system, option.name): option for option in OPTIONS if option.system}
_CATALOGUED = frozenset(option.system for option in OPTIONS if option.system)
_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def from_text(kind: Kind, text: str) -> object:
    """Read an option's value from a flag or a variable.

    Raises:
        ValueError: the text is no such value; its own text says what would be.
    """
    if kind is Kind.LIST:
        return [part for part in map(str.strip, text.split(",")) if part]
    if kind is Kind.SWITCH:
        if text.strip().lower() not in _WORDS:
            raise ValueError(f"{text!r} is neither true nor false (1, yes, on and 0, no, off do as well)")
        return _WORDS[text.strip().lower()]
    if kind is Kind.NUMBER:
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"{text!r} is no integer") from None
    return text


@frozen
class Source:
    """What one place said. `folder` is what a relative path in it is relative to: "" is the working directory."""

    place: str
    values: Mapping[str, object]
    folder: str = ""


@frozen
class Settings:
    """What all the places together say: the system, the options for its factory, and who chose the system.

    `limit` (bytes of one call's arguments or result), `threads` (for plain methods, a machine), `output` (see
    `output_choice`), `events` (a file, if any), `dumps` and `dump_on` (folders, if any) and `control` (whether the
    command line finds the session) hold for any system.
    """

    system: str
    options: Mapping[str, object] = field(default_factory=dict)
    chosen_by: str = "the default"
    limit: int = 16 * 2**30
    threads: int = 256
    output: str = "stream"
    events: str = ""
    dumps: str = ""
    dump_on: str = ""
    control: bool = True


def output_choice(text: str) -> tuple[str, str, bool]:
    """Read where machines' output goes: "stream", "off" or "files", the folder of files, and whether to drop lines.

    Raises:
        ValueError: the text says nothing of these.
    """
    where, found, _ = text.rpartition(",drop")
    if not found or not text.endswith(",drop"):
        where = text
    kind, _, folder = where.partition(":")
    if (where in ("stream", "off")) or (kind == "files" and folder):
        return kind, folder, where != text
    raise ValueError(f"{text!r} is not allowed: it must be {Kind.OUTPUT.value}")


def resolve(sources: Sequence[Source], systems: Sequence[str] = ()) -> Settings:
    """Settle what the sources say, the first to speak of a thing winning; all of them are checked.

    `systems` are names of systems from elsewhere, whose tables are let pass although another system is chosen.

    Raises:
        ConfigError: a source has a key that does not exist, or a value that is not of the key's kind.
    """
    said: dict[str, object] = {}
    places: dict[str, str] = {}
    tables: dict[str, dict[str, object]] = {}
    for source in sources:
        for key, value in source.values.items():
            if key in _BY_KEY:
                checked = _check(source, _BY_KEY[key], key, value)
                places.setdefault(key, source.place)
                said.setdefault(key, checked)
            elif isinstance(value, Mapping) and key in _CATALOGUED:
                _take_table(source, key, value, said, tables)
            elif isinstance(value, Mapping):
                places.setdefault(key, source.place)
                tables.setdefault(key, dict(value))
            else:
                raise _unknown(source, key)
    system = str(said.get(SYSTEM.key, SYSTEM.default))
    for name, place in places.items():
        if name not in _BY_KEY and name != system and name not in systems:
            raise _unknown(Source(place, {}), name)
    options = {option.name: said.get(option.key, option.default) for option in OPTIONS if option.system == system}
    options |= tables.get(system, {})
    set_options = {name: value for name, value in options.items() if value is not None}
    general: dict[str, Any] = {option.name: said[option.key] for option in _GENERAL if option.key in said}
    return Settings(system, set_options, places.get(SYSTEM.key, "the default"), **general)


def _take_table(
    source: Source,
    system: str,
    table: Mapping[str, object],
    said: dict[str, object],
    tables: dict[str, dict[str, object]],
) -> None:
    """Note what the table of a system of ours says."""
    for name, value in table.items():
        label = f"{system}.{name}"
        option = _BY_NAME.get((system, name))
        if option is not None:
            if option.key in source.values:
                raise ConfigError(f"{source.place}: {option.key} and {label} are the same: leave one of them out")
            said.setdefault(option.key, _check(source, option, label, value))
        elif name in _TABLED.get(system, ()):
            tables.setdefault(system, {}).setdefault(name, value)
        else:
            known = [each for of, each in _BY_NAME if of == system]
            raise _unknown(source, label, [f"{system}.{each}" for each in (*known, *sorted(_TABLED.get(system, ())))])


def _check(source: Source, option: Option, label: str, value: object) -> object:
    if option.kind is Kind.LIST and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if all(isinstance(part, str) and part for part in value):
            return list(value)
    elif option.kind is Kind.SWITCH and isinstance(value, bool):
        return value
    elif option.kind is Kind.NUMBER and type(value) is int:
        if value > 0:
            return value
    elif option.kind is Kind.OUTPUT and isinstance(value, str):
        with contextlib.suppress(ValueError):
            kind, folder, is_dropping = output_choice(value)
            where = f"{kind}:{_located(source.folder, folder)}" if folder else kind
            return f"{where},drop" if is_dropping else where
    elif option.kind in {Kind.TEXT, Kind.PATH} and isinstance(value, str) and value:
        return _located(source.folder, value) if option.kind is Kind.PATH else value
    raise ConfigError(f"{source.place}: {label} = {value!r} is not allowed: it must be {option.kind.value}")


def _located(folder: str, path: str) -> str:
    return path if not folder or path.startswith(("/", "~")) else f"{folder}/{path}"


def _unknown(source: Source, key: str, keys: Sequence[str] = ()) -> ConfigError:
    import difflib

    allowed = f"allowed are {', '.join(keys or _BY_KEY)}"
    if not keys:
        allowed += ", and a table named after a system"
    near = difflib.get_close_matches(key, keys or list(_BY_KEY), n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    return ConfigError(f"{source.place}: there is no setting {key!r}{guess}: {allowed}")


# ---- the reading half


def load(system: str | None = None, flags: Mapping[str, object] | None = None) -> Settings:
    """Settle what the arguments, the environment and the nearest file say.

    `system` is one named by the program itself; `flags` maps keys to values, None standing for a flag not given.

    Raises:
        ConfigError: see `resolve`; also when the file cannot be read, is no TOML, or cannot be trusted.
    """
    sources = [
        Source("the argument of start", {} if system is None else {SYSTEM.key: system}),
        *_from_flags(flags or {}),
        *_from_environment(os.environ),
        *_from_file(),
    ]
    return resolve(sources, _plug_ins(sources))


def _from_flags(flags: Mapping[str, object]) -> Iterator[Source]:
    for option in OPTIONS:
        if (value := flags.get(option.key)) is not None:
            yield Source(f"flag {option.flag}", {option.key: value})


def _from_environment(environ: Mapping[str, str]) -> Iterator[Source]:
    """Other variables with the prefix are left alone: the library has some for itself."""
    for option in OPTIONS:
        if text := environ.get(option.variable):
            place = f"environment variable {option.variable}"
            try:
                value = from_text(option.kind, text)
            except ValueError as error:
                raise ConfigError(f"{place}: {error}") from None
            yield Source(place, {option.key: value})
    _warn_of_misspelt(environ)


def _warn_of_misspelt(environ: Mapping[str, str]) -> None:
    known = [option.variable for option in OPTIONS]
    others = [name for name in environ if name.startswith("BIGMACHINE_") and name not in known]
    if others:
        import difflib
        import logging

        log = logging.getLogger("bigmachine")
        for name in others:
            # Those that the library has for itself resemble no option's.
            for near in difflib.get_close_matches(name, known, n=1, cutoff=0.85):
                log.warning("the environment variable %s means nothing: is %s meant?", name, near)


def _plug_ins(sources: Sequence[Source]) -> Sequence[str]:
    """Ask for the systems that are installed only if a table needs it: the answer takes some milliseconds."""
    if not any(isinstance(value, Mapping) for source in sources for value in source.values.values()):
        return ()
    from bigmachine import system

    return system.names()


def _from_file() -> Iterator[Source]:
    try:
        folder = os.getcwd()
    except FileNotFoundError:  # the working directory was removed: there is no file above it either
        return
    while True:
        for name in ("bigmachine.toml", "pyproject.toml"):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and (source := _read(path, folder)) is not None:
                yield source
                return
        if folder == (folder := os.path.dirname(folder)):
            return


def _read(path: str, folder: str) -> Source | None:
    """Read one file; None if it is a `pyproject.toml` that says nothing about bigmachine."""
    own = path.endswith("bigmachine.toml")
    try:
        with open(path, "rb") as file:
            data = file.read()
            status = os.fstat(file.fileno())
        in_public = os.stat(folder).st_mode & 0o002
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): make it readable, or move it away") from error
    # Most pyproject.toml are other people's business: a broken one must not stop a program that asked nothing of it.
    if not own and not _may_concern(data):
        return None
    table = _table(path, data, own)
    if table is None:
        return None
    # Whoever may write to /tmp could otherwise choose the hosts that a program below it is sent to.
    if in_public and status.st_uid not in {0, os.geteuid()}:
        raise ConfigError(
            f"{path} belongs to another user (uid {status.st_uid}), in a folder that everybody may write to: "
            "remove it, or run from another folder"
        )
    return Source(path if own else f"{path} [tool.bigmachine]", table, folder)


def _may_concern(data: bytes) -> bool:
    """Tell whether a TOML file may have a table `tool.bigmachine`: to parse one takes 5 ms that most starts save."""
    squeezed = data.translate(None, b" \t\"'")
    return b"bigmachine" in squeezed and any(key in squeezed for key in (b"tool.bigmachine", b"[tool]", b"tool="))


def _table(path: str, data: bytes, own: bool) -> Mapping[str, object] | None:
    import tomllib

    try:
        content = tomllib.loads(data.decode())
    except ValueError as error:  # of tomllib as of decode
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    if own:
        return content
    tool = content.get("tool")
    table = tool.get("bigmachine") if isinstance(tool, dict) else None
    if table is not None and not isinstance(table, dict):
        raise ConfigError(f"{path}: tool.bigmachine = {table!r} is not allowed: it must be a table, [tool.bigmachine]")
    return table
