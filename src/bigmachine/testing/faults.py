"""Faults on purpose: calls that are lost, late, cut short or cut off, by seed and by method.

The Go original has them in rpc/fault_injector.go, for the bodies of replies.

    with inject_faults(machines, seed=7, cut=0.05, methods=["PI.sample"]) as injected:
        ...
    print(injected.faults)

`methods` may be names or functions, and means the same calls either way, however they are made: by the name, by the
function, by that of a base class, by a proxy.

What happens to a call is decided by the seed and the order of the calls alone, once for each call. Faults are made
where calls leave this process, on real connections:

- drop: the call is not sent, as if the network had swallowed it; only a deadline ends it
- delay: the call is sent some time later
- truncate: a part of the call is sent, then the connection is cut; the method does not run
- cut: the call is sent, then the connection is cut; whether the method ran is not known (`NetworkError`)
"""

from __future__ import annotations

import contextlib
import enum
import functools
import random
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bigmachine.errors import InvalidCall, NetworkError
from bigmachine.machine import Machine
from bigmachine.rpc import Call, Link, name_of
from bigmachine.rpc.codec import Encoded
from bigmachine.rpc.names import ServiceNames, shown


class Fault(enum.Enum):
    """What can happen to a call."""

    DROP = "drop"
    DELAY = "delay"
    TRUNCATE = "truncate"
    CUT = "cut"


@dataclass
class Injected:
    """What was done, in order: the method, and what happened to the call. `calls` counts those that were looked at.

    A method's name has its service's; on a handle that was dialled, of calls by a function, that of its class.
    """

    faults: list[tuple[str, Fault]] = field(default_factory=list)
    calls: int = 0


class FaultInjector:
    """Decides what happens to a call, and makes it happen; one for any number of machines."""

    def __init__(
        self, seed: int, rates: dict[Fault, float], delay: tuple[float, float], methods: Iterable[str] | None
    ) -> None:
        """`methods`: wire names."""
        self._random = random.Random(seed)  # noqa: S311 (dice, to be thrown again the same way)
        self._rates = rates
        self._delay = delay
        self._methods = None if methods is None else tuple(methods)
        self.injected = Injected()
        #: The calls that were decided, by their ids in their links: one that has to wait once more comes here again.
        self._decided: weakref.WeakKeyDictionary[Link, set[int]] = weakref.WeakKeyDictionary()

    def _concerns(self, method: str, services: ServiceNames | None) -> bool:
        if self._methods is None:
            return True
        meant = _meanings(method, services)
        return any(not meant.isdisjoint(_meanings(pattern, services)) for pattern in self._methods)

    def decide(self) -> Fault | None:
        """Decide by the dice; None: nothing happens."""
        self.injected.calls += 1
        point = self._random.random()
        for fault, rate in self._rates.items():
            if point < rate:
                return fault
            point -= rate
        return None

    def __call__(self, link: Link, call: Call[Any], encoded: Encoded, *, services: ServiceNames | None = None) -> bool:
        """See a call before it is sent; True if it needs nothing more. `services`: its machine's, if they are known."""
        decided = self._decided.setdefault(link, set())
        if call.ident in decided:
            return False
        decided.add(call.ident)
        if not self._concerns(call.method, services):
            return False
        method = shown(call.method) if services is None else services.told(call.method)
        fault = self.decide()
        if fault is None:
            return False
        self.injected.faults.append((method, fault))
        if fault is Fault.DELAY:
            link.reactor.loop.call_later(self._random.uniform(*self._delay), _late, link, call, encoded)
        elif fault is Fault.CUT:
            link.pass_on(call.ident, encoded, is_now=True)  # it is to be on its way when the connection goes
            _cut(link)
        elif fault is Fault.TRUNCATE:
            whole = encoded if isinstance(encoded, bytes) else b"".join(encoded)
            # Not `randrange`: how many dice that throws depends on the length.
            link.transmit(whole[: int(self._random.random() * len(whole))], by_bulk=False)
            _cut(link)
            if link.main is not None:
                link.main.fall_silent()  # what others send until then must not make the rest of this frame
        return True


def _meanings(method: str, services: ServiceNames | None) -> frozenset[str]:
    # Of a machine that was started elsewhere: services bear the names of their classes, unless told otherwise.
    return frozenset((shown(method),)) if services is None else services.meanings(method)


def _check(methods: Iterable[str], machines: Iterable[Machine]) -> None:
    """Refuse methods that no machine has, if all are known.

    Raises: InvalidCall.
    """
    known = [machine.service_names for machine in machines]
    for method in methods:
        hint = ""
        for services in known:
            if services is None:
                return
            meant = services.meanings(method)
            if any(map(services.has, meant)):
                break
            hint = services.instead(next(iter(meant), shown(method)))
        else:
            raise InvalidCall(f"methods has {shown(method)!r}, but no machine here has such a method{hint}")


def _late(link: Link, call: Call[Any], encoded: Encoded) -> None:
    if not call.done():
        link.pass_on(call.ident, encoded)


def _cut(link: Link) -> None:
    if link.main is not None:
        # What was written leaves first: the loop gets to it before the connection goes.
        link.main.flush()
        link.main.stop_reading()  # its answer may be faster than this loop's next turn
        link.reactor.loop.call_soon(link.main.abort, NetworkError(f"a test cut the connection to {link.name}"))


@contextlib.contextmanager
def inject_faults(
    machines: Machine | Iterable[Machine],
    *,
    seed: int,
    drop: float = 0.0,
    delay: float = 0.0,
    truncate: float = 0.0,
    cut: float = 0.0,
    delay_seconds: tuple[float, float] = (0.001, 0.05),
    methods: Iterable[str | Callable[..., object]] | None = None,
) -> Iterator[Injected]:
    """Let calls to `machines` meet faults inside the block.

    `drop`, `delay`, `truncate` and `cut` are rates from 0 to 1; `delay_seconds` is from how long to how long. `methods`
    are the names ("Service.method") or functions that are concerned, however they are called; None means all calls of
    services. Of a handle that was dialled the services are not known: a name then means calls by a function as well
    only if the service bears the name of the function's class.

    Raises: InvalidCall if the rates are no rates, or add up to more than 1; if no machine has such a method.
    """
    rates = {Fault.DROP: drop, Fault.DELAY: delay, Fault.TRUNCATE: truncate, Fault.CUT: cut}
    if any(not 0 <= rate <= 1 for rate in rates.values()) or sum(rates.values()) > 1:
        raise InvalidCall(
            f"the rates {drop}, {delay}, {truncate}, {cut} have to be from 0 to 1, and at most 1 together"
        )
    concerned = [machines] if isinstance(machines, Machine) else list(machines)
    names = None if methods is None else [name_of(method) for method in methods]
    if names is not None:
        _check(names, concerned)
    injector = FaultInjector(seed, rates, delay_seconds, names)
    for machine in concerned:
        machine.tamper_with(functools.partial(injector, services=machine.service_names))
    try:
        yield injector.injected
    finally:
        for machine in concerned:
            machine.tamper_with(None)
