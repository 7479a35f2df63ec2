"""Jobs are done in order by a thread of their own, which may be held up without holding up anybody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from bigmachine.session.output.worker import CROWDED, Worker
from tests.unit.inside import eventually


class Done:
    """What a worker did, and a brake."""

    def __init__(self) -> None:
        self.jobs: list[object] = []
        self.flushed = 0
        self.pause: float | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.worker = Worker(self.flush)

    def flush(self) -> float | None:
        self.flushed = len(self.jobs)
        return self.pause

    def post(self, job: object, weight: int = 1) -> None:
        self.worker.post(weight, lambda: self.do(job))

    def do(self, job: object) -> None:
        assert self.goes_on.wait(10)
        if isinstance(job, Exception):
            raise job
        self.jobs.append(job)


@pytest.fixture
def done() -> Iterator[Done]:
    done = Done()
    yield done
    done.goes_on.set()
    done.worker.close(10, 10)
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "bigmachine-output"], "its thread is left")


def test_jobs_are_done_in_order_and_then_flushed(done: Done) -> None:
    for number in range(1000):
        done.post(number, weight=1000)
    assert done.worker.wait(10)
    assert done.jobs == list(range(1000))
    assert done.flushed == 1000


def test_posting_does_not_wait_and_too_much_is_noticed(done: Done) -> None:
    done.goes_on.clear()
    begin = time.monotonic()
    for number in range(3):
        done.post(number, weight=CROWDED // 2)
    assert time.monotonic() - begin < 5
    assert done.worker.is_crowded
    assert not done.worker.wait(0.01)
    done.goes_on.set()
    assert done.worker.wait(10)
    assert not done.worker.is_crowded


def test_what_waits_is_done_at_the_end_also_when_no_time_is_left(done: Done, caplog: pytest.LogCaptureFixture) -> None:
    done.post("last")
    done.worker.close(10, 0)
    assert done.jobs == ["last"]
    assert not caplog.records


def test_a_job_that_fails_is_told_and_the_next_is_done(done: Done, caplog: pytest.LogCaptureFixture) -> None:
    done.post(OSError("disk full"))
    done.post("next")
    assert done.worker.wait(10)
    assert done.jobs == ["next"]
    assert "disk full" in caplog.text


def test_a_flush_that_wants_to_be_called_again_is(done: Done) -> None:
    done.pause = 0.01
    done.post("first")
    assert done.worker.wait(10)
    done.flushed = -1
    eventually(lambda: done.flushed == 1, "it is not called again")


def test_closing_waits_as_long_as_something_moves(done: Done) -> None:
    done.worker.close(10, 10)
    slow = Done()

    def take_a_while(number: int) -> None:
        time.sleep(0.02)
        slow.jobs.append(number)

    for number in range(10):
        slow.worker.post(1 << 20, partial(take_a_while, number))
    slow.worker.close(0.15, 10)
    assert slow.jobs == list(range(10))


@pytest.mark.parametrize(("stall", "timeout"), [(0.05, 10.0), (10.0, 0.05)])
def test_closing_does_not_wait_for_what_stands_still(
    stall: float, timeout: float, caplog: pytest.LogCaptureFixture
) -> None:
    held = Done()
    held.goes_on.clear()
    held.post("late")
    begin = time.monotonic()
    held.worker.close(stall, timeout)
    assert 0.05 <= time.monotonic() - begin < 5
    assert "is not shown" in caplog.text
    held.post("too late")
    held.goes_on.set()
    eventually(lambda: held.jobs == ["late"], "what waited is lost")
    eventually(held.worker._end.is_set, "its thread does not end")


def test_a_job_may_wait_for_the_worker_and_close_it(done: Done) -> None:
    """A function that takes output may shut the session down."""
    done.worker.post(1, lambda: done.jobs.append(done.worker.wait(10)))
    done.worker.post(1, lambda: done.worker.close(10, 10))
    assert done.worker._end.wait(5)
    assert done.jobs == [True]


def test_one_that_was_never_used_has_no_thread(done: Done) -> None:
    assert done.worker.wait(0)
    done.worker.close(0, 0)
    assert done.worker._thread is None
