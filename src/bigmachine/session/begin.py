"""`start`, `init`, `is_driver`: where a program becomes a driver or one of its machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bigmachine import _uncollected, program
from bigmachine.session.descriptors import occupy_standard_descriptors

if TYPE_CHECKING:
    from bigmachine.config import Settings
    from bigmachine.rpc import Server
    from bigmachine.session.events import EventTarget
    from bigmachine.session.output import OutputTarget
    from bigmachine.session.session import Session
    from bigmachine.system import System


#: For a system that could not begin to shut down.
_LEAST: Final = 2.0


def is_driver() -> bool:
    """Tell whether this process is the program that starts machines, rather than a machine."""
    return program.current() is None


def init() -> None:
    """Begin the machine's half here: return at once in a driver, serve and never return in a machine's process.

    For programs that do a lot before they reach `start`: what stands below this call runs in the driver only.
    """
    if not is_driver():
        program.serve(_machine_session)


def start(
    system: System | str | None = None,
    *,
    name: str = "",
    output: OutputTarget | None = None,
    events: EventTarget | None = None,
) -> Session:
    """Start a session on a `System`, or on one named by a string; None means the configured default.

    In a machine's process this call serves and never returns.

    `output` says where goes what machines print: "stream" (standard error), "off", the path of a folder for a file a
    machine, or a function that takes an `OutputLine`; `events` where goes what happens to them: the path of a file for
    lines of JSON, or a function that takes an `Event`. None means what is configured.

    Raises: ProvisionError if there is no such system, or it cannot work here; InvalidCall if an argument is wrong.
    """
    init()
    with _uncollected(is_driver=True):  # most of what follows is imports
        if system == "local":
            return _start_locally(name, output, events)
        from bigmachine import config
        from bigmachine.errors import InvalidCall
        from bigmachine.system import System, create

        if system is None or isinstance(system, str):
            settings = config.load(system)
            system = create(settings.system, settings.options)
            return open_session(system, name, settings, output, events, is_ours=True)
        if not isinstance(system, System):
            raise InvalidCall(f"start() takes a System or the name of one, not {system!r}")
        return open_session(system, name, config.load(), output, events)


def _start_locally(name: str, output: OutputTarget | None, events: EventTarget | None) -> Session:
    """Start a session on this computer: before all else its agent, which all else waits for; see `agent.spawned`."""
    from bigmachine.agent.spawned import SpawnedAgent

    occupy_standard_descriptors()
    agent = SpawnedAgent()
    try:
        from bigmachine import config
        from bigmachine.system import create
        from bigmachine.systems.local import LocalSystem

        settings = config.load("local")
        system = create("local", settings.options)
        assert isinstance(system, LocalSystem)
        system.take(agent)
    except BaseException:
        agent.end(_LEAST)
        raise
    return open_session(system, name, settings, output, events, is_ours=True)


def open_session(
    system: System,
    name: str,
    settings: Settings,
    output: OutputTarget | None = None,
    events: EventTarget | None = None,
    *,
    is_ours: bool = False,
) -> Session:
    """Begin a driver's session with what was configured, and what the program says itself.

    `is_ours`: nobody else has the system, which may be of no more use if this fails.
    """
    occupy_standard_descriptors()
    if is_ours:
        system.claim()
        try:
            system.prepare()  # it may start processes, which do their imports while this one does those that follow
        except BaseException:
            system.shutdown(_LEAST)
            raise
    from bigmachine.session.session import Session

    session = Session.open(
        system,
        name,
        limit=settings.limit,
        threads=settings.threads,
        output=settings.output if output is None else output,
        events=(settings.events or None) if events is None else events,
        dumps=settings.dumps,
        control=settings.control,
        is_prepared=is_ours,
    )
    if settings.dump_on:
        try:
            session.dump_on(settings.dump_on, signum=_dump_signal())
        except BaseException:
            session.shutdown(_LEAST)
            raise
    return session


def check_place() -> None:
    """Refuse a driver's session in a program that runs to become a machine: its machines would each start more.

    Raises: InvalidCall.
    """
    machine = program.current()
    if machine is None or machine.is_served:
        return
    from bigmachine.errors import InvalidCall

    raise InvalidCall(
        f"Session.open() was reached on machine {machine.spec.name}, whose program runs as the driver's did: it would "
        "start machines that start machines. Call bigmachine.init() before it, or bigmachine.start() in its place: "
        "a machine stays there, and serves"
    )


def _dump_signal() -> int | None:
    """Give the signal at which a dump is written; None, with a warning, where no handler can be set."""
    import logging
    import signal
    import threading

    if threading.current_thread() is threading.main_thread():
        return signal.SIGUSR1
    logging.getLogger("bigmachine").warning(
        "dump-on: the session begins in another thread than the main one, where no signal's handler can be set: a dump "
        "is written when an error ends the program, and not at SIGUSR1"
    )
    return None


def _machine_session(machine: program.Boot, server: Server) -> Session:
    from bigmachine.session.session import Session

    return Session.on_machine(machine.identity, server.reactor, server.codec, name=machine.spec.session_name)
