"""Systems by name: the library's own, those a program registers, and those of installed plug-ins."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bigmachine.errors import ProvisionError
from bigmachine.system.contract import System

if TYPE_CHECKING:
    from importlib import metadata

#: Makes a System from its options (`--bigm.<system><option>` and the like, without the system's name).
Factory = Callable[..., System]

ENTRY_POINTS = "bigmachine.systems"
_OWN = {
    "ec2": "bigmachine.systems.ec2:EC2System",
    "local": "bigmachine.systems.local:LocalSystem",
    "inprocess": "bigmachine.systems.inprocess:InprocessSystem",
    "ssh": "bigmachine.systems.ssh:SSHSystem",
}
#: Named by the contract, and not there yet.
_COMING = ("kubernetes", "slurm")
# The one registry of the process: `register_system` is called at import time, before there is anything to hold it.
_registered: dict[str, Factory] = {}


def register_system(name: str, factory: Factory) -> None:
    """Make a System known by a name, for `start(name)` and `--bigm.system`; options come as keyword arguments.

    Raises: ValueError if the name is taken: two systems of one name would be one too many; TypeError if `factory` can
        make nothing.
    """
    if not callable(factory):
        raise TypeError(f"the factory of system {name!r} has to be callable, such as a class; it is {factory!r}")
    if not name:
        raise ValueError("a system needs a name: it is what start() and --bigm.system choose it by")
    if name in _registered or name in _OWN:
        raise ValueError(f"a system named {name!r} exists already; choose another name")
    _registered[name] = factory


def names() -> list[str]:
    """Return every name that `create` knows, sorted."""
    return sorted({*_OWN, *_registered, *_plug_ins()})


def create(name: str, options: Mapping[str, object] | None = None) -> System:
    """Make the System of that name.

    Raises: ProvisionError if there is none, or its options are wrong.
    """
    factory = _registered.get(name) or _load(name)
    try:
        system: object = factory(**dict(options or {}))
    except TypeError as exc:
        raise ProvisionError(f"the system {name!r} does not take these options: {exc}") from exc
    if not isinstance(system, System):
        raise ProvisionError(f"the factory of system {name!r} made {system!r}, which is no bigmachine.System")
    return system


def _load(name: str) -> Factory:
    if name in _OWN:
        module, _, attribute = _OWN[name].partition(":")
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]  # our own table
    plug_in = _plug_ins().get(name)
    if plug_in is not None:
        try:
            return plug_in.load()  # type: ignore[no-any-return]  # what it makes is checked
        except (ImportError, AttributeError) as exc:
            raise ProvisionError(f"the plug-in of system {name!r} ({plug_in.value}) cannot be loaded: {exc}") from exc
    if name in _COMING:
        raise ProvisionError(f"the system {name!r} is not built yet; this version has {', '.join(names())}")
    import difflib  # for a mistake only

    known = names()
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    raise ProvisionError(f"no system is named {name!r}; {hint}")


def _plug_ins() -> dict[str, metadata.EntryPoint]:
    from importlib import metadata

    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
