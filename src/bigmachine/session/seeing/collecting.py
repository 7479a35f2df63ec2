"""Collect a profile of many machines, and merge it with a label `machine` on every sample.

All machines are asked at once. One that is slow, hangs or dies costs the others nothing: what it would have told is
missing, and the profile's comments say so. What comes is read and merged in the thread that asked, as it comes.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, cast

from bigmachine.agent.watch.pyspy import Sampling, TraceRefused
from bigmachine.errors import BigmachineError, DeadlineExceeded, InvalidCall, MachineStopped, NetworkError
from bigmachine.machine import Machine, State
from bigmachine.observe.profile import FoldedReader, Profile, rate_of
from bigmachine.observe.stacks import Standing, as_profile, from_py_spy
from bigmachine.rpc import deadline
from bigmachine.rpc.context import get_deadline
from bigmachine.session.seeing import own
from bigmachine.session.seeing.asking import ask_all, why_not
from bigmachine.session.seeing.kinds import Kind

if TYPE_CHECKING:
    from bigmachine.rpc import Reactor

#: A program that does not tell its stacks for so long is looked at from outside.
_BLOCKED: Final = 2.0
#: Those of one host are looked at one after the other, where that takes a process.
_TURN: Final = 0.1
_FROM_OUTSIDE: Final = f"it did not answer within {_BLOCKED:g} s: its threads as seen from outside, no tasks"


@dataclass(slots=True)
class Collected:
    """What was collected: `profile`, merged, with the label `machine`; who gave something, and why others did not.

    `standing`: for "goroutine", the threads and tasks of each machine.
    """

    kind: str
    profile: Profile
    taken: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    standing: dict[str, list[Standing]] = field(default_factory=dict)
    _remarks: dict[str, list[str]] = field(default_factory=dict)

    def remark(self, machine: str, comments: Sequence[str]) -> None:
        """Note what must be known of one machine's part."""
        for comment in comments:
            self._remarks.setdefault(comment, []).append(machine)

    def finish(self) -> Collected:
        """Write the comments: what is missing, and what must be known."""
        comments = [f"missing: {', '.join(names)}: {why}" for why, names in by_reason(self.missing).items()]
        for comment, names in self._remarks.items():
            comments.append(
                comment if set(names) == set(self.taken) else f"{', '.join(sorted(names, key=_place))}: {comment}"
            )
        self.profile.comments = comments
        return self


def _place(name: str) -> tuple[int, str]:
    return len(name), name  # m2 before m10


def by_reason(missing: Mapping[str, str]) -> dict[str, list[str]]:
    """Give those of whom nothing came together with the others for whom the reason is the same."""
    reasons: dict[str, list[str]] = {}
    for name in sorted(missing, key=_place):
        reasons.setdefault(missing[name], []).append(name)
    return reasons


#: Takes what one machine (its name, and what it answered) has told.
_Take = Callable[[Collected, str, Any], None]


def collect(
    reactor: Reactor,
    machines: Sequence[Machine],
    kind: Kind,
    *,
    seconds: float | None,
    options: Mapping[str, object],
    driver: bool = False,
) -> Collected:
    """Collect a profile of `machines`, and of the driver's own process if `driver`.

    Raises:
        BigmachineError: if nobody gave one.
        InvalidCall: the same, and because it was asked for in the wrong way.
        DeadlineExceeded: if the deadline around this comes before the profile can be there.
    """
    limit = (seconds or 0.0) + kind.patience + _TURN * len(machines)
    _check_time(kind, seconds)
    collection = _Collection(reactor, kind, seconds, dict(options))
    began = time.time_ns()
    mine = _in_thread(collection.of_driver) if driver else None
    result = collection.result
    errors: list[BaseException] = []
    for answer in ask_all(reactor, machines, collection.ask, limit):
        if answer.error is None:
            _taken(result, answer.machine.name, collection.take, answer.value)
        else:
            errors.append(answer.error)
            result.missing[answer.machine.name] = why_not(answer.machine, answer.error)
    if mine is not None:
        try:
            _taken(result, own.NAME, collection.take, mine.result(limit))
        except Exception as error:  # noqa: BLE001 (the driver is one of those that may have nothing to tell)
            errors.append(error)
            result.missing[own.NAME] = str(error) or type(error).__name__
    if not result.taken:
        raise _nothing(kind, result, errors)
    result.profile.began = result.profile.began or began
    result.profile.duration = result.profile.duration or round((seconds or 0.0) * 1e9)
    return result.finish()


def _check_time(kind: Kind, seconds: float | None) -> None:
    end = get_deadline()
    if end is not None and seconds is not None and end - time.monotonic() < seconds:
        raise DeadlineExceeded(f"a profile {kind.name!r} of {seconds:g} s cannot be there before the deadline")


def _taken(result: Collected, name: str, take: _Take, value: object) -> None:
    try:
        take(result, name, value)
    except ValueError as error:
        result.missing[name] = str(error)
    else:
        result.taken.append(name)


def _nothing(kind: Kind, result: Collected, errors: Sequence[BaseException]) -> BigmachineError:
    if not result.missing:
        return BigmachineError("there is no machine to be looked at")
    said = "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason(result.missing).items())
    is_ours = bool(errors) and all(isinstance(error, InvalidCall | ValueError) for error in errors)
    return (InvalidCall if is_ours else BigmachineError)(f"no profile {kind.name!r} is to be had: {said}")


def _in_thread(function: Callable[[], object]) -> Future[object]:
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 (the thread's edge: it goes to whoever waits)
            outcome.set_exception(error)

    Thread(target=run, name="bigmachine-observe", daemon=True).start()
    return outcome


class _Collection:
    """How one kind is asked for and taken."""

    def __init__(self, reactor: Reactor, kind: Kind, seconds: float | None, options: dict[str, Any]) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._options = options
        self._kind = kind
        self._reader: FoldedReader | None = None
        profile = Profile(())
        if kind.name in ("cpu", "gil"):
            native = bool(options.get("native", False))
            if native and options.get("nonblocking"):
                raise InvalidCall("frames in C (native) need the process to be stopped: leave nonblocking out")
            is_gil = kind.name == "gil" or bool(options.get("gil", False))
            self._sampling = Sampling(**{"nonblocking": not native, **options, "gil": is_gil})
            self._reader = FoldedReader(self._sampling.hertz, _measure(self._sampling))
            profile = self._reader.profile
        self.result = Collected(kind.name, profile)
        asks: dict[str, Callable[[Machine], Awaitable[object]]] = {"goroutine": self._standing, "mutex": self._mutex}
        self.ask = asks.get(kind.name) or (self._sampled if self._reader is not None else self._heap)

    # asking; on the event loop

    async def _sampled(self, machine: Machine) -> object:
        sampling = self._sampling
        switches = {name: getattr(sampling, name) for name in ("hertz", "native", "gil", "idle", "nonblocking")}
        try:
            return await machine.submit("Supervisor.cpu_profile", self._seconds, **switches)
        except TraceRefused:
            if sampling.gil or sampling.native or sampling.idle:
                raise
        return await machine.submit("Supervisor.observe", "cpu", seconds=self._seconds, hertz=sampling.hertz)

    async def _heap(self, machine: Machine) -> object:
        _refuse_young(machine)
        given = {**self._options, **({} if self._seconds is None else {"seconds": self._seconds})}
        return await machine.submit("Supervisor.observe", "heap", **given)

    async def _mutex(self, machine: Machine) -> object:
        _refuse_young(machine)
        return await machine.submit("Supervisor.observe", "mutex")

    async def _standing(self, machine: Machine) -> object:
        if machine.state is State.RUNNING:
            try:
                with deadline(_BLOCKED):
                    return await machine.submit("Supervisor.observe", "stacks")
            except (DeadlineExceeded, NetworkError):
                pass
        return await machine.submit("Supervisor.profile", "threads.json")

    # the driver's own; in a thread of its own

    def of_driver(self) -> object:
        """Ask this process the same."""
        if self._reader is not None:
            return own.sample(self._seconds or 0.0, self._sampling)
        if self._kind.name == "goroutine":
            from bigmachine.observe import walker

            return walker.take([self._reactor.loop])
        if self._kind.name == "mutex":
            from bigmachine.observe import contention

            return contention.profile()
        from bigmachine.observe import inside

        return inside.heap(seconds=self._seconds, **self._options)

    # taking; in the thread that collects

    def take(self, result: Collected, name: str, told: object) -> None:
        """Add what one machine told."""
        if self._kind.name == "goroutine":
            self._take_standing(result, name, told)
        elif isinstance(told, bytes) and self._reader is not None:
            text = told.decode(errors="replace")
            if not self._reader.read(text, {"machine": name}):
                result.remark(name, ["it used no processor time"])
            if (rate := rate_of(text)) is not None:
                result.remark(name, [f"sampled {rate} times a second: many machines of one host were sampled at once"])
        else:
            profile = cast(Profile, told)
            result.remark(name, profile.comments)
            profile.comments = []
            if not result.profile.kinds:
                result.profile.kinds = profile.kinds
            result.profile.take(profile, machine=name)

    def _take_standing(self, result: Collected, name: str, told: object) -> None:
        if isinstance(told, bytes):
            standing = from_py_spy(told)
            result.remark(name, [_FROM_OUTSIDE])
        else:
            standing = cast("list[Standing]", told)
        result.standing[name] = standing
        own_profile = as_profile(standing, machine=name)
        if not result.profile.kinds:
            result.profile.kinds = own_profile.kinds
        result.profile.take(own_profile)


def _measure(sampling: Sampling) -> str:
    return "gil" if sampling.gil else "wall" if sampling.idle else "cpu"


def _refuse_young(machine: Machine) -> None:
    """Do not wait for a program that is coming up: it may take longer than whoever looks wants to."""
    if machine.state is State.STOPPED and isinstance(machine.error, MachineStopped):
        raise machine.error
    if machine.state < State.RUNNING:
        raise BigmachineError("its program does not answer yet")


__all__ = ["Collected", "collect"]
