"""Looking at machines: how true a CPU profile is, what it and the counting cost, how soon a large one is there.

The truth about a workload is what it measures of itself with a clock around each of its parts. The error of a profile
is the largest difference between a part's share of the samples and its share of that time, in percentage points.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import timeit
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import measure
from measure import Goal, Options, Row, Stat

import bigmachine
from bigmachine.observe.pprof import encode
from bigmachine.observe.profile import FoldedReader, Profile
from bigmachine.rpc import Codec
from bigmachine.rpc.statistics import Statistics
from bigmachine.rpc.wire import Decoder


class Work:
    """Workloads that know where their time goes."""

    def __init__(self) -> None:
        self._served: Counter[str] = Counter()

    def python(self, seconds: float) -> dict[str, float]:
        """Spend 70, 20 and 10 % of the time in three loops."""
        return _shares(seconds, {"most": lambda: most(70), "some": lambda: some(20), "few": lambda: few(10)})

    def numpy(self, seconds: float) -> dict[str, float]:
        """Spend the time in C: matrices, sorting, exponentials."""
        import numpy as np

        rng = np.random.default_rng(1)
        matrix, line = rng.random((300, 300)), rng.random(60_000)
        steps = {"multiply": lambda: multiply(matrix), "order": lambda: order(line), "raise_e": lambda: raise_e(line)}
        return _shares(seconds, steps)

    async def serve(self, data: bytes) -> int:
        """Answer a small call, as a server does that is saturated with them: hash, add up, sort."""
        clock, spent = time.perf_counter, self._served
        begin = clock()
        digest = hashed(data)
        middle = clock()
        total = added(digest)
        end = clock()
        spent["hashed"] += middle - begin
        spent["added"] += end - middle
        total += ordered(digest)
        spent["ordered"] += clock() - end
        return total

    def served(self) -> dict[str, float]:
        """Tell how the time in `serve` was spent since the last time."""
        spent, self._served = self._served, Counter()
        return {name: value / spent.total() for name, value in spent.items()}

    def rate(self, seconds: float) -> float:
        """Give how often a loop runs in a second of processor time."""
        count, begin, end = 0, time.thread_time(), time.monotonic() + seconds
        while time.monotonic() < end:
            most(50)
            count += 1
        return count / (time.thread_time() - begin)

    def echo(self, value: int) -> int:
        return value


def _shares(seconds: float, steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    spent: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            spent[name] += time.perf_counter() - begin
    return {name: value / spent.total() for name, value in spent.items()}


def most(n: int) -> int:
    total = 0
    for number in range(n * 200):
        total += number & 7
    return total


def some(n: int) -> int:
    total = 0
    for number in range(n * 200):
        total += number & 7
    return total


def few(n: int) -> int:
    total = 0
    for number in range(n * 200):
        total += number & 7
    return total


def hashed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def added(digest: bytes) -> int:
    return sum(byte * byte for byte in digest)


def ordered(digest: bytes) -> int:
    return sorted(digest * 8)[7]


def multiply(matrix: object) -> object:
    return matrix @ matrix  # type: ignore[operator]  # an array


def order(line: object) -> object:
    import numpy as np

    return np.sort(line)  # type: ignore[call-overload]  # an array


def raise_e(line: object) -> object:
    import numpy as np

    return np.exp(line)  # type: ignore[call-overload]  # an array


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    (machine,) = session.start(1, services=[Work()], environ={"OPENBLAS_NUM_THREADS": "1"})
    machine.wait()
    return [
        *(_error(session, machine, method, options) for method in (Work.python, Work.numpy)),
        *_served(session, machine, options),
        _overhead(session, machine, options),
        _merge(),
        _beyond(session, options),
        *_counting(machine, options),
        _remote_error(),
        _imports(),
    ]


def _error(
    session: bigmachine.Session,
    machine: bigmachine.Machine,
    method: Callable[[Work, float], dict[str, float]],
    options: Options,
) -> Row:
    seconds = options.pick(8, 22)
    call = machine.submit(method, seconds + 1.5)
    profile = session.collect_profile("cpu", seconds=seconds, machines=machine).profile
    return _compared(method.__name__, profile, call.result())


def _served(session: bigmachine.Session, machine: bigmachine.Machine, options: Options) -> list[Row]:
    """Saturate the machine with calls to an async method, from a thread with 32 in flight."""
    stop = threading.Event()

    def hammer() -> None:
        data = bytes(20_000)
        while not stop.is_set():
            for call in [machine.submit(Work.serve, data) for _ in range(32)]:
                call.result()

    caller = threading.Thread(target=hammer)
    caller.start()
    time.sleep(0.5)
    machine.call(Work.served)
    profile = session.collect_profile("cpu", seconds=options.pick(8, 30), machines=machine).profile
    truth = machine.call(Work.served)
    stop.set()
    caller.join()
    # Most of the time is the server's own: too few samples are left for a share to be exact. The order has to be right.
    row = _compared("calls that saturate it", profile, truth, has_goal=False)
    ranks = "not in the right order" not in row.note
    return [row, Row("its functions in the right order (1: yes)", "x", Stat.of([float(ranks)]), goals=(_IN_ORDER,))]


_IN_ORDER = Goal("median", 1.0, at_least=True)


def _compared(what: str, profile: Profile, truth: dict[str, float], *, has_goal: bool = True) -> Row:
    seen: Counter[str] = Counter()
    for (stack, _), values in profile.samples.items():
        for frame in stack:
            if frame.function in truth:
                seen[frame.function] += values[0]
    if not seen.total():
        raise SystemExit(f"no sample of {what} was in its functions: is this computer overloaded?")
    error = max(abs(seen[name] / seen.total() - share) for name, share in truth.items()) * 100
    shares = ", ".join(f"{name} {seen[name] / seen.total():.3f} of {share:.3f}" for name, share in truth.items())
    ranking = (
        "" if [*sorted(truth, key=lambda name: -truth[name])] == [name for name, _ in seen.most_common()] else "not "
    )
    note = f"{seen.total()} samples: {shares}; {ranking}in the right order"
    name = f"error of a CPU profile, {what}, in points"
    return Row(name, "x", Stat.of([error]), goals=(Goal("median", 3.0),) if has_goal else (), note=note)


def _overhead(session: bigmachine.Session, machine: bigmachine.Machine, options: Options) -> Row:
    """Compare the loop's rate in turns with and without somebody who samples."""

    def alone() -> list[float]:
        return [1 / machine.call(Work.rate, 1.0)]

    def sampled() -> list[float]:
        looker = threading.Thread(target=session.collect_profile, kwargs={"seconds": 2, "machines": machine})
        looker.start()
        time.sleep(0.3)
        try:
            return [1 / machine.call(Work.rate, 1.0)]
        finally:
            looker.join()

    stats = measure.take_turns(options.pick(4, 12), alone=alone, sampled=sampled)
    floor = "the same loop, not sampled"
    return Row("processor time while sampled at 100 Hz", "s", stats["sampled"], floor, stats["alone"], (_TWO_PERCENT,))


_TWO_PERCENT = Goal("ratio", 1.02)


def _merge() -> Row:
    """Read, merge and write what 64 machines of one program told in 30 s: 1500 stacks each, 25 frames deep."""
    rng = random.Random(1)
    frames = [f"Class{rng.randrange(60)}.method{n} (/usr/lib/package/module{n % 50}.py:{n})" for n in range(40_000)]
    told = [
        "\n".join(
            f'thread (0x7f{machine:02x}): "bigmachine-{n % 8}";{";".join(rng.choices(frames, k=25))} {1 + n % 30}'
            for n in range(1500)
        )
        for machine in range(4)
    ] * 16  # machines of one program, so mostly with the same stacks

    def step() -> float:
        begin = time.process_time()
        reader = FoldedReader(100)
        for number, text in enumerate(told):
            reader.read(text, {"machine": f"m{number}"})
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "cpu.pb.gz").write_bytes(encode(reader.profile))
        return time.process_time() - begin  # one thread, and nothing to wait for

    return Row("64 machines' profiles merged and written", "s", Stat.of([step() for _ in range(5)]), goals=(_SOON,))


_SOON = Goal("median", 3.0)


def _beyond(session: bigmachine.Session, options: Options) -> Row:
    """Time what a profile of four real machines takes beyond the time in which it is sampled."""
    machines = session.start(4, services=[Work()])
    for each in machines:
        each.wait()
    calls = [each.submit(Work.rate, 6.0 * options.pick(2, 4)) for each in machines]

    def step() -> list[float]:
        begin = time.perf_counter()
        session.profile("cpu", seconds=3, machines=machines)
        return [time.perf_counter() - begin - 3]

    stats = measure.take_turns(options.pick(1, 3), beyond=step)
    for each, call in zip(machines, calls, strict=True):
        call.cancel()
        each.shutdown()
    return Row("4 machines' profile, beyond its seconds", "s", stats["beyond"], goals=(_SOON,))


def _counting(machine: bigmachine.Machine, options: Options) -> list[Row]:
    counter = bigmachine.vars.counter("benchmark")
    number, clock = 200_000, time.process_time
    increments = [spent / number for spent in timeit.repeat(counter.inc, timer=clock, number=number, repeat=9)]
    # What one call costs on both sides for the counts: the two `count`s.
    stats = Statistics().of("Work.echo")
    counts = [spent / number for spent in timeit.repeat(_count(stats), timer=clock, number=number, repeat=9)]
    calls = measure.timed(lambda: machine.call(Work.echo, 1), options.pick(300, 2000))
    share = Stat.of([2 * Stat.of(counts).median / Stat.of(calls).median])
    return [
        Row("an increment of a counter", "s", Stat.of(increments), goals=(Goal("median", 300e-9),)),
        Row("counting a call, both sides, as a part of it", "x", share, goals=(Goal("median", 0.02),)),
    ]


def _remote_error() -> Row:
    """Write an error down as a machine does, and build it again as the driver does."""
    there, here = Codec(machine="m1"), Codec(machine="driver")

    def fail(depth: int, values: list[int], names: dict[str, str]) -> int:
        return fail(depth - 1, values, names) if depth else values[len(names)]

    def step() -> float:
        try:
            fail(8, list(range(5)), {str(number): "a text" for number in range(20)})
        except IndexError as error:
            begin = time.process_time()
            frame = there.error(1, error)
            decoder = Decoder(memoryview(bytearray(1 << 20)))
            decoder.buffer()[: len(frame)] = frame
            [(_, flags, _, payload, _)] = decoder.received(len(frame))
            built = here.load_error(payload, flags, "Work.fail")
            spent = time.process_time() - begin
            assert built.__traceback__ is not None
            return spent
        raise AssertionError("it did not fail")

    step()
    note = "10 frames with their variables, the codec on both sides included"
    return Row(
        "a remote exception taken and built", "s", Stat.of([step() for _ in range(200)]), goals=(_MS,), note=note
    )


_MS = Goal("median", 1e-3)
#: A session that starts a machine and calls it, and what of this it has loaded then.
_LOADED = """
import sys
import bigmachine

class Work:
    def loaded(self) -> int:
        return sum(1 for name in sys.modules if name.startswith(PARTS) and name not in LIGHT)

PARTS = ("bigmachine.observe", "bigmachine.session.seeing", "bigmachine.web", "psutil", "memray", "opentelemetry")
#: What the agent's memory watch and `Session` themselves are made of.
LIGHT = ("bigmachine.session.seeing", "bigmachine.session.seeing.sight")

with bigmachine.start("local", output="off") as session:
    machine, = session.start(services=[Work()])
    print(Work().loaded() + machine.call(Work.loaded))
"""


def _imports() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program.py")
        program.write_text(_LOADED)
        done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True, timeout=60)
    name = "modules for looking, loaded in driver and machine before anybody looks"
    return Row(name, "x", Stat.of([float(done.stdout)]), goals=(Goal("median", 0.0),))


def _count(stats: object) -> Callable[[], None]:
    count = stats.count  # type: ignore[attr-defined]  # MethodStats
    return lambda: count(1e-4, False, 50, 50)


if __name__ == "__main__":
    measure.run_in_session(figures)
