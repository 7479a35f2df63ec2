"""The one tree of errors, and the death certificate that explains a stopped machine.

Every class answers three things: whose fault it is, whether trying again can help (`temporary`), and, in its
message, what to do about it. An exception raised by a service's method is not wrapped: it arrives as itself,
marked by a `RemoteTraceback` as its cause (`is_remote`).
"""

from __future__ import annotations

import enum
import signal as _signal
from dataclasses import dataclass, field


class BigmachineError(Exception):
    """The root of all errors that this library raises by itself."""

    #: Whether the same thing, done again, may succeed. `Machine.retry_call` repeats only then.
    temporary: bool = False


class RemoteError(BigmachineError):
    """Stands in for an exception of a service's method that could not travel (fault: the method's).

    `type_name`, `message` and `traceback_text` are those of the original.
    """

    def __init__(self, type_name: str, message: str, traceback_text: str = "", why: str = "") -> None:
        super().__init__(type_name, message, traceback_text, why)
        self.type_name = type_name
        self.message = message
        self.traceback_text = traceback_text
        self.why = why

    def __str__(self) -> str:
        text = f"{self.type_name}: {self.message}"
        return f"{text} (it arrives as RemoteError because {self.why})" if self.why else text


class InvalidCall(BigmachineError):
    """The call itself is wrong: no such service or method, arguments that do not bind or cannot be pickled."""


class NetworkError(BigmachineError):
    """The link failed before the outcome was known; the call may or may not have run."""

    temporary = True


class DeadlineExceeded(BigmachineError, TimeoutError):
    """A deadline passed before the outcome was known."""


class Cause(enum.StrEnum):
    """Why a machine is not there any more."""

    SHUTDOWN = "shutdown"
    CANCELLED = "cancelled"
    EXITED = "exited"
    SIGNAL = "signal"
    OOM = "oom"
    LEASE_EXPIRED = "lease_expired"
    KEEPALIVE_LOST = "keepalive_lost"
    HUNG = "hung"
    AGENT_LOST = "agent_lost"
    PREEMPTED = "preempted"
    BOOT_FAILED = "boot_failed"
    INIT_FAILED = "init_failed"


_REMEDIES = {
    Cause.SHUTDOWN: "it was asked to end; start another one if you still need it",
    Cause.CANCELLED: "the handle was cancelled by this program",
    Cause.EXITED: "the program on the machine ended by itself; look for sys.exit or os._exit in the service",
    Cause.SIGNAL: "look at the last lines of output for what the process was doing",
    Cause.OOM: "the machine ran out of memory; use fewer calls at once on it, or a bigger machine",
    Cause.LEASE_EXPIRED: "the driver did not renew the lease; was it stopped, or its host suspended?",
    Cause.KEEPALIVE_LOST: "the driver could not reach it; is its host down, or the network cut?",
    Cause.HUNG: "its process stood still; was it stopped (SIGSTOP), or is it waiting for a lock or a disk?",
    Cause.AGENT_LOST: "the agent on its host died, and the machine with it; look at the host's logs",
    Cause.PREEMPTED: "the provider took the host back; start another one",
    Cause.BOOT_FAILED: "a machine runs the same program, up to bigmachine.start(): look at what stops it there",
    Cause.INIT_FAILED: "a service's init raised; the cause is its own traceback",
}


@dataclass(frozen=True, slots=True)
class DeathCertificate:
    """What is known about a machine's end.

    `peak_memory` is in bytes, `cpu_time` in seconds, `started` and `stopped` are seconds since the epoch; None
    where it could not be found out. `signal` is the number of the signal that ended the process, `exit_status`
    its status if it exited. `last_lines` are the last lines of its output, standard error included.
    """

    cause: str
    machine: str = ""
    detail: str = ""
    exit_status: int | None = None
    signal: int | None = None
    pid: int | None = None
    peak_memory: int | None = None
    cpu_time: float | None = None
    started: float | None = None
    stopped: float | None = None
    last_lines: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cause", Cause(self.cause))  # a Cause is a string, whoever made it of which

    @property
    def lifetime(self) -> float | None:
        """How long the machine lived, in seconds."""
        if self.started is None or self.stopped is None:
            return None
        return max(0.0, self.stopped - self.started)

    @property
    def remedy(self) -> str:
        """What the user can do about it."""
        return _REMEDIES[Cause(self.cause)]

    def describe(self) -> str:
        """Say it in one or a few sentences, as `MachineStopped` prints it."""
        return "; ".join([self._what(), *self._facts(), self.remedy])

    def _what(self) -> str:
        how = f"machine {self.machine or '?'} stopped ({self.cause})"
        if self.signal is not None:
            how += f" by {_signal_name(self.signal)}"
        elif self.exit_status is not None:
            how += f" with exit status {self.exit_status}"
        return f"{how}: {self.detail}" if self.detail else how

    def _facts(self) -> list[str]:
        facts = []
        if (lived := self.lifetime) is not None:
            facts.append(f"it lived {lived:.1f} s")
        if self.peak_memory is not None:
            facts.append(f"used at most {self.peak_memory / 2**20:.0f} MiB of memory")
        if self.cpu_time is not None:
            facts.append(f"{self.cpu_time:.2f} s of CPU")
        return [", ".join(facts)] if facts else []


def _signal_name(number: int) -> str:
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class MachineStopped(BigmachineError):
    """The machine is not there any more; `certificate` says why."""

    def __init__(self, certificate: DeathCertificate) -> None:
        super().__init__(certificate)
        self.certificate = certificate

    def __str__(self) -> str:
        text = self.certificate.describe()
        if self.certificate.last_lines and self.certificate.cause not in (Cause.SHUTDOWN, Cause.CANCELLED):
            last = "\n".join(f"    {line}" for line in self.certificate.last_lines[-10:])
            text += f"\n  its last lines of output:\n{last}"
        return text


class ProvisionError(BigmachineError):
    """A system could not provide machines; the message says what was tried."""

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary

    def __reduce__(self) -> tuple[object, ...]:
        return (_provision_error, (str(self), self.temporary))


def _provision_error(message: str, temporary: bool) -> ProvisionError:
    return ProvisionError(message, temporary=temporary)


class ImageError(BigmachineError):
    """The program could not be packed, sent or built on the machine; the message names the file or package."""


class AuthenticationError(BigmachineError):
    """A peer could not prove who it is."""


class RemoteTraceback(Exception):
    """The traceback on the machine, as text: the `__cause__` of an exception that came from there."""

    def __init__(self, text: str, machine: str = "") -> None:
        super().__init__(text, machine)
        self.text = text
        self.machine = machine

    def __str__(self) -> str:
        where = f"on machine {self.machine}" if self.machine else "on the machine"
        return f"\n{where}:\n{self.text.rstrip()}"


class RemoteCause(RemoteTraceback):
    """The traceback, on the machine, of what kept a call from being run there: its error is ours, not the method's."""


def is_remote(exc: BaseException) -> bool:
    """Tell whether `exc` was raised by a method on a machine, rather than here."""
    return isinstance(exc, RemoteError) or type(exc.__cause__) is RemoteTraceback


__all__ = [
    "AuthenticationError",
    "BigmachineError",
    "Cause",
    "DeadlineExceeded",
    "DeathCertificate",
    "ImageError",
    "InvalidCall",
    "MachineStopped",
    "NetworkError",
    "ProvisionError",
    "RemoteCause",
    "RemoteError",
    "RemoteTraceback",
    "is_remote",
]
