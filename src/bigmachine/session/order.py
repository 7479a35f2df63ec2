"""What `Session.start` was asked for, checked before a machine is paid for; and what that means for each machine."""

from __future__ import annotations

import logging
import operator
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import SupportsIndex

from bigmachine.agent import LaunchSpec, Preload
from bigmachine.errors import InvalidCall
from bigmachine.frozen import frozen
from bigmachine.image import Entry, Image, search_path
from bigmachine.machine import Address
from bigmachine.rpc import DEFAULT_LIMIT, DEFAULT_THREADS, Codec
from bigmachine.rpc.names import ServiceNames
from bigmachine.session import preload
from bigmachine.session import services as _services
from bigmachine.trust import Identity

#: Seconds that a `breakpoint()` waits where nobody may be looking, as in a job at night.
_UNATTENDED = 600.0


@frozen
class Order:
    """Machines of one kind: what they run, where, with which services. `added` is what was asked for of `environ`."""

    services: Mapping[str, object]
    names: ServiceNames
    environ: Mapping[str, str]
    added: Mapping[str, str]
    argv: Sequence[str]
    entry: Entry
    interpreter: Sequence[str]
    sys_path: Sequence[str]
    limit: int = DEFAULT_LIMIT
    threads: int = DEFAULT_THREADS
    preload: Preload = field(default_factory=Preload)

    @classmethod
    def take(
        cls,
        services: Mapping[str, object] | Iterable[object],
        environ: Mapping[str, str] | None,
        args: Sequence[str] | None,
        image: Image | None,
        entry: Entry,
    ) -> Order:
        """Check the arguments of `start`; `entry` is how this program is run again, if no `image` says otherwise.

        Raises: InvalidCall, ImageError.
        """
        if image is not None:
            given_image: object = image
            if not isinstance(given_image, Image):
                raise InvalidCall(f"image={image!r} is no bigmachine.Image: give one such as Image(program='other.py')")
            entry = image.entry()
            args = image.args if args is None else args
        named = _services.named(services)
        objects = _services.packed(named, Codec(by_value=entry.by_value))
        given = sys.argv[1:]
        if args is not None:
            given, entry = _checked_args(args), replace(entry, arguments=None)
        added = _checked_environ(environ or {})
        return cls(
            services=objects,
            names=ServiceNames(named),
            environ={**os.environ, **added},
            added=added,
            argv=[*(sys.argv[:1] or [""]), *given],
            entry=entry,
            interpreter=[] if image is None else image.interpreter(),
            sys_path=search_path(),
            preload=preload.chosen(dict(sys.modules)) if image is None else Preload(),
        )

    def spec(self, address: Address, identity: Identity, session: str, system: str, maxprocs: int) -> LaunchSpec:
        """Say it for one machine."""
        return LaunchSpec(
            machine_id=address.machine_id,
            name=address.name,
            identity=identity,
            argv=list(self.argv),
            environ=dict(self.environ),
            cwd=_working_directory(),
            entry=self.entry,
            sys_path=list(self.sys_path),
            session_name=session,
            driver_pid=os.getpid(),
            system_name=system,
            maxprocs=maxprocs,
            interactive=self.entry.by_value,
            interpreter=list(self.interpreter),
            limit=self.limit,
            threads=self.threads,
            breakpoint_wait=_breakpoint_wait(),
            levels=_levels(),
            preload=self.preload,
        )


def checked_count(n: SupportsIndex) -> int:
    """Return how many machines are asked for, as an int.

    Raises: InvalidCall.
    """
    try:
        count = operator.index(n)
    except TypeError:
        count = 0
    if count < 1 or isinstance(n, bool):
        raise InvalidCall(f"start({n!r}): the number of machines has to be an int of at least 1")
    return count


def _checked_args(args: Sequence[str]) -> list[str]:
    if isinstance(args, str | bytes) or not all(isinstance(arg, str) for arg in args):
        raise InvalidCall(f"args={args!r} is no sequence of strings: give one such as ['-n', '3']")
    return list(args)


def _checked_environ(environ: Mapping[str, str]) -> dict[str, str]:
    given: object = environ
    if not isinstance(given, Mapping):
        raise InvalidCall(f"environ={given!r} is no mapping from names to strings")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidCall(f"environ has {name!r}: {value!r}: both have to be strings, as in os.environ")
        if not name or "=" in name or "\0" in name + value:
            raise InvalidCall(f"environ has {name!r}: {value!r}: no system takes such a variable")
    return dict(given)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError as exc:
        raise InvalidCall(
            "the working directory was removed, and machines are to stand in the same: change it with os.chdir()"
        ) from exc


def _breakpoint_wait() -> float:
    """Say how long a `breakpoint()` on a machine waits for somebody: for ever (0), if there is a terminal to tell."""
    stream = sys.stderr
    try:
        return 0.0 if stream is not None and stream.isatty() else _UNATTENDED
    except ValueError:  # it is closed
        return _UNATTENDED


def _levels() -> dict[str, int]:
    """Give the levels that the program has set for its loggers."""
    loggers = [*logging.root.manager.loggerDict.values()]
    levels = {logger.name: logger.level for logger in loggers if isinstance(logger, logging.Logger) and logger.level}
    return {"": logging.root.level, **levels}
