"""What a machine costs is its part of what its host does."""

from __future__ import annotations

import pytest

from bigmachine.session.seeing.costs import shares
from bigmachine.system.cost import Receipt, Use


def use(name: str, price: float | None, began: float, ended: float | None = None) -> Use:
    return Use(f"i-{name}", "c5.large", "zone", "spot", price, began, ended, agent_id=name)


def test_machines_of_one_host_share_its_price() -> None:
    receipt = Receipt((use("a", 3.6, 0.0), use("b", 0.36, 900.0)), now=1000.0)
    told = shares(receipt, ["a-m1", "a-m2", "b-m3"])
    assert told["a-m1"] == told["a-m2"] == pytest.approx((1.8, 0.5))
    assert told["b-m3"] == pytest.approx((0.36, 0.01))
    assert sum(per_hour for per_hour, _ in told.values()) == pytest.approx(receipt.per_hour)
    assert sum(so_far for _, so_far in told.values()) == pytest.approx(receipt.total)


def test_a_host_that_has_ended_costs_no_more() -> None:
    receipt = Receipt((use("a", 3.6, 0.0, ended=500.0),), now=1000.0)
    assert shares(receipt, ["a-m1"])["a-m1"] == pytest.approx((0.0, 0.5))


def test_what_has_no_price_is_left_out() -> None:
    receipt = Receipt((use("a", None, 0.0),), now=1000.0)
    assert shares(receipt, ["a-m1", "elsewhere-m2", "odd"]) == {}
