"""Logging in to a host: the user's own configuration and keys, and host keys that are always verified.

`asyncssh` reads `~/.ssh/config`. Four things are done here in its place. Files of known hosts are found as OpenSSH
finds them (all of its default places, and those that are not there do not count). `UserKnownHostsFile none`, by which
`asyncssh` verifies nothing, means that no host is known. An `IdentityFile` that is not there does not count. And each
jump host is logged in to by itself, by the same rules, so that an error names the one that it is about.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from bigmachine.errors import BigmachineError, ProvisionError
from bigmachine.systems.ssh.failures import translate
from bigmachine.systems.ssh.hosts import SshHost, parse_host

if TYPE_CHECKING:
    import asyncssh

CONNECT_TIMEOUT: Final = 15.0
_MOST: Final = 120.0
LOGIN_TIMEOUT: Final = 20.0
#: A connection that is dropped while it logs in, as by MaxStartups, is tried again after so many seconds.
_AGAIN: Final = (0.2, 0.6, 1.5)
#: A connection that carries nothing is kept from being forgotten by what lies in between.
_KEEPALIVE: Final = 30.0
_JUMPS: Final = 8
#: Where OpenSSH looks if its configuration does not say.
_USERS_KNOWN: Final = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBALLY_KNOWN: Final = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


async def log_in(
    host: SshHost,
    config: str | None,
    logins: asyncio.Semaphore,
    *,
    through: asyncssh.SSHClientConnection | None = None,
    jumps: int = _JUMPS,
) -> asyncssh.SSHClientConnection:
    """Log in, over a connection to another host if there is one, else over as many as `jumps` that the user names.

    Closing the connection closes those that it goes over, too; so does a failure.

    Raises:
        AuthenticationError: a host's key is not the known one, or it does not take ours.
        ProvisionError: anything else; the text names the host and the remedy.
    """
    import asyncssh

    try:
        options = await _options(host, config)
        if through is None and isinstance(options.tunnel, str):
            if jumps == 0:
                raise ProvisionError(f"ssh host {host}: more than {_JUMPS} ProxyJumps: does a host name itself?")
            for jump in options.tunnel.split(","):
                over = parse_host(jump.removeprefix("ssh://"), f"ProxyJump of {host}")
                through = await log_in(over, config, logins, through=through, jumps=jumps - 1)
        connection = await _persist(host, options, config, through, logins)
    except BaseException as error:
        if through is not None:
            through.abort()
        if isinstance(error, asyncssh.Error | OSError | ValueError) and not isinstance(error, BigmachineError):
            raise translate(error, host, "reading the SSH client's configuration") from error
        raise
    connection.set_tunnel(through)
    return connection


async def _persist(
    host: SshHost,
    options: asyncssh.SSHClientConnectionOptions,
    config: str | None,
    through: asyncssh.SSHClientConnection | None,
    logins: asyncio.Semaphore,
) -> asyncssh.SSHClientConnection:
    """Log in to one host; again, if its server is too busy to let anybody in."""
    import asyncssh

    for pause in (*_AGAIN, None):
        try:
            async with logins, asyncio.timeout((options.connect_timeout or CONNECT_TIMEOUT) + LOGIN_TIMEOUT):
                # Said once more, for what is not said here counts as the default: a ProxyJump, and ~/.ssh/config.
                return await asyncssh.connect(host.name, options=options, config=_files(config), tunnel=through)
        except (asyncssh.ConnectionLost, ConnectionResetError) as error:
            if pause is None:
                raise translate(error, host, "logging in") from error
            await asyncio.sleep(pause)
        except (asyncssh.Error, OSError, ValueError) as error:
            raise translate(error, host, "logging in") from error
    raise AssertionError("the last attempt returns or raises")


async def _options(host: SshHost, config: str | None) -> asyncssh.SSHClientConnectionOptions:
    """Read what the configuration says of a host."""
    import asyncssh

    given: dict[str, Any] = {
        "config": _files(config),
        "login_timeout": LOGIN_TIMEOUT,
        "keepalive_interval": _KEEPALIVE,
        # No keys yet: one that is not there would be an error.
        "client_keys": None,
        "agent_identities": None,
    }
    if host.port is not None:
        given["port"] = host.port
    if host.user is not None:
        given["username"] = host.user
    read: type[asyncssh.SSHClientConnectionOptions] = asyncssh.SSHClientConnectionOptions
    options: asyncssh.SSHClientConnectionOptions = await read.construct(host=host.name, **given)
    said = options.config
    users, everybodys = (
        cast("list[str] | None", said.get(key)) for key in ("UserKnownHostsFile", "GlobalKnownHostsFile")
    )
    known = known_hosts(users, everybodys)
    limit = options.connect_timeout or CONNECT_TIMEOUT  # the user's, if there is one
    verified: asyncssh.SSHClientConnectionOptions = await read.construct(
        options,
        known_hosts=known,
        connect_timeout=min(limit, _MOST),
        client_keys=keys(cast("list[str] | None", said.get("IdentityFile"))),
        agent_identities=(),
        ignore_encrypted=True,
    )
    return verified


def _files(config: str | None) -> list[str]:
    default = os.path.expanduser("~/.ssh/config")
    return [config] if config is not None else [default] if os.path.isfile(default) else []


def keys(named: list[str] | None) -> Sequence[str]:
    """Return those of the keys that the configuration names which are there; (): it names none."""
    return [path for path in map(os.path.expanduser, named) if os.path.isfile(path)] if named else ()


def known_hosts(users: list[str] | None, everybodys: list[str] | None) -> list[str]:
    """Return the files of known hosts, at least one; None: the configuration does not say."""
    files = [*(_USERS_KNOWN if users is None else users), *(_GLOBALLY_KNOWN if everybodys is None else everybodys)]
    there = [path for path in map(os.path.expanduser, files) if os.path.isfile(path)]
    return there or [os.devnull]  # an empty list would mean the default to asyncssh, and None that all are trusted


__all__ = ["CONNECT_TIMEOUT", "LOGIN_TIMEOUT", "keys", "known_hosts", "log_in"]
