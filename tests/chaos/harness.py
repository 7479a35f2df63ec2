"""Runs everything at once, keeps time, and judges every outcome."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import itertools
import logging
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

import bigmachine
from bigmachine import BigmachineError, InvalidCall, Machine, MachineStopped, Session
from tests.chaos.blows import BLOWS
from tests.chaos.operations import AWAITED, PLAIN, Dice
from tests.chaos.services import Moody, Refused, Target

#: Nothing may take longer: the longest that is due is a machine that stands still until it counts as hung, and the
#: loss of an agent, on a computer that does much else.
BOUND = 20.0
#: So many machines there should be, and more are started as others end.
WANTED = 6
CALLERS, AWAITERS, STARTERS, HITTERS = 3, 4, 3, 2


class Errors(logging.Handler):
    """Takes what a library logs that was not to happen: an exception in a callback, a task that failed unseen."""

    def __init__(self, blame: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._blame = blame

    def emit(self, record: logging.LogRecord) -> None:
        why = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        self._blame(f"logged by {record.name}: {record.getMessage()}\n{why}")


class Chaos:
    """One session's worth of it. `run` returns what was wrong."""

    def __init__(self, session: Session, seed: int) -> None:
        self._session = session
        self._seed = seed
        self._numbers = itertools.count()
        self._under_way: dict[int, tuple[float, str]] = {}
        self._machines: list[Machine] = []
        self._is_over = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest: dict[str, float] = {}

    def run(self, seconds: float) -> None:
        """Let it all happen for some time, and shut the session down in the midst of it."""
        threads = [threading.Thread(target=self._call, args=(i,), name=f"caller {i}") for i in range(CALLERS)]
        threads += [threading.Thread(target=self._start, args=(i,), name=f"starter {i}") for i in range(STARTERS)]
        threads += [threading.Thread(target=self._hit, args=(i,), name=f"hitter {i}") for i in range(HITTERS)]
        threads.append(threading.Thread(target=lambda: asyncio.run(self._await()), name="awaiter"))
        for thread in threads:
            thread.daemon = True
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._overdue():
            time.sleep(0.1)
        with self._timed("the session's shutdown"):
            self._session.shutdown()
        self._is_over.set()
        end = time.monotonic() + BOUND
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            faulthandler.dump_traceback(all_threads=True)
            self._overdue()
            self.blame(f"still running: {[thread.name for thread in threads if thread.is_alive()]}, {self._under_way}")
        for machine in self._machines:
            if machine.state is not bigmachine.State.STOPPED or not isinstance(machine.error, MachineStopped):
                self.blame(f"{machine!r} has no end")

    def blame(self, what: str) -> None:
        """Note that something was wrong; the first few are enough."""
        if len(self.wrong) < 20:
            self.wrong.append(what)
            print(f"WRONG: {what}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Keep the time of one thing, and judge its outcome."""
        number = next(self._numbers)
        began = time.monotonic()
        self._under_way[number] = began, what
        outcome = "done"
        try:
            yield
        except (MachineStopped, Refused, CancelledError, asyncio.CancelledError) as error:
            outcome = type(error).__name__
        except BigmachineError as error:
            outcome = type(error).__name__
            if isinstance(error, InvalidCall) or not str(error):
                self.blame(f"{what}: {error!r} is not what happened")
        except BaseException as error:  # noqa: BLE001 (that is what is looked for)
            outcome = "wrong"
            self.blame(f"{what}: {''.join(traceback.format_exception(error))}")
        finally:
            took = time.monotonic() - began
            del self._under_way[number]
            self.counts[f"{what}: {outcome}"] += 1
            self.longest[what] = max(took, self.longest.get(what, 0.0))
            if took > BOUND:
                self.blame(f"{what} took {took:.1f} s ({outcome})")

    def _overdue(self) -> bool:
        now = time.monotonic()
        late = [(now - began, what) for began, what in list(self._under_way.values()) if now - began > BOUND]
        if late:
            faulthandler.dump_traceback(all_threads=True)
            self.blame(f"not over: {late}; machines: {self._machines}")
        return bool(late)

    def _dice(self, what: str, i: int) -> Dice:
        dice = Dice(f"{self._seed} {what} {i}")
        dice.machines = self._machines
        return dice

    def _any(self, dice: random.Random) -> Machine | None:
        there = [m for m in list(self._machines) if m.state is not bigmachine.State.STOPPED or dice.random() < 0.02]
        if not there:
            time.sleep(0.01)
            return None
        return dice.choice(there)

    # what the threads do

    def _call(self, i: int) -> None:
        dice = self._dice("call", i)
        while not self._is_over.is_set():
            if (machine := self._any(dice)) is not None:
                operation = dice.choice(PLAIN)
                with self._timed(operation.__name__):
                    operation(machine, dice)

    async def _await(self) -> None:
        await asyncio.gather(*(self._await_one(i) for i in range(AWAITERS)))

    async def _await_one(self, i: int) -> None:
        dice = self._dice("await", i)
        while not self._is_over.is_set():
            await asyncio.sleep(0)
            if (machine := self._any(dice)) is not None:
                operation = dice.choice(AWAITED)
                with self._timed(operation.__name__):
                    await operation(machine, dice)

    def _start(self, i: int) -> None:
        dice = self._dice("start", i)
        while not self._is_over.is_set():
            if sum(machine.state is not bigmachine.State.STOPPED for machine in self._machines) >= WANTED:
                time.sleep(0.02)
                continue
            time.sleep(dice.random() / 20)
            with self._timed("start"):
                services = [Target(), Moody()] if dice.random() < 0.5 else [Target()]
                started = self._session.start(dice.randrange(1, 4), services=services)
                self._machines += started
                if dice.random() < 0.1:
                    started[0].cancel()
                elif dice.random() < 0.1:
                    started[0].shutdown()
                else:
                    started[0].wait()

    def _hit(self, i: int) -> None:
        dice = self._dice("hit", i)
        blows, weights = list(BLOWS), list(BLOWS.values())
        while not self._is_over.wait(dice.random() / 5):
            if (machine := self._any(dice)) is not None:
                [blow] = dice.choices(blows, weights)
                with self._timed(blow.__name__):
                    blow(machine, dice)
