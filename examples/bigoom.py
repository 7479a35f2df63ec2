"""Fill a machine's memory until the kernel kills it, and see what the driver gets to know of it.

    python examples/bigoom.py                             a machine on this computer that may use 256 MiB
    python examples/bigoom.py --limit 0 --bigm.system=ec2 all that the host has

Shortly before the end the driver warns, and saves what the machine held: a census of its heap and its variables. The
end itself comes as an error with a death certificate, which this program prints.

The limit, which makes it harmless, is a control group where this user may make one, and the kernel then kills as it
does when a host's memory is used up; elsewhere it is setrlimit(2), and the machine aborts when it gets no more memory.
In a group it has a wider limit by setrlimit as well, in case that the group does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bigmachine
from bigmachine import MachineStopped

log = logging.getLogger("bigoom")
MIB = 1 << 20
#: Where control groups of version 2 and 1 are, and what their limits on memory and swap are called.
GROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.swap.max"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.swappiness"),
)


class Hog:
    """The service: takes memory and keeps it."""

    def __init__(self) -> None:
        self.kept: list[bytearray] = []

    def move(self, group: str) -> None:
        """Enter a control group, with its limit.

        Raises: RuntimeError if the kernel does not agree that this process is in it now.
        """
        set_file(Path(group, "cgroup.procs"), str(os.getpid()))
        if f"/{os.path.basename(group)}\n" not in Path("/proc/self/cgroup").read_text():
            raise RuntimeError(f"{group} is no control group: use --rlimit")

    def limit(self, size: int) -> None:
        """Take at most so many bytes more, by setrlimit."""
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def fill(self, rate: int) -> None:
        """Take `rate` bytes a second for ever, or abort when there are no more, as much code in C does."""
        try:
            while True:
                self.kept.append(bytearray(MIB))
                time.sleep(MIB / rate)
        except MemoryError:
            print(f"MemoryError: no more after {len(self.kept)} MiB", file=sys.stderr, flush=True)
            os.abort()


@contextlib.contextmanager
def bounded(machine: bigmachine.Machine, limit: int, may_group: bool) -> Iterator[None]:
    """Bound what a machine may use, by a control group if possible."""
    group = make_group(limit) if may_group else None
    try:
        if limit:
            machine.call(Hog.limit, limit if group is None else 4 * limit)
        if group is not None:
            machine.call(Hog.move, str(group))
        by = "setrlimit" if group is None else "a control group"
        log.info("%s may use %s", machine.name, f"{limit // MIB} MiB, by {by}" if limit else "all there is")
        yield
    finally:
        if group is not None:
            group.rmdir()


def make_group(limit: int) -> Path | None:
    """Make a control group with this limit; None where that cannot be."""
    for root, limit_name, swap_name in GROUPS:
        group = root / f"bigoom-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            set_file(group / limit_name, str(limit))
            with contextlib.suppress(OSError):  # not every kernel counts swap
                set_file(group / swap_name, "0")
        except OSError:
            group.rmdir()
            continue
        return group
    return None


def set_file(path: Path, text: str) -> None:
    """Write to a file that is there: one that had to be made would be no control group's, and would limit nothing."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fill a machine's memory until the kernel kills it.")
    parser.add_argument("--limit", type=int, default=256, metavar="MIB", help="what it may use; 0: all (default: 256)")
    parser.add_argument("--rate", type=int, default=100, metavar="MIB", help="MiB a second (default: 100)")
    parser.add_argument("--rlimit", action="store_true", help="bound it by setrlimit, also where a group could be made")
    bigmachine.driver.add_flags(parser)
    args = parser.parse_args()
    if args.limit < 0 or args.rate < 1:
        parser.error("--limit cannot be below 0, nor --rate below 1")
    return args


args = parse_args()
logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
with bigmachine.driver.start(args) as session:
    (machine,) = session.start(1, services=[Hog()])
    machine.wait()
    # A group can be made here only, so it must be here that the machine is.
    may_group = bool(args.limit) and not args.rlimit and session.system is not None and session.system.name == "local"
    with bounded(machine, args.limit * MIB, may_group):
        try:
            machine.call(Hog.fill, args.rate * MIB)
        except MachineStopped as error:
            print(f"cause: {error.certificate.cause}")
            print(error)
            machine.shutdown()
