"""The methods of `Session` that look at its machines. Light: what they need is imported when they are called."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from bigmachine.machine import Machine
    from bigmachine.observe.vars import Reading
    from bigmachine.rpc import Reactor
    from bigmachine.session.seeing.collecting import Collected
    from bigmachine.session.seeing.triggers import Triggers
    from bigmachine.session.seeing.variables import Variables
    from bigmachine.session.session import Session
    from bigmachine.session.timeline import Span, Timeline
    from bigmachine.web import ASGIApp, ServedPages, Watch

#: Two threads that want the pages served get the same ones.
_SERVING = threading.Lock()


class Sight:
    """What a session can see of its machines."""

    name: str
    _reactor: Reactor
    _timeline: Timeline
    _variables: Variables | None = None
    _triggers: Triggers | None = None
    _served: ServedPages | None = None
    _watch: Watch | None = None  # of all its pages together

    if TYPE_CHECKING:  # the session has them

        @property
        def is_driver(self) -> bool: ...

        def machines(self) -> list[Machine]: ...

        def timeline(self) -> list[Span]: ...

    def profile(
        self,
        kind: str = "cpu",
        *,
        seconds: float | None = None,
        machines: Iterable[Machine | str] | Machine | str | None = None,
        format: str = "pprof",  # noqa: A002 (what it is called everywhere)
        driver: bool = False,
        debug: int = 0,
        **options: Any,
    ) -> bytes:
        """Collect a profile of all machines at once, merged, with the label `machine` on every sample.

        `kind`: "cpu", "gil", "heap", "goroutine" (stacks of threads and tasks), "mutex" (waits for locks).
        `seconds`: how long to sample ("cpu", "gil": 30 if nobody says), or to note allocations ("heap").
        `machines`: handles, names or addresses. `driver`: this process, too.
        `format`: "pprof", "folded", "speedscope", "svg" or "text". `debug`: 1 or 2 for text, as at Go's pages.
        `options`: for "cpu" and "gil" `hertz`, `native`, `idle`, `nonblocking` (1 if nobody says), for "heap" `gc` and
        `mode` ("types", "tracemalloc", "memray").

        A machine that is slow, hangs or dies meanwhile is missing; the profile's comments say which, and why.

        Raises:
            InvalidCall: if there is no such profile, machine, format or option: it says what there is.
            BigmachineError: if no machine had anything to tell.
        """
        from bigmachine.session.seeing.formats import check_format, rendered

        written = check_format(format, debug)
        collected = self.collect_profile(kind, seconds=seconds, machines=machines, driver=driver, **options)
        return rendered(collected, written, debug)

    def collect_profile(
        self,
        kind: str = "cpu",
        *,
        seconds: float | None = None,
        machines: Iterable[Machine | str] | Machine | str | None = None,
        driver: bool = False,
        **options: Any,
    ) -> Collected:
        """Collect as `profile` does, and give it as a value: the merged profile, who is missing and why, the stacks.

        Raises: as `profile`.
        """
        from bigmachine.session.seeing import asking, collecting, kinds

        wanted = kinds.kind_of(kind)
        return collecting.collect(
            self._reactor,
            asking.chosen(self.machines(), machines),
            wanted,
            seconds=kinds.checked_seconds(wanted, seconds),
            options=kinds.checked_options(wanted, options),
            driver=driver,
        )

    def profiles(self) -> dict[str, str]:
        """Name the profiles that there are, with a word on each."""
        from bigmachine.session.seeing.kinds import KINDS

        return {name: kind.help for name, kind in KINDS.items()}

    def vars(self, *, driver: bool = False) -> Mapping[str, Mapping[str, Reading]]:
        """Ask all machines for their numbers: machine -> name -> reading. It takes two seconds at most.

        They are those of `bigmachine.vars`, of the process, its calls and its host, and of `prometheus_client`, if the
        program uses that. Of a machine that does not answer in time there is what it said last; the reading
        "vars.age_seconds" says how old that is. `driver`: those of this process, too, as "driver".
        """
        from bigmachine.session.seeing.variables import Variables, of_driver

        if self._variables is None:
            self._variables = Variables()
        told = self._variables.read(self._reactor, self.machines())
        return {**told, "driver": of_driver(self._reactor, self._timeline.entered())} if driver else told

    def dump(self, path: str | os.PathLike[str]) -> Path:
        """Write all that is known of the session to one zip file: status, stacks, heap, numbers, logs, versions.

        Bounded in time: machines that do not answer are noted. Readable by this user only.

        Raises:
            BigmachineError: if it cannot be written; the session goes on.
        """
        from bigmachine.session.seeing.dump import dump

        return dump(self, self._reactor, path)

    def dump_on(
        self, folder: str | os.PathLike[str], *, signum: int | None = signal.SIGUSR1, error: bool = True
    ) -> None:
        """Have a dump written to `folder` when a signal comes, and when the program ends by an error of its own.

        `signum`: the signal; None for none. `error`: whether an exception that leaves the `with` block of the session,
        or the program, is a reason. To be called in the main thread. All is as before once the session has ended.

        Raises:
            BigmachineError: if there is no such folder, and it cannot be made.
            ValueError: if a signal's handler is set in another thread than the main one.
        """
        from bigmachine.session.seeing.triggers import Triggers

        if self._triggers is not None:
            self._triggers.close()
        triggers = Triggers(Path(folder).expanduser(), self.dump)
        if signum is not None:
            triggers.at_signal(signum)
        if error:
            triggers.at_error()
        self._triggers = triggers

    def debug_app(self, *, hosts: Iterable[str] = (), token: str = "") -> ASGIApp:
        """Return an ASGI application with the diagnostic pages, to be mounted anywhere [Go: HandleDebug].

        `hosts`: the names by which browsers reach it, besides localhost and addresses; "*" allows any, which is only
        safe where another layer asks who it is. `token`: refuse whoever does not know it; without one, that other
        layer has to do so: the pages show the program's memory, output and stacks.
        """
        from bigmachine.web import debug_app

        return debug_app(cast("Session", self), hosts=hosts, token=token)

    def serve_debug(self, host: str = "127.0.0.1", port: int = 3333) -> str:
        """Serve the diagnostic pages from a thread, until the session ends; return their URL, which has a token in it.

        `port` 0: any free one. Called again, it gives the same URL.

        Raises:
            BigmachineError: if the port is taken, or the address is not this computer's.
            InvalidCall: if they are served already, at another host or port.
        """
        from bigmachine.web import ServedPages

        session = cast("Session", self)
        with _SERVING:
            session._check_open()
            if self._served is None:
                self._served = ServedPages(session, host, port)
        return self._served.url_for(host, port)

    def _close_pages(self) -> None:
        if self._triggers is not None:
            self._triggers.close()
        if self._watch is not None:
            self._watch.close()
        if self._served is not None:
            self._served.close()

    def _failed(self, error: BaseException | None) -> None:
        """Write the dump that an error is a reason for, once."""
        if self._triggers is not None:
            self._triggers.failed(error)


__all__ = ["Sight"]
