"""A Supervisor's methods are counted together, however many machines come and go."""

from __future__ import annotations

from bigmachine.rpc.statistics import Statistics


def test_supervisors_of_all_machines_are_one() -> None:
    statistics = Statistics()
    for number in range(1000):
        statistics.of(f"Supervisor@h1a2b3c-m{number}.keepalive").count(0.001, False, 1, 1)
    assert list(statistics.methods) == ["Supervisor.keepalive"]
    assert statistics.snapshot()["Supervisor.keepalive"].calls == 1000


def test_other_methods_are_counted_each() -> None:
    statistics = Statistics()
    for name in ("PI.sample", "@pi:CirclePi.sample", "Supervisor.ping"):
        statistics.of(name).count(0.001, False, 1, 1)
    assert len(statistics.methods) == 3
