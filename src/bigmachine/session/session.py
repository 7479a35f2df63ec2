"""`Session`: the machines of a program, from the first start to the last shutdown [Go: bigmachine.B]."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

from bigmachine.agent import LaunchSpec
from bigmachine.errors import BigmachineError, Cause, DeathCertificate, InvalidCall, MachineStopped, ProvisionError
from bigmachine.image import Entry, Image, detect, search_path
from bigmachine.machine import Address, Host, Machine, Owner, Phase, Pinger, State, receive_with
from bigmachine.rpc import Codec, Dialer, Link, Reactor, TlsDialer
from bigmachine.session import services as _services
from bigmachine.session.console import Console
from bigmachine.system import Keepalive, Launched, System, Ticket
from bigmachine.trust import Authority, Credentials, Identity, Role, client_context, write_credentials

_log = logging.getLogger("bigmachine")
#: How long a machine may take until it answers a connection: it imports the program before.
_BOOT_TIMEOUT = 600.0
#: Shutting a system down gets at least this, also when the machines used up the time.
_LEAST = 2.0


class Session:
    """The machines of one program. Made by `bigmachine.start`; leaving its `with` block shuts it down.

    On a machine, `current_call().session` and a service's `init(session)` give that machine's own: it can `dial`
    other machines, but not start any.
    """

    def __init__(
        self,
        session_id: str,
        reactor: Reactor,
        identity: Identity,
        codec: Codec,
        *,
        name: str = "",
        system: System | None = None,
        system_name: str = "",
        authority: Authority | None = None,
        entry: Entry | None = None,
    ) -> None:
        self._id = session_id
        self._reactor = reactor
        self._identity = identity
        self._codec = codec
        self._system = system
        self._system_name = system_name
        self._authority = authority
        self._entry = entry
        self._context: ssl.SSLContext | None = None
        self._console = Console()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._owned: list[Machine] = []
        self._dialled: dict[str, Machine] = {}
        self._hosts: dict[str, Host] = {}
        self._places: dict[Machine, Launched] = {}
        self._is_shut_down = False
        self.name = name

    @classmethod
    def open(cls, system: System, name: str = "") -> Session:
        """Begin a driver's session on a system."""
        session_id = secrets.token_hex(4)
        # The system may start processes now; making the authority, which imports `cryptography`, takes as long.
        system.prepare()
        authority = Authority(session_id)
        entry = detect()
        session = cls(
            session_id,
            Reactor.in_thread(),
            authority.issue(Role.DRIVER, "driver"),
            Codec(by_value=entry.by_value),
            name=name,
            system=system,
            system_name=system.name,
            authority=authority,
            entry=entry,
        )
        receive_with(session_id, session._receive)
        atexit.register(session.shutdown)
        return session

    @classmethod
    def on_machine(cls, identity: Identity, reactor: Reactor, codec: Codec, *, name: str, system_name: str) -> Session:
        """Make a machine's own session."""
        session = cls(identity.session, reactor, identity, codec, name=name, system_name=system_name)
        receive_with(identity.session, session._receive)
        return session

    # what it is

    @property
    def system(self) -> System | None:
        """The provider of its machines; None on a machine."""
        return self._system

    @property
    def is_driver(self) -> bool:
        """Whether this is the program that starts machines, rather than a machine."""
        return self._authority is not None

    def machines(self) -> list[Machine]:
        """Return the machines that it has now, started and dialled; stopped ones are not among them."""
        with self._lock:
            return [m for m in (*self._owned, *self._dialled.values()) if m.state is not State.STOPPED]

    # machines

    def start(
        self,
        n: int = 1,
        *,
        services: Mapping[str, object] | Iterable[object],
        environ: Mapping[str, str] | None = None,
        args: Sequence[str] | None = None,
        image: Image | None = None,
    ) -> list[Machine]:
        """Launch up to `n` machines, at least one; they may still be STARTING when this returns.

        `services` is a mapping from names to objects, or several objects, each named after its class. `environ` is
        added to the machines' environment, `args` replaces their `sys.argv[1:]`, `image` what they run.

        Raises: InvalidCall if a service cannot travel; ProvisionError if there is no machine to be had.
        """
        system, authority = self._system, self._authority
        if system is None or authority is None:
            raise InvalidCall("a machine cannot start machines: do it in the driver, and send their handles")
        if type(n) is not int or n < 1:
            raise InvalidCall(f"start({n!r}): the number of machines has to be an int of at least 1")
        objects = _services.named(services)
        _services.check(objects, self._codec)
        self._check_open()
        ticket = Ticket(self._id, self.name, authority.issue, self._reactor, self._guest)
        places = system.launch(n, ticket)
        if not places:
            raise ProvisionError(f"the system {system.name!r} started no machine; {n} were asked for")
        owners = [self._place(system, place, objects, environ, args, image) for place in places]
        for owner in owners:
            owner.begin()
        return [owner.machine for owner in owners]

    def _place(
        self,
        system: System,
        place: Launched,
        objects: Mapping[str, object],
        environ: Mapping[str, str] | None,
        args: Sequence[str] | None,
        image: Image | None,
    ) -> Owner:
        number = next(self._numbers)
        address = Address(place.host or system.name, place.port, f"{place.agent_id}-m{number}")
        host = self._host(place)
        program = self._link(address, place.dialer, is_held=True, handshake=_BOOT_TIMEOUT)
        machine = Machine(
            address, self._id, program=program, agent=host.link, hostname=place.hostname, maxprocs=place.maxprocs
        )
        spec = self._spec(address, place, environ, args, image)
        owner = Owner(machine, host, program, spec, objects, system.keepalive, self)
        program.judge_with(owner.verdict)
        machine.watch(self._follow)
        with self._lock:
            if self._is_shut_down:
                raise BigmachineError("the session was shut down while it started machines")
            self._owned.append(machine)
            self._places[machine] = place
        self._reactor.post(self._console.begin, machine.name)
        return owner

    def _spec(
        self,
        address: Address,
        place: Launched,
        environ: Mapping[str, str] | None,
        args: Sequence[str] | None,
        image: Image | None,
    ) -> LaunchSpec:
        assert self._authority is not None
        assert self._entry is not None
        entry = self._entry if image is None else image.entry()
        given = sys.argv[1:] if args is None else list(args)
        if args is None and image is not None and image.args is not None:
            given = list(image.args)
        return LaunchSpec(
            machine_id=address.machine_id,
            name=address.name,
            identity=self._authority.issue(Role.MACHINE, address.machine_id),
            argv=[*(sys.argv[:1] or [""]), *given],
            environ={**os.environ, **(environ or {})},
            cwd=os.getcwd(),
            entry=entry,
            sys_path=search_path(),
            session_name=self.name,
            driver_pid=os.getpid(),
            system_name=self._system_name,
            maxprocs=place.maxprocs,
            interactive=self._codec.by_value,
            interpreter=[] if image is None else image.interpreter(),
        )

    def dial(self, address: str) -> Machine:
        """Return a handle on a machine that somebody else owns: pinged, not kept alive. One handle an address.

        The address of a machine of this session's own gives its own handle.

        Raises: InvalidCall if the address is malformed.
        """
        return self._receive(address, "", 1)

    def _receive(self, text: str, hostname: str, maxprocs: int) -> Machine:
        address = Address.parse(text)
        with self._lock:
            for machine in (*self._owned, *self._dialled.values()):
                if machine.address == str(address) and machine.state is not State.STOPPED:
                    return machine
            self._check_open()
            place = next((p for p in self._places.values() if p.agent_id == address.agent_id), None)
            dialer = place.dialer if place else _local_dialer(self._system, address)
            agent = self._link(Address(address.host, address.port, address.agent_id), dialer, role=Role.AGENT)
            program = self._link(address, dialer)
            machine = Machine(
                address, self._id, program=program, agent=agent, hostname=hostname or address.host, maxprocs=maxprocs
            )
            pinger = Pinger(machine, program, agent, self._keepalive(), address.machine_id)
            program.judge_with(pinger.verdict)
            machine.watch(self._follow)
            self._dialled[str(address)] = machine
        pinger.begin()
        return machine

    def _keepalive(self) -> Keepalive:
        return Keepalive() if self._system is None else self._system.keepalive

    def _guest(self, machine_id: str) -> Session:
        """Make the session of a machine inside this process."""
        assert self._authority is not None
        identity = self._authority.issue(Role.MACHINE, machine_id)
        return Session(
            self._id, self._reactor, identity, self._codec, name=self.name, system=self._system, system_name="inprocess"
        )

    # links

    def _host(self, place: Launched) -> Host:
        with self._lock:
            host = self._hosts.get(place.agent_id)
            if host is None:
                address = Address(place.host or self._system_name, place.port, place.agent_id)
                link = self._link(address, place.dialer, role=Role.AGENT)
                host = self._hosts[place.agent_id] = Host(place.agent_id, link)
        return host

    def _link(
        self,
        address: Address,
        dialer: Any,
        *,
        role: Role = Role.MACHINE,
        is_held: bool = False,
        handshake: float = 10.0,
    ) -> Link:
        made: Dialer
        if dialer is not None:
            made = dialer(address.machine_id, role)
        else:
            if self._context is None:
                self._context = client_context(self._identity)
            made = TlsDialer(
                address.host,
                address.port,
                address.machine_id,
                self._id,
                (role,),
                self._context,
                handshake_timeout=handshake,
            )
        codec = Codec(by_value=self._codec.by_value, machine=address.name, limit=self._codec.limit)
        return Link(self._reactor, made, codec=codec, name=str(address), is_held=is_held)

    # what happens to machines

    def wrote(self, machine: Machine, stream: str, data: bytes) -> None:
        """A machine has written something."""
        self._console.wrote(machine.name, stream, data)

    def _follow(self, machine: Machine) -> None:
        if machine.state is State.RUNNING:
            self._reactor.post(self._console.show, machine.name)
        elif machine.state is State.STOPPED:
            with self._lock:
                if not machine.owned:
                    self._dialled.pop(machine.address, None)

    def phase(self, machine: Machine, phase: Phase) -> None:
        """A starting machine has got further."""
        if phase is Phase.INITIALISING:
            self._console.show(machine.name)

    def stopped(self, machine: Machine) -> None:
        """An owned machine has stopped, and its last output has come."""
        error = machine.error
        cause = error.certificate.cause if isinstance(error, MachineStopped) else ""
        if cause in (Cause.BOOT_FAILED, Cause.INIT_FAILED):
            self._console.failed(machine.name)
        self._console.end(machine.name)
        with self._lock:
            if machine in self._owned:
                self._owned.remove(machine)
            place = self._places.pop(machine, None)
        level = logging.DEBUG if cause in (Cause.SHUTDOWN, Cause.CANCELLED) else logging.WARNING
        _log.log(level, "%s: machine stopped with error %s", machine.address, error)
        if place is not None and self._system is not None:
            self._system.release(place)

    # for people with other clients

    def write_credentials(self, directory: str | os.PathLike[str], name: str = "client") -> Credentials:
        """Write a client's certificate and key of this session, for curl and other languages.

        The files (`ca`, `certificate`, `key`) are readable by this user only; they are worth nothing once the
        session has ended.

        Raises: InvalidCall on a machine, which cannot sign.
        """
        if self._authority is None:
            raise InvalidCall("only the driver can sign certificates: its key never leaves it")
        return write_credentials(self._authority.issue(Role.CLIENT, name), Path(directory))

    # the end

    def _check_open(self) -> None:
        if self._is_shut_down:
            raise BigmachineError(f"the session {self.name or self._id} was shut down; start a new one")

    def shutdown(self, timeout: float = 20.0) -> None:
        """End all machines that this session owns, wait for their last output, release what the system holds.

        Bounded by `timeout` seconds (and two for the system); safe to call twice and from `atexit`.
        """
        with self._lock:
            if self._is_shut_down:
                return
            self._is_shut_down = True
            owned, dialled = list(self._owned), list(self._dialled.values())
        if self._reactor.is_here:
            raise BigmachineError("Session.shutdown() waits: call it from another thread than the event loop's")
        atexit.unregister(self.shutdown)
        end = time.monotonic() + timeout
        try:
            self._end_machines(owned, dialled, end)
        finally:
            if self._system is not None:
                self._system.shutdown(max(_LEAST, end - time.monotonic()))
            receive_with(self._id, None)
            self._reactor.stop()

    def _end_machines(self, owned: list[Machine], dialled: list[Machine], end: float) -> None:
        with contextlib.suppress(TimeoutError):
            self._reactor.run(self._shut_down(owned, dialled, end), max(0.1, end - time.monotonic()) + _LEAST)

    async def _shut_down(self, owned: list[Machine], dialled: list[Machine], end: float) -> None:
        import asyncio

        keepers = [cast(Owner, machine._keeper) for machine in owned]
        results = await asyncio.gather(*(keeper.end(end) for keeper in keepers), return_exceptions=True)
        for machine, result in zip(owned, results, strict=True):
            if isinstance(result, BaseException):
                _log.error("shutting %s down failed: %r", machine.address, result)
        gone = MachineStopped(DeathCertificate(Cause.SHUTDOWN, detail="the session was shut down", stopped=time.time()))
        for machine in (*owned, *dialled):
            machine.stop(gone)
        for machine in dialled:
            cast(Pinger, machine._keeper).close(gone)
        for host in self._hosts.values():
            host.close(gone)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        where = self._system_name if self.is_driver else f"on {self._identity.id}"
        return f"<Session {self.name or self._id} {where}, {len(self.machines())} machines>"


def _local_dialer(system: System | None, address: Address) -> Any:
    """How a machine of this process is reached, if the address is of one."""
    return getattr(system, "dialer", None) if address.port == 0 else None
