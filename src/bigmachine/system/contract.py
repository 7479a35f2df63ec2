"""What a provider of machines implements: places with an agent that the session can reach.

A System is small and blocking and knows nothing of sessions, handles or calls. It is asked for `n` places at a time
(`launch`), each with an agent running that it gave a bootstrap to; the session does the rest over the agent's
connection, the same way everywhere. `shutdown` gives everything back.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, BinaryIO, NoReturn, Protocol, TypeAlias

from bigmachine.errors import Cause, InvalidCall, ProvisionError
from bigmachine.frozen import frozen

if TYPE_CHECKING:  # a local system's agent is started before its driver imports these
    from bigmachine.image.depot import Depot
    from bigmachine.image.manifest import Platform
    from bigmachine.rpc import Dialer, Reactor
    from bigmachine.system.cost import Receipt
    from bigmachine.trust import Identity, Role


@frozen
class Keepalive:
    """The clocks that decide whether a machine is alive; all in seconds.

    `interval`: how often the driver renews the lease. `timeout`: without an answer for so long the machine counts as
    lost. `lease`: without a renewal for so long the machine ends itself. `hang`: a process that neither answers nor
    runs for so long is hung. `first_contact`: an agent that nobody calls for so long after its start ends its host.
    `max_life`: the driver ends a machine that is so old (None: never); a System whose machines cost money sees to it
    by itself, too, where it works without the driver.
    """

    interval: float = 5.0
    timeout: float = 30.0
    lease: float = 60.0
    hang: float = 10.0
    first_contact: float = 120.0
    max_life: float | None = None

    def __post_init__(self) -> None:
        for name in ("interval", "timeout", "lease", "hang", "first_contact", "max_life"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Keepalive({name}={value!r}): it has to be above 0 seconds")
        if self.interval >= self.lease:
            raise ValueError(
                f"Keepalive(interval={self.interval}, lease={self.lease}): a lease has to outlast the interval "
                "in which it is renewed"
            )


#: Makes a way to the peer of an id and a role.
MakeDialer: TypeAlias = "Callable[[str, Role], Dialer]"


class Guest(Protocol):
    """The session that services see on a machine inside this process."""

    def leave(self) -> object:
        """Let go of all it holds: the machine has ended. On the event loop."""


@frozen
class Runtime:
    """What a host that does not have the program's files runs it with: an interpreter, by its path, and its kind.

    `ca_file`: the certificates of public authorities that came there with the interpreter, which would else look for
    them where they are on the driver's host.
    """

    python: str
    platform: Platform
    ca_file: str = ""


@frozen
class Foreseen:
    """What is known of a host before it is there, so that what cannot be had for it is told before it is bought.

    `what` names it in messages, such as "an instance of type c7g.large". It runs Linux; `machine` is as `uname -m` says
    there, `libc` such as "glibc 2.36", `python` the version of the Python that it has, such as "3.11". Whatever is not
    known is empty, and refuses nothing.
    """

    what: str
    machine: str
    libc: str = ""
    python: str = ""


@frozen
class Launched:
    """A place for one machine: an agent, and how to reach it.

    `host` and `port` are where the agent listens; `path` is a Unix socket by which the driver reaches that port, where
    it cannot do so directly. A System whose machines are not behind a socket gives `dialer` instead. `runtime` is given
    by hosts that have not the driver's files: the program is brought there. None: everything is where it is here.
    `steps`: how the place came to be, as names and the seconds since the epoch at which each began, for the timeline;
    `sent`: the bytes that went there in the last of them.
    """

    agent_id: str
    host: str = ""
    port: int = 0
    hostname: str = ""
    maxprocs: int = 1
    path: str = ""
    runtime: Runtime | None = None
    steps: tuple[tuple[str, float], ...] = ()
    sent: int = 0
    dialer: MakeDialer | None = field(default=None, repr=False)


@frozen
class Ticket:
    """What a System needs to know of the session that its machines are for.

    `issue(role, id)` makes an identity for an agent, to be handed over by a channel that nobody else can read.
    `adopt(place)` gives an agent that was brought up on a bare host an identity of its own, in place of the one that it
    came up with (role bootstrap); it blocks, and raises NetworkError or AuthenticationError.
    `reactor` is the session's event loop and `guest(machine_id, dialer)` makes the session that services see on a
    machine inside this process: both are for systems without processes.
    `digest` names the program that is brought to bare hosts, where it is known before they are there.
    `read(agent_id, path)` opens a file of an agent's host, `follow(agent_id, unit)` streams what the journal there has
    of a unit of systemd: for Systems that have no better way to `System.read` and `System.tail`.
    `tell(host, stage)` shows on a terminal how far a host is that has no machine yet, until `stage` is empty.
    """

    session: str
    name: str
    issue: Callable[[Role, str], Identity] = field(repr=False)
    reactor: Reactor = field(repr=False)
    guest: Callable[[str, MakeDialer], Guest] = field(repr=False)
    adopt: Callable[[Launched], None] = field(repr=False, default=lambda _: None)
    digest: str = ""
    read: Callable[[str, str], BinaryIO] = field(repr=False, default=lambda agent_id, _: _unknown(agent_id))
    follow: Callable[[str, str], Iterator[bytes]] = field(repr=False, default=lambda agent_id, _: _unknown(agent_id))
    tell: Callable[[str, str], None] = field(repr=False, default=lambda _host, _stage: None)


def _unknown(agent_id: str) -> NoReturn:
    raise InvalidCall(f"the agent {agent_id} is not known here")


class HasMachineId(Protocol):
    """A machine, or whatever else knows its id."""

    @property
    def machine_id(self) -> str:
        """The id, which begins with that of the machine's agent."""


def agent_id_of(machine: HasMachineId) -> str:
    """Give the id of the agent of a machine."""
    return machine.machine_id.rpartition("-")[0]


class System(abc.ABC):
    """A provider of machines, for one session.

    `prepare`, `launch` and `shutdown` are called from the program's own threads, also at the same time: `shutdown`
    ends a `launch` that is under way in another thread. `release` is called from the session's event loop, and must
    not wait.
    """

    #: How the system is called in flags and logs.
    name: str = ""
    #: The clocks of its machines; may be set before the first `launch`.
    keepalive: Keepalive = Keepalive()

    #: Whether its hosts have not the driver's files, so that the program is to be brought there.
    is_bare: bool = False
    #: Whether its machines cost money: then all that can be checked before the first `launch` is.
    is_paid: bool = False

    _is_claimed = False

    def claim(self) -> None:
        """Note that a session begins on it; not to be overridden.

        Raises: ProvisionError for a second one: the first one's end would be the end of its machines, too.
        """
        if self._is_claimed:
            raise ProvisionError(f"this {self.name!r} system has a session already: make a System for each")
        self._is_claimed = True

    @abc.abstractmethod
    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        """Provide up to `n` places, at least one; blocks until their agents can be dialled.

        Raises: ProvisionError, saying what was tried; also after `shutdown`.
        """

    def prepare(self) -> None:  # noqa: B027 (a hook: most systems have nothing to begin)
        """Begin what can be begun before the first `launch`; must not block. Does nothing by default.

        Raises: ProvisionError, if it is clear already that there will be no machines.
        """

    def foresee(self) -> Sequence[Foreseen]:
        """Say what hosts the next `launch` may give, each kind once, as far as that is known; nothing by default.

        Asked before each `launch`, if it `is_bare` and `is_paid`. It may wait for what `prepare` began.

        Raises: ProvisionError, if it is clear already that there will be no machines.
        """
        return ()

    def fate(self, place: Launched, is_sure: bool) -> tuple[Cause, str] | None:
        """Say why a place is gone, and in which words; None if it is there as far as the provider knows.

        Asked when the agent does not answer, or (`is_sure`) is gone for certain. It may wait for some seconds, but in
        no case longer: it is called from a thread, and the machine's end waits for it.
        """
        return None

    def depot(self) -> Depot | None:
        """Give a place that driver and hosts both reach, where packs of programs are kept; None if there is none."""
        return None

    def cost(self) -> Receipt | None:
        """Say what its hosts cost, an hour and so far; None if they cost nothing. Must not wait: it is asked often."""
        return None

    def read(self, machine: HasMachineId, path: str) -> BinaryIO:
        """Open a file of a machine's host, to be read as it comes [Go: System.Read]; whoever calls closes it.

        Raises: OSError if it cannot be read there; InvalidCall if the machine is none of this System's, or has ended,
            or the System does not do this.
        """
        raise InvalidCall(f"the system {self.name!r} does not read files of its hosts")

    def tail(self, machine: HasMachineId) -> Iterator[str]:
        """Give the lines of the log of a machine's host, those to come included [Go: System.Tail].

        That is what was said on the way to a running agent, and by the agent; what the machine itself prints comes by
        the session. It ends with the host, or when it is closed.

        Raises: InvalidCall as `read`.
        """
        raise InvalidCall(f"the system {self.name!r} has no log of its hosts")

    def release(self, place: Launched) -> None:  # noqa: B027 (a hook, too)
        """Take note that the machine at this place has ended. Does nothing by default."""

    @abc.abstractmethod
    def shutdown(self, timeout: float) -> None:
        """Give back everything, within `timeout` seconds; safe to call twice. Never raises for what is gone."""


def lines(pieces: Iterable[bytes]) -> Iterator[str]:
    """Cut a log that comes in pieces into lines; closing closes `pieces`, too."""
    rest = b""
    try:
        for piece in pieces:
            *whole, rest = (rest + piece).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in whole)
        if rest:
            yield rest.decode("utf-8", "replace")
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
