"""`start`, `init`, `is_driver`: where a program becomes a driver or one of its machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigmachine import program
from bigmachine.errors import InvalidCall

if TYPE_CHECKING:
    from bigmachine.config import Settings
    from bigmachine.rpc import Server
    from bigmachine.session.session import Session
    from bigmachine.system import System


def is_driver() -> bool:
    """Tell whether this process is the program that starts machines, rather than a machine."""
    return program.current() is None


def init() -> None:
    """Begin the machine's half here: return at once in a driver, serve and never return in a machine's process.

    For programs that do a lot before they reach `start`: what stands below this call runs in the driver only.
    """
    if not is_driver():
        program.serve(_machine_session)


def start(system: System | str | None = None, *, name: str = "") -> Session:
    """Start a session on a `System`, or on one named by a string; None means the configured default.

    In a machine's process this call serves and never returns.

    Raises: ProvisionError if there is no such system, or it cannot work here.
    """
    init()
    from bigmachine import config
    from bigmachine.system import System, create

    if system is None or isinstance(system, str):
        settings = config.load(system)
        return open_session(create(settings.system, settings.options), name, settings)
    if not isinstance(system, System):
        raise InvalidCall(f"start() takes a System or the name of one, not {system!r}")
    return open_session(system, name, config.load())


def open_session(system: System, name: str, settings: Settings) -> Session:
    """Begin a driver's session with what was configured."""
    from bigmachine.session.descriptors import occupy_standard_descriptors
    from bigmachine.session.session import Session

    occupy_standard_descriptors()
    return Session.open(system, name, limit=settings.limit, threads=settings.threads)


def _machine_session(machine: program.Boot, server: Server) -> Session:
    from bigmachine.session.session import Session

    return Session.on_machine(machine.identity, server.reactor, server.codec, name=machine.spec.session_name)
