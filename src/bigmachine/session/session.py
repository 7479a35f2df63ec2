"""`Session`: the machines of a program, from the first start to the last shutdown [Go: bigmachine.B].

A machine has a session, too, and neither starts machines nor shows what they write: what only a driver needs is
imported where it is used, and so in no zygote (5 ms of each, and a megabyte).
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from bigmachine.agent import Dumped, Halted, MemoryShort, Noticed, give_identity
from bigmachine.errors import (
    BigmachineError,
    Cause,
    DeathCertificate,
    InvalidCall,
    MachineStopped,
    NetworkError,
    ProvisionError,
)
from bigmachine.image import Entry, Image, detect
from bigmachine.machine import Address, Fate, Host, Machine, Owner, Phase, Pinger, State, receive_with
from bigmachine.rpc import DEFAULT_LIMIT, DEFAULT_THREADS, Codec, Reactor
from bigmachine.session.begin import check_place
from bigmachine.session.dumps import Dumps, warn
from bigmachine.session.links import Links
from bigmachine.session.reading import reading
from bigmachine.session.seeing.sight import Sight
from bigmachine.session.timeline import DOWN, REST, UP, Span, Timeline, progress
from bigmachine.system import Keepalive, Launched, MakeDialer, System, Ticket
from bigmachine.trust import Credentials, Identity, Role, write_credentials

if TYPE_CHECKING:
    from bigmachine.session.events import EventFunction, Events, EventTarget
    from bigmachine.session.order import Order
    from bigmachine.session.output import Display, OutputTarget
    from bigmachine.session.presence import Presence
    from bigmachine.session.prompt import Prompt
    from bigmachine.session.shipping import Cargo
    from bigmachine.system.cost import Receipt
    from bigmachine.trust import Authority

_log = logging.getLogger("bigmachine")
#: For an agent on a bare host to make a key, and take its certificate.
_ADOPTION = 60.0
#: Shutting a system down gets at least this, also when the machines used up the time.
_LEAST = 2.0
#: A terminal that stands still holds the end of a machine or session up for no longer than this.
_SHOWING = 5.0


class Session(Sight):
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
        authority: Authority | None = None,
        entry: Entry | None = None,
        inside: MakeDialer | None = None,
        keepalive: Keepalive | None = None,
        threads: int = DEFAULT_THREADS,
        display: Display | None = None,
        take_event: EventFunction | None = None,
        dumps: str = "",
    ) -> None:
        self._id = session_id
        self._reactor = reactor
        self._identity = identity
        self._codec = codec
        self._system = system
        self._authority = authority
        self._entry = entry
        self._links = Links(reactor, identity, codec.limit, inside)
        self._keepalive = keepalive or Keepalive()
        self._threads = threads
        if display is not None:
            self._display = display
        self._dumps = Dumps(dumps, session_id)
        self._events: Events | None = None
        if system is not None and take_event is not None:
            from bigmachine.session.events import Events

            self._events = Events(take_event, name or session_id, system.name, self._display.do)
        self._numbers = itertools.count(1)
        # No lock around these: a signal's handler may interrupt the main thread anywhere and shut the session down, and
        # so wait for the event loop, which would wait for that lock. Each is changed by single operations.
        self._owned: dict[str, Machine] = {}  # by machine id
        self._dialled: dict[str, Machine] = {}
        self._hosts: dict[str, Host] = {}
        self._places: dict[Machine, Launched] = {}
        self._timeline = Timeline()
        self._presence: Presence | None = None
        self._pid = os.getpid()
        self._closing = threading.Lock()  # taken once, by whoever shuts it down first
        self._closer = 0  # the thread that did
        self._has_ended = threading.Event()
        self.name = name

    @classmethod
    def open(
        cls,
        system: System,
        name: str = "",
        *,
        limit: int = DEFAULT_LIMIT,
        threads: int = DEFAULT_THREADS,
        output: OutputTarget = "stream",
        events: EventTarget | None = None,
        dumps: str = "",
        control: bool = True,
        is_prepared: bool = False,
    ) -> Session:
        """Begin a driver's session on a system.

        `limit`: bytes of one call's arguments or result. `threads`: for plain methods, on each machine. `output`: where
        goes what machines print ("stream", "off", a folder, a function). `events`: a file or a function for `Event`s.
        `dumps`: the folder for what machines hold that run short of memory; "": one for temporary files. `control`:
        whether `bigmachine` on this user's command line finds the session. `is_prepared`: the system has been claimed
        for this session and prepared; it is shut down if this fails.

        Raises: ProvisionError if the system cannot work here; InvalidCall if `output` or `events` cannot, or if this is
        a machine's process whose program has not come to `bigmachine.init` yet.
        """
        check_place()
        from bigmachine.session.events import events_to
        from bigmachine.session.output import display_for
        from bigmachine.trust import Authority

        session_id = os.urandom(4).hex()
        is_claimed = is_prepared
        try:
            display = display_for(output, name)
            take_event = None if events is None else events_to(events)
            if not is_claimed:
                system.claim()
                is_claimed = True
                system.prepare()
            # Its processes start now; making the authority, which imports `cryptography`, takes as long.
            authority = Authority(session_id)
            identity = authority.issue(Role.DRIVER, "driver")
            entry = detect()
            session = cls(
                session_id,
                Reactor.in_thread(),
                identity,
                Codec(by_value=entry.by_value, limit=limit),
                name=name,
                threads=threads,
                system=system,
                authority=authority,
                entry=entry,
                display=display,
                take_event=take_event,
                dumps=dumps,
            )
        except BaseException:
            if is_claimed:
                system.shutdown(_LEAST)
            raise
        receive_with(session_id, session._receive)
        atexit.register(session.shutdown)
        if control:
            from bigmachine.session.presence import Presence

            session._presence = Presence.announce(session)
        return session

    @classmethod
    def on_machine(cls, identity: Identity, reactor: Reactor, codec: Codec, *, name: str) -> Session:
        """Make a machine's own session."""
        session = cls(identity.session, reactor, identity, codec, name=name)
        receive_with(identity.session, session._receive)
        return session

    # what it is

    @functools.cached_property
    def _display(self) -> Display:
        """Show nothing, as a machine does; a driver's session has another."""
        from bigmachine.session.output import Display, Nowhere

        return Display(Nowhere())

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
        known = [*self._owned.values(), *self._dialled.values()]
        return [machine for machine in known if machine.state is not State.STOPPED]

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
        system, authority, entry = self._system, self._authority, self._entry
        if system is None or authority is None or entry is None:
            raise InvalidCall("a machine cannot start machines: do it in the driver, and send their handles")
        from bigmachine.session.order import Order, checked_count

        count = checked_count(n)
        self._check_open()
        order = Order.take(services, environ, args, image, entry)
        order = replace(order, limit=self._codec.limit, threads=self._threads)
        cargo, digest = None, ""
        if system.is_bare:
            from bigmachine.session.shipping import loaded

            cargo, digest = loaded(system, order, image, count)
        places = self._launch(system, self._ticket(authority, digest), count)
        if cargo is not None:
            cargo.expect(len({place.agent_id for place in places}))
        owners: list[Owner] = []
        try:
            for place in places:
                owners.append(self._place(system, authority, place, order, cargo))
                self._reactor.post(self._starts, owners[-1].machine)
            for owner in owners:
                owner.begin()
            self._check_open()  # a shutdown in the meantime has seen the machines, or is seen here
        except BaseException as exc:
            for owner in owners:
                owner.machine.cancel()
            for place in places[len(owners) :]:
                self._release(place)
            if isinstance(exc, RuntimeError):
                self._check_open()  # the event loop has ended
            raise
        return [owner.machine for owner in owners]

    def _launch(self, system: System, ticket: Ticket, count: int) -> list[Launched]:
        """Have the system provide places; fewer than asked for are told of."""
        places = list(system.launch(count, ticket))
        if not places:
            raise ProvisionError(f"the system {system.name!r} started no machine; {count} were asked for")
        if len(places) < count:
            _log.warning(
                "the system %r started %d of %d machines: it has no more for now; go on with these, or start the "
                "others later",
                system.name,
                len(places),
                count,
            )
        return places

    def _ticket(self, authority: Authority, digest: str) -> Ticket:
        def adopt(place: Launched) -> None:
            if place.path:
                self._links.tunnel(place.agent_id, place.path)
            agent = Address(place.host, place.port, place.agent_id)
            given = give_identity(self._reactor, self._links.to_bare(agent), place.agent_id, authority.sign)
            try:
                self._reactor.run(given, _ADOPTION)
            except TimeoutError as exc:
                raise NetworkError(f"the agent at {agent} did not take an identity within {_ADOPTION:.0f} s") from exc

        return Ticket(
            *(self._id, self.name, authority.issue, self._reactor, self._guest, adopt, digest),
            *reading(self._hosts),
            tell=partial(self._reactor.post, self._display.starting),
        )

    def _place(self, system: System, authority: Authority, place: Launched, order: Order, cargo: Cargo | None) -> Owner:
        address = Address(place.host or system.name, place.port, f"{place.agent_id}-m{next(self._numbers)}")
        if place.dialer is not None:
            self._links.lead(place.agent_id, place.dialer)
        identity = authority.issue(Role.MACHINE, address.machine_id)
        spec = order.spec(address, identity, self.name, system.name, place.maxprocs)
        host = self._host(address.agent)
        program = self._links.to_program(address, by_value=order.entry.by_value)
        machine = Machine(
            address,
            self._id,
            program=program,
            agent=host.link,
            hostname=place.hostname,
            maxprocs=place.maxprocs,
            services=order.names,
        )
        settle = None
        if place.runtime is not None and cargo is not None:
            tells = partial(self._sent, machine.name), partial(self._rest, machine)
            settle = cargo.settling(host.link, place, *tells)
        owner = Owner(
            machine, host, program, spec, order.services, system.keepalive, self, settle, self._fate(system, place)
        )
        program.judge_with(owner.verdict)
        machine.watch(self._follow)
        for step, began in place.steps:
            self._timeline.enter(machine.name, step, began)
        if place.steps:
            self._timeline.sent(machine.name, place.sent)
        self._places[machine] = place  # first, or a shutdown in between would not release it
        self._owned[address.machine_id] = machine
        return owner

    @staticmethod
    def _fate(system: System, place: Launched) -> Fate | None:
        """Give the way to ask what became of a place; None if the system never knows."""
        if type(system).fate is System.fate:
            return None
        return lambda is_sure: asyncio.to_thread(system.fate, place, is_sure)

    def _host(self, agent: Address) -> Host:
        host = self._hosts.get(agent.agent_id)
        if host is None:
            host = self._hosts.setdefault(
                agent.agent_id, Host(agent.agent_id, self._links.to_agent(agent), self._is_crowded)
            )
        return host

    def dial(self, address: str) -> Machine:
        """Return a handle on a machine that somebody else owns: pinged, not kept alive. One handle an address.

        The address of a machine of this session's own gives its own handle.

        Raises: InvalidCall if the address is malformed.
        """
        return self._receive(address, "", 1, is_young=False)

    def _receive(self, text: str, hostname: str, maxprocs: int, is_young: bool) -> Machine:
        address = Address.parse(text)
        ident = address.machine_id
        while True:
            known = self._owned.get(ident) or self._dialled.get(ident)
            if known is not None and known.state is not State.STOPPED:
                return known
            self._check_open()
            if self._dialled.get(ident) is known:
                self._dialled.pop(ident, None)
            pinger = self._pinger(address, hostname, maxprocs, is_young)
            if self._dialled.setdefault(ident, pinger.machine) is pinger.machine:  # else another thread was faster
                pinger.begin()
                return pinger.machine

    def _pinger(self, address: Address, hostname: str, maxprocs: int, is_young: bool) -> Pinger:
        agent = self._links.to_agent(address.agent)
        program = self._links.to_program(address, by_value=self._codec.by_value)
        machine = Machine(
            address, self._id, program=program, agent=agent, hostname=hostname or address.host, maxprocs=maxprocs
        )
        clocks = self._keepalive if self._system is None else self._system.keepalive
        pinger = Pinger(machine, program, agent, clocks, is_young=is_young)
        program.judge_with(pinger.verdict)
        machine.watch(self._follow)
        return pinger

    def _guest(self, machine_id: str, inside: MakeDialer) -> Session:
        """Make the session of a machine inside this process."""
        assert self._authority is not None
        assert self._system is not None
        return Session(
            self._id,
            self._reactor,
            self._authority.issue(Role.MACHINE, machine_id),
            self._codec,
            name=self.name,
            inside=inside,
            keepalive=self._system.keepalive,
        )

    # what happens to machines

    def wrote(self, machine: Machine, stream: str, data: bytes) -> None:
        """A machine has written something."""
        self._display.wrote(machine.name, stream, data)

    def _is_crowded(self) -> bool:
        return self._display.is_crowded

    def shown(self, timeout: float) -> None:
        """Wait until what machines have written is shown."""
        self._display.wait(min(timeout, _SHOWING))

    def _starts(self, machine: Machine) -> None:
        self._display.begin(machine.name)
        if self._presence is not None:
            self._presence.changed()
        if self._events is not None:
            self._events.start(machine)

    def _runs(self, machine: Machine) -> None:
        self._display.up(machine.name)
        if self._presence is not None:
            self._presence.changed()
        if self._events is not None:
            self._events.alive(machine)

    def _sent(self, name: str, size: int) -> None:
        """So many bytes of the program have been sent for a starting machine."""
        self._timeline.sent(name, size)
        self._display.starting(name, progress(Phase.SHIPPING.value, size))

    def _rest(self, machine: Machine, size: int, is_over: bool) -> None:
        """So many bytes of what the program does not need at once have been sent since the machine began."""
        goes_on = self._timeline.rest(machine.name, size, time.time(), is_over=is_over)
        if machine.state is State.RUNNING:  # until then it is told what it does
            self._display.starting(machine.name, progress(REST, size) if goes_on else "")

    def _follow(self, machine: Machine) -> None:
        if machine.owned and machine.state in (State.RUNNING, State.STOPPED):
            self._timeline.enter(machine.name, UP if machine.state is State.RUNNING else DOWN, time.time())
        if machine.state is State.RUNNING and machine.owned:
            self._reactor.post(self._runs, machine)
        elif machine.state is State.STOPPED and self._dialled.get(machine.machine_id) is machine:
            self._dialled.pop(machine.machine_id, None)

    def timeline(self) -> list[Span]:
        """Return every phase of every machine's start, with its time and the bytes that were sent for it."""
        return self._timeline.spans()

    def cost(self) -> Receipt | None:
        """Return what its machines cost, an hour and altogether so far; None where they cost nothing.

        `cost().of(machine.machine_id)` is what one machine's host costs.
        """
        return None if self._system is None else self._system.cost()

    def phase(self, machine: Machine, phase: Phase) -> None:
        """A starting machine has got further."""
        self._timeline.enter(machine.name, phase.value, time.time())
        if self._system is not None and self._system.is_bare:
            self._display.starting(machine.name, phase.value)
        if phase is Phase.INITIALISING:
            self._display.show(machine.name)

    def short_of_memory(self, machine: Machine, event: MemoryShort) -> None:
        """The memory that a machine takes the most of is nearly used up."""
        warn(machine.name, event)

    def dumped(self, machine: Machine, event: Dumped) -> None:
        """What a machine holds that is short of memory has come."""
        self._display.do(lambda: self._dumps.save(machine.name, event))

    def noticed(self, machine: Machine, event: Noticed) -> None:
        """The provider will take a machine's host back."""
        left = event.notice.end - time.time()
        text = f"{event.notice.detail}, in {left:.0f} s"
        self._display.do(partial(_log.warning, "machine %s (%s): %s", machine.name, machine.address, text))
        if self._events is not None:
            self._events.notice(machine, text)

    def halted(self, machine: Machine, event: Halted) -> None:
        """A machine's program waits in `breakpoint()` for somebody to come."""
        text = f"machine {machine.name} waits in breakpoint() at {event.halt.where}: bigmachine pdb {machine.name}"
        self._display.do(partial(_log.warning, "%s", text))
        self._prompt.halted(machine, event.halt)

    @functools.cached_property
    def _prompt(self) -> Prompt:
        """The debugger's prompt at this program's terminal."""
        from bigmachine.session.prompt import Prompt

        return Prompt(self)

    def stopped(self, machine: Machine) -> None:
        """An owned machine has stopped, and its last output has come."""
        error = machine.error
        cause = error.certificate.cause if isinstance(error, MachineStopped) else ""
        is_wanted = cause in (Cause.SHUTDOWN, Cause.CANCELLED)
        self._display.end(machine.name, has_failed=not is_wanted)
        if self._events is not None:
            self._events.stopped(machine, error)
        if self._presence is not None:
            self._presence.stopped(machine)
        self._owned.pop(machine.machine_id, None)
        place = self._places.pop(machine, None)
        level = logging.DEBUG if is_wanted else logging.WARNING
        # After its last output, and where a handler of the program's may take its time.
        self._display.do(partial(_log.log, level, "%s: machine stopped with error %s", machine.address, error))
        if place is not None:
            self._release(place)

    def _release(self, place: Launched) -> None:
        if self._system is None:
            return
        try:
            self._system.release(place)
        except Exception:  # noqa: BLE001 (the System may be anybody's)
            _log.exception("the system %r failed to release a machine", self._system.name)

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
        if self._closing.locked():
            raise BigmachineError(f"the session {self.name or self._id} was shut down; start a new one")

    def shutdown(self, timeout: float = 20.0) -> None:
        """End all machines that this session owns, wait for their last output, release what the system holds.

        Bounded by `timeout` seconds (and two for the system). Safe to call twice, from several threads (all of them
        wait), from `atexit` and from a signal's handler. On a machine it only lets go of what was dialled.
        """
        if self._pid != os.getpid():
            return  # a fork of the driver that ends, as by atexit: the machines are not its own
        if self._reactor.is_here:
            raise BigmachineError("Session.shutdown() waits: call it from another thread than the event loop's")
        if self._closing.acquire(blocking=False):
            self._closer = threading.get_ident()
            try:
                self._shut_down(time.monotonic() + timeout)
            finally:
                self._has_ended.set()
        elif self._closer != threading.get_ident():  # otherwise a signal's handler waited for what it interrupted
            self._has_ended.wait(timeout + _LEAST)

    def _shut_down(self, end: float) -> None:
        atexit.unregister(self.shutdown)
        self._close_pages()
        if "_prompt" in vars(self):
            self._prompt.close()
        if self._presence is not None:
            self._presence.ending()
        try:
            with contextlib.suppress(TimeoutError):
                self._reactor.run(self._end_machines(end), max(0.1, end - time.monotonic()) + _LEAST)
        finally:
            if self._presence is not None:
                self._presence.tidy()
            if self._system is not None:
                self._system.shutdown(max(_LEAST, end - time.monotonic()))
                receive_with(self._id, None)
                if self._presence is not None:
                    self._presence.end()
                self._reactor.stop()
                self._display.close(_SHOWING, max(0.0, end - time.monotonic()))

    async def _end_machines(self, end: float) -> None:
        owned = list(self._owned.values())
        keepers = [cast(Owner, machine._keeper) for machine in owned]
        results = await asyncio.gather(*(keeper.end(end) for keeper in keepers), return_exceptions=True)
        for machine, result in zip(owned, results, strict=True):
            if isinstance(result, BaseException):
                _log.error("shutting %s down failed: %r", machine.address, result)
        gone = self.leave()
        for machine in owned:
            machine.stop(gone)
        for host in list(self._hosts.values()):
            host.close(gone)

    def leave(self) -> MachineStopped:
        """Let go of what was dialled; on the event loop. Returns what that means for the handles."""
        gone = MachineStopped(DeathCertificate(Cause.SHUTDOWN, detail="the session was shut down", stopped=time.time()))
        for machine in list(self._dialled.values()):
            machine.stop(gone)
            cast(Pinger, machine._keeper).close(gone)
        return gone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._failed(error)
        if self._presence is not None:
            self._presence.because(error)
        self.shutdown()

    def __repr__(self) -> str:
        where = f"on {self._identity.id}" if self._system is None else self._system.name
        return f"<Session {self.name or self._id} {where}, {len(self.machines())} machines>"
