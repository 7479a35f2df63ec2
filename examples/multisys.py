"""Two systems at once in one program: estimate pi on both for a while, and see which made how much of it.

    python examples/multisys.py --duration 3
    python examples/multisys.py --cluster local:2 --cluster ssh:6 --bigm.hosts=a.example,b.example

Each cluster is a session of its own, on a system of its own. A machine's process belongs to one of them, so it has to
come to *its* `open_cluster` before it can serve: any of them will do, and the first one is what it meets.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import bigmachine
from bigmachine import BigmachineError, Machine, Session

#: A machine reports after so many samples.
STRIDE = 100_000


class CirclePi:
    """The service: samples points of the unit square."""

    def sample(self, seconds: float) -> Iterator[tuple[int, int]]:
        """Sample for some time; yield, again and again, how many points and how many of these were in the circle."""
        uniform = random.Random().random
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield STRIDE, sum((uniform() - 0.5) ** 2 + (uniform() - 0.5) ** 2 < 0.25 for _ in range(STRIDE))


@dataclass
class Cluster:
    """Machines of one system, and what came of them."""

    system: str
    size: int
    samples: int = 0
    inside: int = 0
    failures: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def parse(cls, text: str) -> Cluster:
        system, _, size = text.partition(":")
        if not system or not size.isdigit() or int(size) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not like local:2, a system and a number of machines")
        return cls(system, int(size))

    @property
    def estimate(self) -> float:
        return 4 * self.inside / self.samples if self.samples else math.nan

    @property
    def error(self) -> float:
        """The standard deviation of the estimate."""
        return math.sqrt(math.pi * (4 - math.pi) / self.samples) if self.samples else math.nan

    def run(self, session: Session, seconds: float) -> None:
        """Start the machines, let each sample, and shut the session down."""
        with session:
            try:
                machines = session.start(self.size, services=[CirclePi()])
            except BigmachineError as error:
                self.failures.append(f"{self.system}: {error}")
                return
            threads = [threading.Thread(target=self.follow, args=(machine, seconds)) for machine in machines]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def follow(self, machine: Machine, seconds: float) -> None:
        try:
            for made, inside in machine.call(CirclePi.sample, seconds):
                with self._lock:
                    self.samples += made
                    self.inside += inside
        except BigmachineError as error:
            self.failures.append(f"{self.system} {machine.name}: {error}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Estimate pi on several systems at once.")
    parser.add_argument(
        "--cluster",
        type=Cluster.parse,
        action="append",
        metavar="SYSTEM:N",
        help="so many machines of this system; may be given again (default: local:2 and inprocess:1)",
    )
    parser.add_argument("--duration", type=float, default=10.0, help="for how many seconds (default: 10)")
    bigmachine.driver.add_flags(parser)
    return parser.parse_args()


def open_cluster(args: argparse.Namespace, cluster: Cluster) -> Session:
    """Begin a session; in a machine's process this call never returns."""
    args.bigm_system = cluster.system
    return bigmachine.driver.start(args, name=f"{cluster.system}:{cluster.size}")


def table(clusters: list[Cluster]) -> str:
    lines = [f"{'system':<12} {'machines':>8} {'samples':>14} {'pi':>10} {'+-':>9}"]
    everything = Cluster("all", sum(cluster.size for cluster in clusters))
    for cluster in clusters:
        everything.samples += cluster.samples
        everything.inside += cluster.inside
    lines += [
        f"{row.system:<12} {row.size:>8} {row.samples:>14,} {row.estimate:>10.6f} {row.error:>9.6f}"
        for row in (*clusters, everything)
    ]
    return "\n".join(lines)


def main() -> int:
    args = parse_args()
    clusters: list[Cluster] = args.cluster or [Cluster("local", 2), Cluster("inprocess", 1)]
    sessions = [open_cluster(args, cluster) for cluster in clusters]
    threads = [
        threading.Thread(target=cluster.run, args=(session, args.duration))
        for cluster, session in zip(clusters, sessions, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(table(clusters))
    for cluster in clusters:
        for failure in cluster.failures:
            print(failure, file=sys.stderr)
    return 1 if any(cluster.failures for cluster in clusters) else 0


if __name__ == "__main__":
    sys.exit(main())
