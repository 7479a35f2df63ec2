"""Measure how fast the disks of machines are: write a file from its beginning to its end, and read it again.

    python examples/diskbench.py                                      one machine, 64 MiB, three rounds
    python examples/diskbench.py --nmach 4 --size 4096 --dir /mnt/data --bigm.system=ec2

Written is measured until the disk has it (fsync). Before it is read, the system is asked to forget the file, so that
the disk is measured and not the memory; where that cannot be asked for, the result says "cached?".
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import bigmachine
from bigmachine import BigmachineError, Machine

MIB = 2**20
BLOCK = 4 * MIB


@dataclass(frozen=True)
class Round:
    """One round on one machine, in MiB/s."""

    written: float
    read: float
    is_cold: bool


class Disk:
    """The service: works on the disk of its machine."""

    def device(self, folder: str | None) -> str:
        """Name the device and the file system that a folder is on."""
        path, found = os.path.realpath(folder or tempfile.gettempdir()), ("?", "/", "?")
        if not os.path.exists("/proc/mounts"):
            return path
        with open("/proc/mounts", encoding="utf-8") as mounts:
            for line in mounts:
                device, place, kind = line.split()[:3]
                if os.path.commonpath([path, place]) == place and len(place) >= len(found[1]):
                    found = device, place, kind
        return f"{path} on {found[0]} ({found[2]})"

    def measure(self, folder: str | None, size: int, rounds: int) -> Iterator[Round]:
        """Write and read `size` bytes so many times; yield each round. The file is gone afterwards."""
        block = os.urandom(BLOCK)  # some disks write zeros faster than anything else
        for _ in range(rounds):
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                began = time.perf_counter()
                for left in range(size, 0, -BLOCK):
                    write_all(file.fileno(), memoryview(block)[:left])
                os.fsync(file.fileno())
                written = size / MIB / (time.perf_counter() - began)
                is_cold = forget(file.fileno())
                file.seek(0)
                buffer = bytearray(BLOCK)
                began = time.perf_counter()
                while file.readinto(buffer):
                    pass
                yield Round(written, size / MIB / (time.perf_counter() - began), is_cold)


def write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def forget(fd: int) -> bool:
    """Drop a file from the memory of its system; True if that can be asked for."""
    if not hasattr(os, "posix_fadvise"):
        return False
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the disks of machines.")
    parser.add_argument("--nmach", type=positive, default=1, help="how many machines (default: 1)")
    parser.add_argument("--size", type=positive, default=64, help="how much to write, in MiB (default: 64)")
    parser.add_argument("--rounds", type=positive, default=3, help="how many times (default: 3)")
    parser.add_argument("--dir", help="where, on each machine (default: its folder for temporary files)")
    bigmachine.driver.add_flags(parser)
    return parser.parse_args()


def measure(machine: Machine, args: argparse.Namespace) -> list[Round]:
    """Let one machine measure, and say each round as it comes."""
    print(f"{machine.name} {machine.hostname}: {machine.call(Disk.device, args.dir)}", flush=True)
    rounds = []
    for result in machine.call(Disk.measure, args.dir, args.size * MIB, args.rounds):
        rounds.append(result)
        note = "" if result.is_cold else "  cached?"
        print(f"{machine.name} {len(rounds):>5} {result.written:>14.0f} {result.read:>13.0f}{note}", flush=True)
    return rounds


def main() -> int:
    args = parse_args()
    with bigmachine.driver.start(args) as session:  # in a machine's process this call never returns
        machines = session.start(args.nmach, services=[Disk()])
        print(f"machine round   written MiB/s  read MiB/s   ({args.size} MiB each)")
        for machine in machines:  # one after the other: some of them may share a disk
            try:
                rounds = measure(machine, args)
            except (BigmachineError, OSError) as error:
                print(f"{machine.name}: {error}", file=sys.stderr)
                return 1
            written = statistics.median(each.written for each in rounds)
            read = statistics.median(each.read for each in rounds)
            print(f"{machine.name} median {written:>13.0f} {read:>13.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
