"""What a machine's own process tells of itself, for `Supervisor.observe`; imported when it is first asked.

Everything that takes time is done in a thread of its own, so that calls go on and no thread of a pool, all of which
may be stuck, is needed. Two who ask at once are both answered.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakKeyDictionary

from bigmachine.errors import InvalidCall
from bigmachine.observe.lag import Lag
from bigmachine.observe.profile import Profile
from bigmachine.observe.stacks import Standing
from bigmachine.observe.vars import Reading

T = TypeVar("T")
#: Nobody wants to wait for longer, and a thread would be busy for so long.
_LONGEST: Final = 3600.0
#: One for each event loop that is asked about, which is one a process.
_lags: WeakKeyDictionary[asyncio.AbstractEventLoop, Lag] = WeakKeyDictionary()


class Counting(Protocol):
    """What counts the process's calls."""

    def snapshot(self) -> Mapping[str, Any]: ...


async def observe(what: str, options: Mapping[str, Any], statistics: Counting, born: float) -> object:
    """Answer `what`: "vars", "heap", "stacks", "cpu" or "mutex", each with its options.

    Raises:
        InvalidCall: if there is no such thing, or it does not take these options.
    """
    if what == "vars":
        return await _variables(statistics, born)
    if what == "stacks":
        loop = asyncio.get_running_loop()
        return await in_thread(lambda: _stacks(loop, **_fitting(_stacks, {"loop": loop}, options)))
    look = _LOOKS.get(what)
    if look is None:
        there = ", ".join(sorted([*_LOOKS, "stacks", "vars"]))
        raise InvalidCall(f"a machine cannot be observed for {what!r}: there is {there}")
    fitting = _fitting(look, {}, options)
    try:
        return await in_thread(lambda: look(**fitting))
    except ValueError as error:
        raise InvalidCall(str(error)) from error


def counts(statistics: Counting, services: Sequence[str], born: float) -> dict[str, object]:
    """Give what `Supervisor.expvars` says: the process's counts of itself; "calls" has a `MethodSnapshot` a method."""
    return {
        "calls": statistics.snapshot(),
        "services": services,
        "uptime": time.time() - born,
        "threads": threading.active_count(),
        "modules": len(sys.modules),
        "gc_collections": [generation["collections"] for generation in gc.get_stats()],
    }


def _fitting(look: Callable[..., object], given: Mapping[str, object], options: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        inspect.signature(look).bind(**given, **options)
    except TypeError as error:
        takes = ", ".join(name for name in inspect.signature(look).parameters if name not in given) or "nothing"
        raise InvalidCall(f"{error}; there is {takes}") from error
    return options


async def in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(method: Callable[[Any], None], value: object) -> None:
        if not outcome.done():
            method(value)

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 (the thread's edge: it goes to whoever waits)
            is_fit = isinstance(error, Exception) and not isinstance(error, StopIteration)
            error = error if is_fit else RuntimeError(repr(error))
            _post(loop, tell, outcome.set_exception, error)
        else:
            _post(loop, tell, outcome.set_result, result)

    threading.Thread(target=run, name="bigmachine-observe", daemon=True).start()
    return await outcome


def _post(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:  # the loop has ended, and whoever waited with it
        return


async def _variables(statistics: Counting, born: float) -> dict[str, Reading]:
    from bigmachine.observe import facts, vars  # noqa: A004 (the field's word)

    loop = asyncio.get_running_loop()
    lag = _lags.setdefault(loop, Lag())
    lag.watch(loop)
    told = facts.of_calls(statistics.snapshot())
    told["process.loop_lag_seconds"] = Reading("gauge", lag.last, help="how late the event loop was last")
    told["process.loop_lag_max_seconds"] = Reading("gauge", lag.longest, help="its latest in the last minute")

    def collect() -> dict[str, Reading]:
        # The program's own come last: nothing of ours can hide one.
        return {**facts.of_process(born), **told, **facts.of_prometheus(), **vars.read()}

    return await in_thread(collect)


def heap(*, mode: str = "", seconds: float | None = None, gc: bool = False) -> Profile:
    """Tell what this process's memory holds: by "types", or by who allocated it ("tracemalloc", "memray").

    Without a `mode` it is memray if `seconds` are given, else tracemalloc if that runs, else types. `gc`: have garbage
    collected before.

    Raises:
        InvalidCall: if there is no such mode.
        ValueError: if it cannot be had here.
    """
    from bigmachine.observe import allocations
    from bigmachine.observe.heap import take_census

    if gc:
        import gc as collector

        collector.collect()
    mode = mode or ("memray" if seconds is not None else "tracemalloc" if _is_traced() else "types")
    if mode == "types":
        return allocations.of_census(take_census(10.0))
    if mode == "tracemalloc":
        return allocations.of_tracemalloc()
    if mode == "memray":
        return allocations.of_memray(checked(seconds if seconds is not None else 10.0))
    raise InvalidCall(f"a heap cannot be told by {mode!r}: there is types, tracemalloc, memray")


def _is_traced() -> bool:
    import tracemalloc

    return tracemalloc.is_tracing()


def _stacks(loop: asyncio.AbstractEventLoop) -> list[Standing]:
    from bigmachine.observe import walker

    return walker.take([loop])


def _cpu(*, seconds: float, hertz: float = 100.0) -> Profile:
    from bigmachine.observe import sampler

    return sampler.sample(checked(seconds), min(max(1.0, hertz), 1000.0))


def _mutex() -> Profile:
    from bigmachine.observe import contention

    return contention.profile()


def checked(seconds: object) -> float:
    """Give a number of seconds.

    Raises:
        InvalidCall: if it is none that somebody could wait for.
    """
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 < seconds <= _LONGEST:
        raise InvalidCall(f"seconds={seconds!r}: it has to be a number above 0, and at most {_LONGEST:g}")
    return float(seconds) if math.isfinite(seconds) else _LONGEST


_LOOKS: Final[dict[str, Callable[..., Any]]] = {"cpu": _cpu, "heap": heap, "mutex": _mutex}

__all__ = ["Counting", "checked", "counts", "heap", "in_thread", "observe"]
