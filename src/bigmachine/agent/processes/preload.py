"""Zygotes that have imported the program's own modules, for machines to be forked off.

The library's zygote is always there and stays as it is. A machine whose program has loaded a good deal (`Preload`) is
forked off another one: itself a fork of the library's, in the machine's working directory and environment, that has
imported what the driver has. It is ready as soon as the imports are done, and all machines of one start wait for it,
since each would otherwise spend the same time by itself.

What may go wrong there must not be the machine's trouble. If the modules cannot be imported, or do something at import
that a fork does not survive (see `program.preload`), another zygote is tried with installed packages alone, and after
that none; the log says why, once. What failed then fails in the program, where it belongs, if it fails there at all.
A zygote whose modules have since been edited or removed says that it is stale, and is replaced.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from bigmachine.agent.processes.zygote import ForkRefused, Zygote

if TYPE_CHECKING:
    from bigmachine.agent.launch import LaunchSpec, Preload
    from bigmachine.agent.processes.scratch import Scratch

_log = logging.getLogger("bigmachine.agent")
#: Zygotes with modules, at once: each holds its imports in memory.
_MOST: Final = 2
#: So often a zygote may turn out stale for one machine: somebody is writing the files right now.
_ATTEMPTS: Final = 3


class Preloader:
    """Forks machines off zygotes that have their modules; `library` is the zygote that these are forked off.

    What modules put into the temporary directory at import is for all machines that share them: it is in a directory of
    the zygote's own, which stays until the agent's end if there is anything in it.
    """

    def __init__(self, library: Zygote, scratch: Scratch) -> None:
        self._library = library
        self._scratch = scratch
        self._zygotes: dict[tuple[object, ...], Zygote] = {}  # the one that was used last comes last
        self._levels: dict[Preload, int] = {}

    async def fork(self, spec: LaunchSpec, fds: tuple[int, int, int]) -> int:
        """Fork a machine that has control, stdout, stderr in `fds`, which stay the caller's; gives its pid.

        Raises:
            ForkRefused: if it cannot be forked off a zygote with modules.
        """
        for _ in range(_ATTEMPTS + 2):
            level = self._levels.get(spec.preload, 0)
            names = spec.preload.without(level)
            if not names:
                break
            zygote = self._zygote(names, spec)
            try:
                return await zygote.fork(*map(os.dup, fds))
            except ForkRefused as refusal:
                if not zygote.is_stale and self._levels.get(spec.preload, 0) == level:
                    self._levels[spec.preload] = level + 1
                    _log.warning("machines start without modules loaded beforehand: %s", refusal)
        raise ForkRefused("there is no zygote with its modules")

    def _zygote(self, names: tuple[str, ...], spec: LaunchSpec) -> Zygote:
        key = (names, spec.cwd, tuple(spec.argv), tuple(spec.sys_path), tuple(sorted(spec.environ.items())))
        zygote = self._zygotes.pop(key, None)
        if zygote is None or zygote.why_not:
            self._make_room()
            orders = {
                "modules": names,
                "cwd": spec.cwd,
                "argv": spec.argv,
                "sys_path": spec.sys_path,
                "environ": spec.environ,
                "scratch": self._scratch.assign(spec.environ, spec.cwd),
            }
            zygote = self._library.sprout(orders)
        self._zygotes[key] = zygote
        return zygote

    def _make_room(self) -> None:
        idle = [key for key, zygote in self._zygotes.items() if zygote.is_idle]
        for key in idle[: max(0, len(self._zygotes) - _MOST + 1)]:
            self._zygotes.pop(key).close()
        if len(self._zygotes) >= _MOST:
            raise ForkRefused("all zygotes with modules are busy")


__all__ = ["Preloader"]
