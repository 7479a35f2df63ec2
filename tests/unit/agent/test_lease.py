"""Leases run out, once, and an agent that nobody needs any more says so; time is only an argument."""

from __future__ import annotations

import pytest

from bigmachine.agent.lease import LINGER, WAKING, Leases


def leases() -> Leases:
    return Leases(lease=10, first_contact=120, now=0)


def test_a_lease_lasts_to_its_end_and_no_longer() -> None:
    table = leases()
    table.open("m1", 0)
    assert table.expire(9.999) == []
    assert table.expire(10) == ["m1"]


def test_an_expired_lease_is_reported_once() -> None:
    table = leases()
    table.open("m1", 0)
    assert table.expire(11) == ["m1"]
    assert table.expire(12) == []


def test_renewing_counts_from_now_and_tells_what_was_granted() -> None:
    table = leases()
    table.open("m1", 0)
    assert table.renew("m1", 8) == 10
    assert table.expire(17.9) == []
    assert table.renew("m1", 17.9, 3) == 3
    assert table.expire(20.9) == ["m1"]


def test_one_machines_renewal_does_not_help_another() -> None:
    table = leases()
    table.open("m1", 0)
    table.open("m2", 0)
    table.renew("m1", 5)
    assert table.expire(10) == ["m2"]


def test_time_in_which_the_agent_could_not_listen_is_no_leases() -> None:
    table = leases()
    table.open("m1", 0)
    table.late(7)
    assert table.expire(16.9) == []
    assert table.expire(17) == ["m1"]


def test_a_lease_that_ran_out_cannot_be_renewed() -> None:
    table = leases()
    table.open("m1", 0)
    table.expire(10)
    with pytest.raises(KeyError):
        table.renew("m1", 10)


def test_a_closed_lease_does_not_run_out() -> None:
    table = leases()
    table.open("m1", 0)
    table.close("m1")
    table.close("m1")
    assert table.expire(100) == []


def test_an_agent_that_nobody_calls_ends_after_first_contact() -> None:
    table = leases()
    assert not table.is_abandoned(119.9, is_listening=False, is_empty=True)
    assert table.is_abandoned(120, is_listening=False, is_empty=True)


def test_an_agent_with_machines_is_not_abandoned() -> None:
    table = leases()
    table.contact(1)
    assert not table.is_abandoned(1000, is_listening=False, is_empty=False)


def test_a_driver_that_listens_need_not_call_but_must_be_heard() -> None:
    table = leases()
    table.contact(1)
    table.hear(100_000)
    assert not table.is_abandoned(100_009.9, is_listening=True, is_empty=True)
    assert table.is_abandoned(100_010, is_listening=True, is_empty=True)


def test_a_short_lease_does_not_end_an_agent_between_two_pings() -> None:
    table = Leases(lease=0.5, first_contact=120, now=0)
    table.contact(1)
    table.hear(1)
    assert not table.is_abandoned(3, is_listening=True, is_empty=True)
    assert table.is_abandoned(3, is_listening=False, is_empty=True)


def test_a_driver_that_left_is_waited_for_one_lease() -> None:
    table = leases()
    table.contact(1)
    assert not table.is_abandoned(10.9, is_listening=False, is_empty=True)
    assert table.is_abandoned(11, is_listening=False, is_empty=True)


def test_after_a_lease_ran_out_the_agent_only_lingers_even_if_the_stream_is_open() -> None:
    table = leases()
    table.contact(0)
    table.open("m1", 0)
    table.expire(10)
    assert not table.is_abandoned(10 + LINGER - 0.1, is_listening=True, is_empty=True)
    assert table.is_abandoned(10 + LINGER, is_listening=True, is_empty=True)


def test_a_driver_that_wakes_up_in_time_keeps_the_agent() -> None:
    table = leases()
    table.contact(0)
    table.open("m1", 0)
    table.expire(10)
    table.contact(12)
    table.hear(1000)
    assert not table.is_abandoned(1000, is_listening=True, is_empty=True)


def test_a_lease_that_ran_out_while_the_computer_slept_has_a_moment_to_be_renewed() -> None:
    table = leases()
    table.open("m1", 0)
    table.open("m2", 0)
    table.renew("m2", 1, 3600)
    table.awake(1, 300)
    assert table.expire(1) == []
    table.renew("m1", 2, 20)  # the driver slept on the same computer, and is back
    table.awake(2, 300)
    assert table.expire(2 + WAKING - 0.1) == []
    assert table.expire(2 + WAKING) == ["m1"]
    assert table.expire(3600) == []


def test_a_short_sleep_does_not_shorten_a_lease() -> None:
    table = leases()
    table.open("m1", 0)
    table.renew("m1", 0, 60)
    table.awake(1, 50)
    assert table.expire(59.9) == []
    assert table.expire(60) == ["m1"]
