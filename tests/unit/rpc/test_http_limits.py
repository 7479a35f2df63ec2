"""How long a request may take to arrive, and how often streams may be reset."""

from __future__ import annotations

from bigmachine.rpc.http.limits import Bucket, Limits


def test_a_request_gets_time_for_every_byte_it_has_sent() -> None:
    limits = Limits(receive=30.0, receive_rate=1000)
    assert limits.receive_by(100.0, 0) == 130.0
    assert limits.receive_by(100.0, 5000) == 135.0


def test_a_drip_of_bytes_does_not_hold_a_place_for_ever() -> None:
    limits = Limits(receive=30.0, receive_rate=1000)
    now, received = 0.0, 0
    while now < limits.receive_by(0.0, received):
        now, received = now + 1.0, received + 1
    assert now < 32


def test_a_bucket_gives_its_size_at_once_and_no_more() -> None:
    bucket = Bucket(3, 1.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]


def test_a_bucket_fills_at_its_rate_up_to_its_size() -> None:
    bucket = Bucket(2, 10.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(0.1) for _ in range(2)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]
