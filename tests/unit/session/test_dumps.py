"""Who runs short of memory is told what happens when there is none left."""

from __future__ import annotations

import pytest

from bigmachine.agent.events import MemoryShort
from bigmachine.session.dumps import warn


def short(pool: str) -> MemoryShort:
    return MemoryShort(1, "h1-m1", 0.0, pool, used=95 << 20, limit=100 << 20, resident=90 << 20, pressure=0.0)


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        ("the host's memory", "the kernel kills a process"),
        ("the control group /a", "the kernel kills a process"),
        ("the address space of h1-m1 (RLIMIT_AS)", "it gets no more (MemoryError, or abort"),
    ],
)
def test_what_happens_depends_on_what_runs_out(pool: str, told: str, caplog: pytest.LogCaptureFixture) -> None:
    warn("m1", short(pool))
    assert told in caplog.text
    assert f"95 % of {pool} is in use (95 MiB of 100 MiB)" in caplog.text
