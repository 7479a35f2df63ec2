"""Estimate pi by throwing darts on many machines: how many of them fall inside the circle?

    python examples/bigpi.py -n 1e9 --numpy                                     five processes on this computer
    python examples/bigpi.py -n 1e12 --bigm.system=ec2 --bigm.ec2type=c5.18xlarge

What happens is told on standard error, with live progress if that is a terminal; the result goes to standard output.
Every machine runs this file, too, as far as `driver.start`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import logging
import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import bigmachine
from bigmachine import Machine

log = logging.getLogger("bigpi")
CLOCK = "%Y/%m/%d %H:%M:%S"
#: A machine reports after so many samples: some ten times a second.
STRIDE, NUMPY_STRIDE = 250_000, 2_000_000
#: Progress begins with the machines and the number of samples, and advances by what one of the machines has made.
Advance = Callable[[Machine, int], None]
Begin = Callable[[list[Machine], int], Advance]


class CirclePi:
    """The service: samples points of the unit square."""

    def sample(self, n: int, use_numpy: bool = False) -> Iterator[tuple[int, int]]:
        """Sample n points; yield, again and again, how many they were and how many of these fell inside the circle."""
        count, stride = (by_numpy(), NUMPY_STRIDE) if use_numpy else (by_python(), STRIDE)
        for start in range(0, n, stride):
            made = min(stride, n - start)
            yield made, count(made)


def by_python() -> Callable[[int], int]:
    uniform = random.Random().random  # a generator of its own: several calls may run in one machine
    return lambda n: sum((uniform() - 0.5) ** 2 + (uniform() - 0.5) ** 2 < 0.25 for _ in range(n))


def by_numpy() -> Callable[[int], int]:
    import numpy as np

    rng = np.random.default_rng()

    def count(n: int) -> int:
        x, y = rng.random((2, n), dtype=np.float32) - np.float32(0.5)
        return int(np.count_nonzero(x * x + y * y < 0.25))

    return count


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Estimate pi on many machines.")
    parser.add_argument("-n", type=number, default=10_000_000, help="how many samples, such as 1e9 (default: 1e7)")
    parser.add_argument("--nmach", type=number, default=5, help="how many machines (default: 5)")
    parser.add_argument("--numpy", action="store_true", help="sample with NumPy, many times as fast")
    bigmachine.driver.add_flags(parser)
    args = parser.parse_args()
    if args.numpy and importlib.util.find_spec("numpy") is None:
        parser.error(f"--numpy needs NumPy: {sys.executable} -m pip install numpy")
    return args


def number(text: str) -> int:
    if (value := int(float(text))) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def main() -> None:
    args = parse_args()
    with bigmachine.driver.start(args) as session:  # in a machine's process this call never returns
        machines = session.start(args.nmach, services={"PI": CirclePi()})
        with live() if sys.stderr.isatty() else plain() as begin:
            log.info("waiting for machines to come online")
            for machine in machines:
                machine.wait()
                log.info("machine %s %s", machine.address, machine.state.name)
            log.info("all machines are ready")
            inside = asyncio.run(distribute(machines, args.n, args.numpy, begin(machines, args.n)))
    log.info("total=%d nsamples=%d", inside, args.n)
    print(f"pi ~ {4 * inside / args.n:.{round(math.log10(args.n))}f}")


async def distribute(machines: list[Machine], n: int, use_numpy: bool, advance: Advance) -> int:
    cores = [machine for machine in machines for _ in range(machine.maxprocs)]
    log.info("distributing work among %d cores", len(cores))

    async def follow(machine: Machine, share: int) -> int:
        total = 0
        async for made, inside in await machine.submit(CirclePi.sample, share, use_numpy):
            total += inside
            advance(machine, made)
        return total

    shares = (n // len(cores) + (core < n % len(cores)) for core in range(len(cores)))
    return sum(await asyncio.gather(*map(follow, cores, shares)))


@contextmanager
def plain() -> Iterator[Begin]:
    """Say each tenth of the way in a line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt=CLOCK)
    done = 0

    def advance(_machine: Machine, made: int, n: int) -> None:
        nonlocal done
        before, done = done, done + made
        if 10 * before // n < 10 * done // n:
            log.info("%d/%d", done, n)

    yield lambda _machines, n: partial(advance, n=n)


@contextmanager
def live() -> Iterator[Begin]:
    """Draw a bar for each machine; lines go above them."""
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    err = Console(stderr=True)
    handler = RichHandler(console=err, show_level=False, show_path=False, log_time_format=CLOCK)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err) as bars:

        def begin(machines: list[Machine], n: int) -> Advance:
            tasks = {machine.name: bars.add_task(machine.name, total=n / len(machines)) for machine in machines}
            return lambda machine, made: bars.advance(tasks[machine.name], made)

        yield begin


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
