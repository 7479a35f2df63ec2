"""How sessions are told by `bigmachine ls`."""

from __future__ import annotations

from bigmachine.cli.listing import cost


def test_what_costs_an_unknown_price_does_not_look_free() -> None:
    told = {"per_hour": 0.0, "total": 0.0, "unpriced": 3}
    assert cost(told) == "$0.00 an hour, $0.00 so far and what 3 without a known price cost"
    assert cost(told, is_over=True) == "$0.00 and what 3 without a known price cost"


def test_a_record_of_an_earlier_version_has_known_prices_only() -> None:
    assert cost({"per_hour": 1.5, "total": 2.0}) == "$1.50 an hour, $2.00 so far"
