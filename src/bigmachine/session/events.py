"""What happens to a session's machines, as data: for a function, or as lines of JSON in a file [Go: System.Event]."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable
from typing import Literal, Protocol

from bigmachine.errors import Cause, DeathCertificate, InvalidCall, MachineStopped
from bigmachine.frozen import frozen

_log = logging.getLogger("bigmachine")

#: Takes each event.
EventFunction = Callable[["Event"], object]
#: What `start(events=...)` takes: such a function, or the path of a file.
EventTarget = str | os.PathLike[str] | EventFunction


@frozen
class Event:
    """Something that happened to a machine.

    `kind`: "start" (it is being started), "alive" (it runs), "notice" (its provider will take its host back),
    "error" (it stopped without being told to), "stop" (it is gone; the last event of each machine). `time`: seconds
    since the epoch. `duration_s`: seconds since its "start".
    `cause`, `message` and `certificate` say why it stopped.
    """

    kind: Literal["start", "alive", "notice", "error", "stop"]
    time: float
    session: str
    system: str
    machine: str
    address: str
    duration_s: float = 0.0
    cause: str = ""
    message: str = ""
    certificate: DeathCertificate | None = None

    def to_json(self) -> str:
        """Write it as one line of JSON. Of the certificate, the last lines of output are left out."""
        fields = dataclasses.asdict(self)
        if fields["certificate"] is None:
            del fields["certificate"]
        else:
            del fields["certificate"]["last_lines"]
        return json.dumps(fields)


class Subject(Protocol):
    """The machine that something happens to."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...


class Events:
    """Makes a session's events. `post` has something done later, in order, where it may take its time."""

    def __init__(
        self, take: EventFunction, session: str, system: str, post: Callable[[Callable[[], object]], None]
    ) -> None:
        self._take = take
        self._session = session
        self._system = system
        self._post = post
        self._started: dict[str, float] = {}
        self._has_failed = False

    def start(self, machine: Subject) -> None:
        """A machine is being started."""
        self._tell(self._event("start", machine))

    def alive(self, machine: Subject) -> None:
        """It runs."""
        self._tell(self._event("alive", machine))

    def notice(self, machine: Subject, message: str) -> None:
        """Its provider will take its host back."""
        self._tell(self._event("notice", machine, Cause.PREEMPTED, message))

    def stopped(self, machine: Subject, error: BaseException | None) -> None:
        """It is gone."""
        certificate = error.certificate if isinstance(error, MachineStopped) else None
        cause = certificate.cause if certificate is not None else ""
        if cause not in (Cause.SHUTDOWN, Cause.CANCELLED):
            self._tell(self._event("error", machine, cause, _told(error, certificate), certificate))
        self._tell(self._event("stop", machine, cause, _told(error, certificate), certificate))
        self._started.pop(machine.address, None)

    def _event(
        self,
        kind: Literal["start", "alive", "notice", "error", "stop"],
        machine: Subject,
        cause: str = "",
        message: str = "",
        certificate: DeathCertificate | None = None,
    ) -> Event:
        now = time.monotonic()
        return Event(
            kind,
            time.time(),
            self._session,
            self._system,
            machine.name,
            machine.address,
            now - self._started.setdefault(machine.address, now),
            str(cause),
            message,
            certificate,
        )

    def _tell(self, event: Event) -> None:
        self._post(lambda: self._call(event))

    def _call(self, event: Event) -> None:
        try:
            self._take(event)
        except Exception:  # noqa: BLE001 (the user's function may raise anything)
            if not self._has_failed:
                self._has_failed = True
                _log.exception(
                    "the event %r of %s could not be given to whom it is for; further failures are not told",
                    event.kind,
                    event.machine,
                )


def _told(error: BaseException | None, certificate: DeathCertificate | None) -> str:
    return certificate.describe() if certificate is not None else str(error or "")


def events_to(target: EventTarget) -> EventFunction:
    """Give the function that takes events: `target` itself, or one that appends each to the file of that path.

    Raises: InvalidCall if `target` is neither, or the file cannot be written.
    """
    if isinstance(target, str | os.PathLike):
        path = os.path.expanduser(os.fspath(target))
        append = _Appender(path)
        try:
            append.write(b"")
        except OSError as error:
            raise InvalidCall(f"events cannot be written to {path!r}: {error.strerror}") from error
        return lambda event: append.write(f"{event.to_json()}\n".encode())
    given: object = target
    if not callable(given):
        raise InvalidCall(f"events={target!r}: it takes a function of one argument, or the path of a file")
    return target


class _Appender:
    """Appends to a file that only this user may read, in single writes: several sessions may share it."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)  # the program may change its working directory

    def write(self, line: bytes) -> None:
        # Opened each time: events are rare, and a file that was moved away by a log rotation is made anew.
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)
