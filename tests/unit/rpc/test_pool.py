"""The pool grows for jobs that wait, not for a crowd of short ones, and up to its bound."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import cast

import pytest

from bigmachine.rpc.pool import ThreadPool
from bigmachine.rpc.reactor import Reactor

PATIENCE = 5.0


class Clock:
    """Stands for the reactor and its loop: its timers ring when the test says so."""

    def __init__(self) -> None:
        self.loop = self
        self.timers: list[Callable[[], None]] = []
        self.cancelled = 0
        self.has_ended = False

    def is_closed(self) -> bool:
        return self.has_ended

    def call_later(self, delay: float, ring: Callable[[], None]) -> Clock:
        self.timers.append(ring)
        return self

    def cancel(self) -> None:
        self.cancelled += 1
        self.timers.clear()

    def ring(self) -> None:
        (timer,) = self.timers
        self.timers.clear()
        timer()


class Job:
    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function
        self.ran = threading.Event()

    def run(self) -> None:
        try:
            self.function()
        finally:
            self.ran.set()


def make(limit: int = 256) -> tuple[Clock, ThreadPool]:
    clock = Clock()
    # Each has a name of its own: another test's threads may not have ended yet.
    return clock, ThreadPool(cast(Reactor, clock), limit, f"test-pool{next(_numbers)}")


_numbers = itertools.count()


def threads(pool: ThreadPool) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(f"{pool._name}-")]


def until(claim: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not claim():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.001)


def test_the_first_job_runs_in_a_thread_of_the_pool() -> None:
    _, pool = make()
    names: list[str] = []
    job = Job(lambda: names.append(threading.current_thread().name))
    pool.submit(job)
    assert job.ran.wait(PATIENCE)
    assert names == [f"{pool._name}-0"]
    pool.close()
    until(lambda: not threads(pool))


def test_jobs_that_wait_get_a_thread_each() -> None:
    clock, pool = make()
    together = threading.Barrier(11)
    jobs = [Job(lambda: together.wait(PATIENCE)) for _ in range(10)]
    for job in jobs:
        pool.submit(job)
    until(lambda: pool._jobs.qsize() == 9)
    clock.ring()
    assert pool.size == 10
    together.wait(PATIENCE)
    assert all(job.ran.wait(PATIENCE) for job in jobs)
    pool.close()


def test_jobs_that_call_each_other_through_the_pool_do_not_starve() -> None:
    clock, pool = make()
    inner = Job(lambda: None)
    outer = Job(lambda: inner.ran.wait(PATIENCE))
    pool.submit(outer)
    until(lambda: pool._jobs.qsize() == 0)
    pool.submit(inner)
    clock.ring()
    assert outer.ran.wait(PATIENCE)
    pool.close()


def test_many_short_jobs_are_served_by_one_thread() -> None:
    clock, pool = make()
    jobs = [Job(lambda: None) for _ in range(500)]
    for job in jobs:
        pool.submit(job)
    assert jobs[-1].ran.wait(PATIENCE)
    clock.ring()
    assert pool.size == 1
    assert clock.timers == []  # nothing waits, nobody looks
    pool.close()


def test_a_thread_that_gets_through_is_left_alone_until_it_no_longer_does() -> None:
    clock, pool = make()
    held, go = threading.Event(), threading.Event()
    pool.submit(Job(lambda: None))
    short = [Job(lambda: None) for _ in range(9)]
    for job in short:
        pool.submit(job)

    def hold() -> None:
        held.set()
        go.wait(PATIENCE)

    last = Job(lambda: None)
    pool.submit(Job(hold))
    pool.submit(last)
    assert held.wait(PATIENCE)
    clock.ring()  # one waits, but nine have been done since the last look
    assert pool.size == 1
    clock.ring()  # none since then
    assert pool.size == 2
    assert last.ran.wait(PATIENCE)
    go.set()
    pool.close()


def test_the_pool_never_has_more_threads_than_its_bound_and_still_runs_everything() -> None:
    clock, pool = make(limit=3)
    go = threading.Event()
    jobs = [Job(lambda: go.wait(PATIENCE)) for _ in range(20)]
    for job in jobs:
        pool.submit(job)
    clock.ring()
    assert pool.size == len(threads(pool)) == 3
    assert clock.timers == []
    pool.submit(Job(lambda: None))
    assert clock.timers == []  # at the bound there is nothing to look for
    go.set()
    assert all(job.ran.wait(PATIENCE) for job in jobs)
    assert pool.size == 3
    pool.close()


def test_where_the_host_has_no_more_threads_the_pool_does_with_what_it_has(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock, pool = make()
    go = threading.Event()
    pool.submit(Job(lambda: go.wait(PATIENCE)))
    waiting = [Job(lambda: None) for _ in range(3)]
    for job in waiting:
        pool.submit(job)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with caplog.at_level(logging.WARNING, "bigmachine.rpc"):
        clock.ring()
    assert pool.size == 1
    assert "1 threads only" in caplog.text
    go.set()
    assert all(job.ran.wait(PATIENCE) for job in waiting)
    pool.close()


def test_a_job_that_raises_is_logged_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    _, pool = make()

    def quit_() -> None:
        raise SystemExit(3)

    with caplog.at_level(logging.ERROR, "bigmachine.rpc"):
        pool.submit(Job(quit_))
        after = Job(lambda: None)
        pool.submit(after)
        assert after.ran.wait(PATIENCE)
    assert "a job failed" in caplog.text
    assert pool.size == 1
    pool.close()


def test_a_job_that_outlasts_its_loop_is_not_complained_about(caplog: pytest.LogCaptureFixture) -> None:
    clock, pool = make()

    def outlast() -> None:
        clock.has_ended = True
        raise RuntimeError("Event loop is closed")

    with caplog.at_level(logging.INFO, "bigmachine.rpc"):
        pool.submit(Job(outlast))
        pool.close()
        until(lambda: not threads(pool))
    assert caplog.text == ""


def test_closing_lets_what_was_submitted_run_and_then_ends_every_thread() -> None:
    clock, pool = make()
    go = threading.Event()
    jobs = [Job(lambda: go.wait(PATIENCE)) for _ in range(5)]
    for job in jobs:
        pool.submit(job)
    clock.ring()
    late = Job(lambda: None)
    pool.submit(late)
    pool.close()
    assert clock.cancelled == 1
    go.set()
    assert late.ran.wait(PATIENCE)
    until(lambda: not threads(pool))


def test_a_job_that_comes_after_closing_still_runs_and_leaves_no_thread() -> None:
    _, pool = make()
    pool.submit(Job(lambda: None))
    pool.close()
    until(lambda: not threads(pool))
    late = Job(lambda: None)
    pool.submit(late)
    assert late.ran.wait(PATIENCE)
    until(lambda: not threads(pool))


def test_an_idle_thread_keeps_nothing_of_its_last_job() -> None:
    import weakref

    _, pool = make()
    job = Job(lambda: None)
    gone = threading.Event()
    weakref.finalize(job, gone.set)
    pool.submit(job)
    assert job.ran.wait(PATIENCE)
    del job
    assert gone.wait(PATIENCE)
    pool.close()


def test_threads_that_have_nothing_to_do_are_enough_for_as_many_jobs() -> None:
    clock, pool = make()
    go = threading.Event()
    slow = [Job(lambda: go.wait(PATIENCE)) for _ in range(4)]
    for job in slow:
        pool.submit(job)
    until(lambda: pool._jobs.qsize() == 3)
    clock.ring()
    until(pool._jobs.empty)
    assert pool.size == 4
    go.set()
    until(lambda: all(tally == [1, 1] for tally in pool._tallies))
    # They are on their way to their jobs when the pool looks.
    theirs, pool._jobs = pool._jobs, queue.SimpleQueue()
    for _ in range(4):
        pool.submit(Job(int))
    clock.ring()
    assert pool.size == 4
    pool.submit(Job(int))
    clock.ring()
    assert pool.size == 5
    pool._jobs.put(None)  # for the fifth
    pool._jobs = theirs
    pool.close()
