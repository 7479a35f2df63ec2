"""The one tree of errors, and the death certificate that explains a stopped machine.

Every class answers three things: whose fault it is, whether trying again can help (`temporary`), and, in its
message, what to do about it. An exception raised by a service's method is not wrapped: it arrives as itself,
marked by a `RemoteTraceback` as its cause (`is_remote`).
"""

from __future__ import annotations

import enum
import signal as _signal
from dataclasses import field

from bigmachine.frozen import frozen


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
    Cause.SHUTDOWN: "It was asked to end; start another one if you still need it.",
    Cause.CANCELLED: "This program cancelled its handle; start another one if you still need it.",
    Cause.EXITED: "The program on the machine ended by itself: look for sys.exit or os._exit in its top level, in the "
    "service and in what they call.",
    Cause.SIGNAL: "Look at the last lines of its output for what it was doing.",
    Cause.OOM: "Let it keep less in memory (smaller pieces, fewer calls at once), start fewer machines on the host, or "
    "take a bigger one or a higher limit.",
    Cause.LEASE_EXPIRED: "The driver did not renew its lease in time: was the driver stopped (Ctrl-Z, a debugger), its "
    "host suspended or the network cut? A longer Keepalive(lease=...) bridges longer pauses.",
    Cause.KEEPALIVE_LOST: "The driver could not reach it: is its host down or overloaded, or the network cut? A longer "
    "Keepalive(timeout=...) bridges longer cuts.",
    Cause.HUNG: "Its process stood still: the stacks of its threads, where they could be had, are the cause of this "
    "error and show what it was at. A longer Keepalive(hang=...) bridges longer pauses.",
    Cause.AGENT_LOST: "The agent that carried it on its host is gone, and every machine there with it: was it killed, "
    "was the host short of memory, or did it go down? Look at the host's log.",
    Cause.PREEMPTED: "The provider took the host back; start another machine.",
    Cause.BOOT_FAILED: "A machine runs the same program up to bigmachine.start(): look at what stops it there.",
    Cause.INIT_FAILED: "The init of one of its services raised; the traceback is the cause of this error.",
}

#: For a machine that could not be started: no program of it came to an end that says why.
_NOT_STARTED = "It was never up: put right what is named here, and start another one."

#: What the end by a signal means, and what to do; the others have the remedy of `Cause.SIGNAL`.
_SIGNALS = {
    "SIGKILL": (
        "it was killed, by a person, a batch system or the kernel",
        "Who sent kill -9? If it was the kernel for want of memory, the host's log (dmesg) has it.",
    ),
    "SIGSEGV": (
        "it touched memory that is none of its own, which only code in C can do",
        (
            "An extension module or a library that it calls is at fault (ctypes, a mismatch of versions, too deep a "
            "recursion): the Python stack stands in the last lines."
        ),
    ),
    "SIGBUS": (
        "it touched memory that is not there any more",
        (
            "A file that it has mapped (mmap, numpy.memmap, shared memory) was cut short, or its disk is full; the "
            "Python stack stands in the last lines."
        ),
    ),
    "SIGABRT": (
        "it gave up by itself (abort)",
        (
            "A library in C found something that must not be, or got no memory: it says what just above the Python "
            "stack in the last lines."
        ),
    ),
    "SIGFPE": (
        "it computed what the processor cannot, such as a division of integers by zero, in code in C",
        "The Python stack in the last lines names the call.",
    ),
    "SIGILL": (
        "it came to an instruction that this processor does not have",
        "A package was built for a newer processor than this host's: install one that was built for it.",
    ),
    "SIGTERM": ("somebody asked it to terminate", "A batch system, a supervisor or a person did: ask there why."),
    "SIGINT": ("it was interrupted", "Somebody pressed Ctrl-C there, or sent it SIGINT."),
    "SIGHUP": ("its terminal or session was closed", "Somebody or something sent it SIGHUP."),
    "SIGXCPU": ("it used more CPU time than it may", "Raise the limit (`ulimit -t`), or give it less to do."),
    "SIGXFSZ": ("it wrote a larger file than it may", "Raise the limit (`ulimit -f`), or write smaller files."),
    "SIGSYS": ("it made a system call that is forbidden to it", "A sandbox (seccomp) is around it: allow the call."),
}


@frozen
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
        known = _SIGNALS.get(self._signal) if self.cause == Cause.SIGNAL else None
        if self.cause == Cause.BOOT_FAILED and self.exit_status is None and self.signal is None:
            return _NOT_STARTED
        return _REMEDIES[Cause(self.cause)] if known is None else known[1]

    def describe(self) -> str:
        """Say it in a few sentences, as `MachineStopped` prints it: what happened, what it was like, what to do."""
        return " ".join([f"{self._what()}.", *self._facts(), self.remedy])

    @property
    def _signal(self) -> str:
        return "" if self.signal is None else _signal_name(self.signal)

    def _what(self) -> str:
        how = f"machine {self.machine or '?'} stopped ({self.cause})"
        # How we made it end ourselves, by SIGKILL, is no news.
        if self.signal is not None and self.cause in (Cause.SIGNAL, Cause.BOOT_FAILED, Cause.INIT_FAILED):
            how += f" by {self._signal}"
        elif self.exit_status is not None and self.cause != Cause.SHUTDOWN:
            how += f" with exit status {self.exit_status}"
        known = _SIGNALS.get(self._signal) if self.cause == Cause.SIGNAL else None
        reasons = [known[0]] if known is not None else []
        if self.detail:
            reasons.append(self.detail)
        return f"{how}: {'; '.join(reasons)}".rstrip(".") if reasons else how

    def _facts(self) -> list[str]:
        facts = []
        if (lived := self.lifetime) is not None:
            facts.append(f"lived {lived:.1f} s")
        if self.peak_memory is not None:
            facts.append(f"used at most {self.peak_memory / 2**20:.0f} MiB of memory")
        if self.cpu_time is not None:
            facts.append(f"{self.cpu_time:.2f} s of CPU")
        return [f"It {', '.join(facts[:-1])}{' and ' if facts[1:] else ''}{facts[-1]}."] if facts else []


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
            last = "\n".join(f"    {line}" for line in _telling(self.certificate.last_lines))
            text += f"\n  its last lines of output:\n{last}"
        return text


def _telling(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Choose the lines that say most: of a crash what it was, and the stack of the thread that it was in."""
    for at in range(len(lines) - 1, -1, -1):
        if lines[at].startswith("Fatal Python error"):
            # A program may have `faulthandler` tell of all threads, which it does in no useful order.
            stacks = range(at + 1, len(lines))
            stack = next((number for number in stacks if lines[number].startswith("Current thread")), at + 1)
            return (*lines[max(0, at - 3) : at + 1], *lines[stack : stack + 9])
    return lines[-10:]


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
