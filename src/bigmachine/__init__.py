"""One program that becomes its own cluster.

    with bigmachine.start("local") as session:
        machine, = session.start(1, services={"PI": CirclePi()})
        print(machine.call(CirclePi.sample, 1000))

Everything here is imported when it is first used: `import bigmachine` itself costs next to nothing.
"""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bigmachine import driver as driver
    from bigmachine import errors as errors
    from bigmachine.errors import (
        AuthenticationError,
        BigmachineError,
        DeadlineExceeded,
        DeathCertificate,
        ImageError,
        InvalidCall,
        MachineStopped,
        NetworkError,
        ProvisionError,
        RemoteError,
    )
    from bigmachine.image import Image
    from bigmachine.machine import Machine, State
    from bigmachine.observe import vars as vars  # noqa: A004 (a module, by its public name)
    from bigmachine.rpc import Call, CallInfo, Stream, current_call, deadline
    from bigmachine.session import Session, init, is_driver, start
    from bigmachine.session.events import Event
    from bigmachine.session.output import OutputLine
    from bigmachine.system import Keepalive, Launched, System, register_system


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed under the program's feet
        return ""


#: Where the program was when it first said `import bigmachine`, which only that moment can tell: a machine runs it
#: again from there, and the relative paths in its top level mean what they meant here.
_directory = _working_directory()

_WHERE = {
    "bigmachine.errors": (
        "AuthenticationError",
        "BigmachineError",
        "DeadlineExceeded",
        "DeathCertificate",
        "ImageError",
        "InvalidCall",
        "MachineStopped",
        "NetworkError",
        "ProvisionError",
        "RemoteError",
    ),
    "bigmachine.image": ("Image",),
    "bigmachine.machine": ("Machine", "State"),
    "bigmachine.rpc": ("Call", "CallInfo", "Stream", "current_call", "deadline"),
    "bigmachine.session": ("Session", "init", "is_driver", "start"),
    "bigmachine.session.events": ("Event",),
    "bigmachine.session.output": ("OutputLine",),
    "bigmachine.system": ("Keepalive", "Launched", "System", "register_system"),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}
_MODULES = ("driver", "errors", "testing")


@contextmanager
def _uncollected(*, is_driver: bool = False) -> Iterator[None]:
    """Put garbage collection off while modules are imported: it finds nothing then, and takes time.

    In a driver the next collection does not look at what was imported either, nor the one after: through the permanent
    generation it goes to the oldest one, where it would be after two of them (5 ms on the way to the first machine).
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            # What somebody has put there is to stay. In a machine that is all it shares, which takes 3 ms to count.
            if is_driver and not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


if not TYPE_CHECKING:  # or a checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        """Import a public name when it is first asked for (PEP 562)."""
        with _uncollected():
            if name in _MODULES:
                value: object = import_module(f"bigmachine.{name}")
            elif name == "vars":
                value = import_module("bigmachine.observe.vars")
            elif name in _MODULE_OF:
                value = getattr(import_module(_MODULE_OF[name]), name)
            else:
                raise AttributeError(f"module 'bigmachine' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "AuthenticationError",
    "BigmachineError",
    "Call",
    "CallInfo",
    "DeadlineExceeded",
    "DeathCertificate",
    "Event",
    "Image",
    "ImageError",
    "InvalidCall",
    "Keepalive",
    "Launched",
    "Machine",
    "MachineStopped",
    "NetworkError",
    "OutputLine",
    "ProvisionError",
    "RemoteError",
    "Session",
    "State",
    "Stream",
    "System",
    "current_call",
    "deadline",
    "driver",
    "errors",
    "init",
    "is_driver",
    "register_system",
    "start",
    "vars",
]
