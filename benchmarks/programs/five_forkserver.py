"""The same as five_machines with the standard library alone: processes of its forkserver, a pipe to each."""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection


def answer(pipe: Connection) -> None:
    """Echo until the pipe is closed."""
    while (value := pipe.recv()) is not None:
        pipe.send(value)


def main() -> None:
    context = multiprocessing.get_context("forkserver")
    workers = []
    for _ in range(5):
        ours, theirs = context.Pipe()
        process = context.Process(target=answer, args=(theirs,))
        process.start()
        ours.send(1)
        workers.append((process, ours))
    for _, pipe in workers:
        pipe.recv()
    print("ready", flush=True)
    sys.stdin.read()
    for process, pipe in workers:
        pipe.send(None)
        process.join()


if __name__ == "__main__":
    main()
