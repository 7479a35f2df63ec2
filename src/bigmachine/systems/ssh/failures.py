"""What an SSH client's errors mean, said as the user can act on them."""

from __future__ import annotations

import socket

from bigmachine.errors import AuthenticationError, BigmachineError, ProvisionError
from bigmachine.systems.ssh.hosts import SshHost


def translate(error: BaseException, host: SshHost, stage: str) -> BigmachineError:
    """Say what went wrong with a host, at which stage, and what to do about it."""
    where = f"ssh host {host} ({stage})"
    if isinstance(error, BigmachineError):
        error.add_note(f"({where})")
        return error
    return _of_ssh(error, host, where) or _of_network(error, where)


def _of_ssh(error: BaseException, host: SshHost, where: str) -> BigmachineError | None:
    import asyncssh

    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return AuthenticationError(
            f"{where}: its host key is not the known one, or none is known: {error.reason}. "
            f"If that is expected, log in once with `ssh {_command(host)}` and compare the fingerprint; "
            "if the key has changed and nobody reinstalled the host, somebody may stand in between"
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return AuthenticationError(
            f"{where}: the host refused to log us in: {error.reason}. Check the user name and the key: "
            f"`ssh {_command(host)}` must work without a question (ssh-agent, IdentityFile)"
        )
    if isinstance(error, asyncssh.ChannelOpenError):
        text = f"{where}: the server opened no channel: {error.reason}; see its MaxSessions and AllowTcpForwarding"
        return ProvisionError(text, temporary=True)
    if isinstance(error, asyncssh.ConfigParseError):
        return ProvisionError(f"{where}: the configuration of the SSH client is wrong: {error}")
    if isinstance(error, asyncssh.Error) and not isinstance(error, asyncssh.ConnectionLost):
        return ProvisionError(f"{where}: {error.reason or error}")
    return None


def _of_network(error: BaseException, where: str) -> BigmachineError:
    import asyncssh

    if isinstance(error, asyncssh.ConnectionLost | ConnectionResetError):
        text = f"{where}: the connection broke: {error}. Is sshd running there, and is MaxStartups high enough?"
        return ProvisionError(text, temporary=True)
    if isinstance(error, TimeoutError):
        return ProvisionError(f"{where}: no answer in time; is the host up, and the port open?", temporary=True)
    if isinstance(error, socket.gaierror):
        return ProvisionError(f"{where}: its name cannot be resolved: {error.strerror}; is it spelt right?")
    if isinstance(error, OSError):
        text = f"{where}: {error.strerror or error}; is the host up, sshd running, and its name right?"
        return ProvisionError(text, temporary=True)
    return ProvisionError(f"{where}: {type(error).__name__}: {error}")


def summary(failures: dict[SshHost, BigmachineError]) -> BigmachineError:
    """Say of several hosts why none could be used; of one, its own error."""
    if len(failures) == 1:
        return next(iter(failures.values()))
    text = "\n".join(f"  {error}" for error in failures.values())
    return ProvisionError(f"no ssh host could be used:\n{text}", temporary=any(e.temporary for e in failures.values()))


def _command(host: SshHost) -> str:
    port = f"-p {host.port} " if host.port else ""
    return f"{port}{host.user + '@' if host.user else ''}{host.name}"


__all__ = ["summary", "translate"]
