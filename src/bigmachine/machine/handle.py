"""`Machine`: the handle through which a program uses one machine.

The handle itself decides little: its state changes by the table in `life`, `owned` and `dialled` drive it, a `Link`
carries its calls. What belongs to the Supervisor goes to the agent, everything else to the machine's program.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from sys import modules
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast, overload

from bigmachine.errors import (
    BigmachineError,
    Cause,
    DeadlineExceeded,
    DeathCertificate,
    InvalidCall,
    MachineStopped,
)
from bigmachine.machine.asked import Asked
from bigmachine.machine.life import Life, Phase, State
from bigmachine.machine.proxy import make_proxy
from bigmachine.machine.retry import has_stream, retry
from bigmachine.machine.routes import Address
from bigmachine.rpc import Call, Link, Stream, Tamper, name_of
from bigmachine.rpc.names import TRACING_API as API
from bigmachine.rpc.names import known_names
from bigmachine.rpc.waiting.direct import ELSEWHERE

if TYPE_CHECKING:
    from bigmachine.observe import DiskInfo, LoadInfo, MemInfo
    from bigmachine.rpc import MethodSnapshot
    from bigmachine.rpc.names import ServiceNames
    from bigmachine.rpc.spans import CallSpan
    from bigmachine.rpc.statistics import Tap

_log = logging.getLogger("bigmachine")
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
S = TypeVar("S")

_KEPT_REPLIES = 10
#: Bound once: in Python 3.11 looking up a member of an enumeration takes a hundredth of what a call costs its caller.
_STOPPED: Final = State.STOPPED
#: These methods of the Supervisor are the program's own: they need its classes and its memory.
_OF_THE_PROGRAM = frozenset(("Supervisor.register", "Supervisor.expvars", "Supervisor.observe"))


class Keeper(Protocol):
    """What drives a handle: an owner, or somebody who only dialled."""

    is_owner: bool

    def cancel(self) -> None: ...

    def shutdown(self, timeout: float) -> None: ...


class Arrival(Protocol):
    """Makes a handle that has arrived: see `arrive`."""

    def __call__(self, address: str, hostname: str, maxprocs: int, is_young: bool, /) -> Machine: ...


class Machine:
    """One machine of a cluster. Made by `Session.start` and `Session.dial`, never directly.

    Picklable: sent to another machine it arrives there as a dialled handle, ready to call.
    """

    def __init__(
        self,
        address: Address,
        session_id: str,
        *,
        program: Link,
        agent: Link,
        hostname: str = "",
        maxprocs: int = 1,
        services: ServiceNames | None = None,
    ) -> None:
        self._address = address
        self._session_id = session_id
        self._program = program
        #: What its services are, if it was started here.
        self.service_names = services
        if services is not None:
            program.statistics.name_by(services.told)
        self._agent = agent
        self._asked = Asked(agent)
        self._life = Life(str(address))
        self._changed = threading.Condition()
        self._reached = State.UNSTARTED  # the last state but STOPPED
        self._watchers: list[Callable[[Machine], None]] = []
        self._keeper: Keeper | None = None
        self._replies: deque[float] = deque(maxlen=_KEPT_REPLIES)
        self._lease_end: float | None = None
        self.hostname = hostname
        self.maxprocs = maxprocs
        #: When the provider will take its host back (seconds since the epoch), once it has given notice.
        self.preempted_at: float | None = None

    # what it is

    @property
    def address(self) -> str:
        """`host:port/id`: where it is, and which machine exactly."""
        return str(self._address)

    @property
    def machine_id(self) -> str:
        """The part of its address that says which machine it is, wherever that listens."""
        return self._address.machine_id

    @property
    def name(self) -> str:
        """The short name that stands before its lines of output."""
        return self._address.name

    @property
    def owned(self) -> bool:
        """Whether this process started it and keeps it alive."""
        return self._keeper is not None and self._keeper.is_owner

    @property
    def state(self) -> State:
        return self._life.state

    @property
    def phase(self) -> Phase:
        """What it is doing while it is STARTING."""
        return self._life.phase

    @property
    def error(self) -> BaseException | None:
        """Why it stopped; None before. A `MachineStopped`, with the underlying exception as its cause."""
        return self._life.error

    def wait(self, state: State = State.RUNNING, timeout: float | None = None) -> State:
        """Wait until the machine has reached `state` or a later one; return the state it is in.

        Raises: MachineStopped if it stopped without having reached `state`; DeadlineExceeded after `timeout`
            seconds, or when the `deadline()` around this passes.
        """
        self._refuse_on_loop("wait")
        state = State(state)
        end = _until(timeout)
        with self._changed:
            while self._life.state < state:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    doing = f" ({self._life.phase.value})" if self._life.state is State.STARTING else ""
                    raise DeadlineExceeded(
                        f"machine {self.name} ({self.address}) was not {state} in time: it is {self._life.state}{doing}"
                    )
                self._changed.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
            if self._reached < state < State.STOPPED:
                raise _copy_of(self._life.error)
            return self._life.state

    # calls

    @overload
    def call(
        self, method: Callable[Concatenate[Any, P], AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]: ...
    @overload
    def call(
        self, method: Callable[Concatenate[Any, P], Iterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Stream[T]: ...
    @overload
    def call(self, method: Callable[Concatenate[Any, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, method: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any: ...
    def call(self, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method, wait for its outcome and return it; waits for the machine to run, too.

        `method` is "Service.method", or the function itself (`CirclePi.sample`), which type checkers follow.

        Raises: what the method raises; MachineStopped, NetworkError, InvalidCall, DeadlineExceeded.
        """
        self._refuse_on_loop("call")
        name = name_of(method)
        if name.startswith("Supervisor.") or (API in modules and self._is_traced()):
            call = self._submit(name, args, kwargs)
        else:
            outcome = self._program.call_directly(name, args, kwargs)
            if outcome is not ELSEWHERE:
                return outcome
            call = self._submit(name, args, kwargs)
        try:
            return call.result()
        except BaseException:
            call.cancel()  # KeyboardInterrupt: without effect if the call itself has failed
            raise
        finally:
            # Otherwise an error, its traceback and this frame keep each other alive, and with them the arguments.
            del call

    @overload
    def submit(
        self, method: Callable[Concatenate[Any, P], AsyncIterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Call[Stream[T]]: ...
    @overload
    def submit(
        self, method: Callable[Concatenate[Any, P], Iterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Call[Stream[T]]: ...
    @overload
    def submit(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Call[R]: ...
    @overload
    def submit(self, method: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs) -> Call[R]: ...
    @overload
    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Call[Any]: ...
    def submit(self, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method without waiting: returns a `Call`, to be awaited or asked for its `result()`.

        What is wrong with the call itself (InvalidCall) is the outcome of the `Call`, too.
        """
        return self._submit(method, args, kwargs)

    @overload
    def retry_call(
        self, method: Callable[Concatenate[Any, P], Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    def retry_call(self, method: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def retry_call(self, method: str, /, *args: Any, **kwargs: Any) -> Any: ...
    def retry_call(self, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """`call`, again while the error is temporary, with growing pauses, until the `deadline()` around it.

        However often it is sent, it runs at most once on a machine, also if `Supervisor.exec` replaces its process
        meanwhile. With an iterator or a file as an argument there is one attempt only; a function without arguments
        that makes it is called for each.

        Raises:
            NetworkError: one that is not `temporary`, if the call was begun before and its outcome cannot be had: it is
                a stream that was lost with the connection, or its process was replaced, or newer ones took its place.
        """
        self._refuse_on_loop("retry_call")
        is_once = has_stream(args, kwargs)
        return retry(lambda key: self._submit(method, args, kwargs, key), self._rest, is_once=is_once)

    def service(self, cls: type[S], name: str | None = None) -> S:
        """Return a proxy whose methods are calls: `machine.service(CirclePi).sample(10)`.

        `name`: the service's name, needed only if several services are of this class.
        """
        return cast(S, make_proxy(self, cls, name))

    def _submit(
        self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any], key: bytes | None = None
    ) -> Call[Any]:
        try:
            try:
                name = known_names[method]
            except (KeyError, TypeError):
                name = name_of(method)
            if self._life.state is _STOPPED:
                raise _copy_of(self._life.error)
            # A function is no method of the Supervisor's. Not `name is method`: a known name may be another string.
            if isinstance(method, str) and name.startswith("Supervisor."):
                return self._supervise(name, args, kwargs)
            if API in modules and (span := self._span(name, kwargs)) is not None:
                return span.follow(self._program.submit(name, args, span.kwargs, None, key))
            return self._program.submit(name, args, kwargs, None, key)
        except BigmachineError as exc:
            call: Call[Any] = Call(0, getattr(method, "__qualname__", str(method)))
            call.fail(exc.with_traceback(None))  # that has this frame, which has the call, which has the error
            return call

    def _is_traced(self) -> bool:
        """Tell whether spans are recorded of calls that begin here."""
        from bigmachine.rpc import spans

        return spans.are_recorded()

    def _span(self, name: str, kwargs: dict[str, Any]) -> CallSpan | None:
        from bigmachine.rpc import spans

        return spans.begin(name, self.address, kwargs)

    def _rest(self, seconds: float) -> None:
        """Pause between two attempts, but not beyond the machine's end."""
        with self._changed:
            self._changed.wait_for(lambda: self._life.state is State.STOPPED, seconds)

    def _supervise(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[Any]:
        if name in _OF_THE_PROGRAM:
            return self._program.submit(name, args, kwargs)
        method = name.removeprefix("Supervisor.")
        return self._asked.submit(f"Supervisor@{self._address.machine_id}.{method}", args, kwargs)

    # its host

    def mem_info(self) -> MemInfo:
        """Return the memory of its host, within the limits of its container."""
        return cast("MemInfo", self.call("Supervisor.mem_info"))

    def disk_info(self) -> DiskInfo:
        """Return the disk that holds its temporary files."""
        return cast("DiskInfo", self.call("Supervisor.disk_info"))

    def load_info(self) -> LoadInfo:
        """Return the load averages of its host."""
        return cast("LoadInfo", self.call("Supervisor.load_info"))

    def call_statistics(self) -> dict[str, MethodSnapshot]:
        """Return what this process's calls to the machine's services have cost, by method [Go: rpc/stats.go].

        A method's name has its service's, as the machine's own counts have; on a handle that was dialled, of calls by
        a function, that of the function's class.

        The machine's own counts, of all its callers, are in `call("Supervisor.expvars")["calls"]`.
        """
        return self._program.statistics.snapshot()

    def trace_calls(self, tap: Tap | None) -> None:
        """Have `tap(method, seconds, failed)` told of this process's calls that are over; None ends that."""
        self._program.statistics.trace(tap)

    def keepalive_reply_times(self) -> list[float]:
        """Return how long the last keepalives took, in seconds, the most recent first."""
        return list(self._replies)

    @property
    def next_keepalive(self) -> float | None:
        """In how many seconds the machine has to hear of its keeper again; None if it has not yet, or is stopped."""
        if self._lease_end is None or self._life.state is State.STOPPED:
            return None
        return max(0.0, self._lease_end - time.monotonic())

    # its end

    def cancel(self) -> None:
        """Fail all pending calls and stop the handle at once; the machine cleans up by itself."""
        certificate = DeathCertificate(Cause.CANCELLED, self.name, "its handle was cancelled", stopped=time.time())
        if self.stop(MachineStopped(certificate)) and self._keeper is not None:
            self._keeper.cancel()

    def shutdown(self, timeout: float = 20.0) -> None:
        """End the machine and wait for its last output, at most `timeout` seconds. Safe to call twice.

        Raises: InvalidCall if somebody else owns it.
        """
        self._refuse_on_loop("shutdown")
        if not self.owned:
            raise InvalidCall(f"machine {self.address} is owned by somebody else: only its owner may shut it down")
        if self._life.state is not State.STOPPED and self._keeper is not None:
            self._keeper.shutdown(timeout)

    # for its keeper

    def enter(self, state: State, error: BaseException | None = None) -> bool:
        """Change the state; wakes whoever waits for it. False if it has stopped before."""
        with self._changed:
            if not self._life.enter(state, time.monotonic(), error):
                return False
            if state is not State.STOPPED:
                self._reached = state
            self._changed.notify_all()
        for watcher in list(self._watchers):
            watcher(self)
        return True

    def reach(self, phase: Phase) -> None:
        """Note a phase of the start."""
        with self._changed:
            self._life.reach(phase, time.monotonic())

    def launched(self) -> None:
        """Note that its agent has it."""
        self._asked.open()

    def stop(self, error: MachineStopped) -> bool:
        """Stop the handle, for this reason; False if it has stopped before."""
        if not self.enter(State.STOPPED, error):
            return False
        self._program.close(error)
        self._asked.close(lambda: _copy_of(error))
        return True

    def watch(self, watcher: Callable[[Machine], None]) -> None:
        """Have `watcher(machine)` called at each change of state; in the thread that changes it."""
        self._watchers.append(watcher)

    def keep(self, keeper: Keeper) -> None:
        """Say who drives this handle."""
        self._keeper = keeper

    def kept_alive(self, took: float, lease: float) -> None:
        """Note an answered keepalive."""
        self._replies.appendleft(took)
        self._lease_end = time.monotonic() + lease

    def tamper_with(self, tamper: Tamper | None) -> None:
        """Have `tamper` see each call of a service before it is sent (see `bigmachine.testing`)."""
        self._program.tamper_with(tamper)

    def _refuse_on_loop(self, what: str) -> None:
        if self._program.reactor.is_here:
            raise BigmachineError(
                f"Machine.{what}() waits, and would stop the event loop that carries its answer: "
                "in an 'async def' method use 'await machine.submit(...)'"
            )

    def __reduce__(self) -> tuple[object, ...]:
        life = self._life
        is_young = life.state < State.RUNNING and life.phase in (Phase.LAUNCHING, Phase.REACHING)
        return arrive, (self._session_id, self.address, self.hostname, self.maxprocs, is_young)

    def __repr__(self) -> str:
        error = f": {type(self._life.error).__name__}" if self._life.error is not None else ""
        phase = f" ({self._life.phase.value})" if self._life.state is State.STARTING else ""
        return f"<Machine {self.name} {self.address} {self._life.state.name}{phase}{error}>"


# Handles that arrive in a pickle need the session that they belong to here. A process has one, or a few; they are
# entered by the session itself when it begins and leave with it.
_arrivals: dict[str, Arrival] = {}


def receive_with(session_id: str, dial: Arrival | None) -> None:
    """Have handles of this session that arrive in this process made by `dial`."""
    if dial is None:
        _arrivals.pop(session_id, None)
    else:
        _arrivals[session_id] = dial


def arrive(session_id: str, address: str, hostname: str, maxprocs: int, is_young: bool) -> Machine:
    """Make the handle that a pickle stands for; `is_young`: when it was sent, its agent did not have it yet."""
    dial = _arrivals.get(session_id)
    if dial is None:
        raise InvalidCall(f"a handle of machine {address} arrived where its session is not: it can only be sent inside")
    return dial(address, hostname, maxprocs, is_young)


def _until(timeout: float | None) -> float | None:
    from bigmachine.rpc.context import get_deadline

    outer = get_deadline()
    own = None if timeout is None else time.monotonic() + timeout
    return min((end for end in (own, outer) if end is not None), default=None)


def _copy_of(error: BaseException | None) -> BaseException:
    assert isinstance(error, MachineStopped)
    copy = MachineStopped(error.certificate)
    copy.__cause__ = error.__cause__
    return copy
