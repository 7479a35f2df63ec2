"""Ends by `kill -9`: of a machine in a call, to the caller's error; of the driver, to everything gone."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time

import measure
from measure import Goal, Options, Row
from program import FIVE_MACHINES, Program
from target import Target

import bigmachine

_CHILD = "kill -9 of a child process, to the end of file of a pipe that it held"


def child() -> list[float]:
    """Time what the kernel and Python need for it."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    begin = time.perf_counter()
    process.kill()
    process.stdout.read()
    took = time.perf_counter() - begin
    process.wait()
    process.stdin.close()
    process.stdout.close()
    return [took]


def machine_killed(session: bigmachine.Session) -> list[float]:
    """Time a caller's error after its machine was killed."""
    (machine,) = session.start(1, services={"Target": Target()})
    pid = machine.call(Target.pid)
    call = machine.submit(Target.sleep, 600.0)
    machine.call(Target.echo, 1)  # so the call before has arrived
    begin = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    error = call.exception(60)
    took = time.perf_counter() - begin
    if not isinstance(error, bigmachine.MachineStopped):
        raise TypeError(f"the caller got {error!r} instead of MachineStopped")
    return [took]


def figures(session: bigmachine.Session, options: Options) -> list[Row]:
    logging.getLogger("bigmachine").setLevel(logging.CRITICAL)  # it warns of each machine that is killed here
    killed = measure.take_turns(options.pick(4, 15), floor=child, machine=lambda: machine_killed(session))
    gone = measure.take_turns(
        options.pick(2, 7),
        floor=child,
        idle=lambda: [Program(*FIVE_MACHINES).kill()],
        busy=lambda: [Program(*FIVE_MACHINES, "busy").kill()],
    )
    return [
        Row(
            "machine killed, caller's MachineStopped",
            "s",
            killed["machine"],
            _CHILD,
            killed["floor"],
            (_within(0.015),),
        ),
        Row("driver killed, idle: all is gone", "s", gone["idle"], _CHILD, gone["floor"], (_within(0.3),)),
        Row("driver killed, in calls: all is gone", "s", gone["busy"], _CHILD, gone["floor"], (_within(0.3),)),
    ]


def _within(seconds: float) -> Goal:
    return Goal("median", seconds)


if __name__ == "__main__":
    measure.run_in_session(figures)
