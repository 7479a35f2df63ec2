"""Which hosts to use, as users write them. Pure but for reading a hosts file.

A host is `[user@]name[:port][*machines]`, where `name` is what `ssh` takes: an alias of the client's configuration, a
DNS name or an address (IPv6 in brackets if a port follows). A hosts file has one on each line; `#` begins a comment.
In a list, `@path` stands for the hosts of a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bigmachine.errors import ProvisionError
from bigmachine.frozen import frozen

_HOST = re.compile(
    r"""(?:(?P<user>[^@\s*]+)@)?
        (?:\[(?P<bracketed>[0-9A-Fa-f:.%\w]+)\]|(?P<bare6>[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)|(?P<name>[\w.-]+))
        (?::(?P<port>\d+))?
        (?:\*(?P<machines>\d+))?""",
    re.VERBOSE,
)


@frozen
class SshHost:
    """One host: what to give to the SSH client, and how many machines it takes. None: as configured elsewhere."""

    name: str
    user: str | None = None
    port: int | None = None
    machines: int | None = None

    def __str__(self) -> str:
        """Write it as `parse_host` reads it, without the number of machines."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{self.user + '@' if self.user else ''}{name}{f':{self.port}' if self.port else ''}"


def parse_host(text: str, where: str = "the list of hosts") -> SshHost:
    """Read one host.

    Raises:
        ProvisionError: if it is none; `where` is named.
    """
    match = _HOST.fullmatch(text.strip())
    if match is None:
        raise ProvisionError(f"{where} has {text!r}: a host is [user@]name[:port][*machines], such as me@node1:22*4")
    name = match["bracketed"] or match["bare6"] or match["name"]
    port, machines = (int(match[key]) if match[key] else None for key in ("port", "machines"))
    if name.startswith("-"):
        raise ProvisionError(f"{where} has {text!r}: the name of a host does not begin with a dash")
    if port is not None and not 0 < port < 65536:
        raise ProvisionError(f"{where} has {text!r}: a port is a number from 1 to 65535")
    if machines == 0:
        raise ProvisionError(f"{where} has {text!r}: a host that takes no machine should not be listed")
    return SshHost(name, match["user"], port, machines)


def parse_hosts(entries: Iterable[str]) -> list[SshHost]:
    """Read a list of hosts, with the files that it names; one that stands there twice counts once.

    Raises:
        ProvisionError: if an entry is none, a file cannot be read, or there is no host at all.
    """
    hosts: dict[tuple[str, str | None, int | None], SshHost] = {}
    for text, where in _entries(entries):
        host = parse_host(text, where)
        hosts.setdefault((host.name, host.user, host.port), host)
    if not hosts:
        raise ProvisionError(
            "ssh: there are no hosts: name some, as in --bigm.hosts=node1,me@node2 or --bigm.hosts=@file"
        )
    return list(hosts.values())


def _entries(entries: Iterable[str]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if not entry.startswith("@"):
            yield entry, "the list of hosts"
            continue
        path = entry[1:]
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ProvisionError(f"the file of hosts {path!r} cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            if text := line.partition("#")[0].strip():
                yield text, f"{path}, line {number},"


__all__ = ["SshHost", "parse_host", "parse_hosts"]
