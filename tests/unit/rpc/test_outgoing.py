"""The writing end: it counts its credit rightly, ends only where its source does, and closes that once."""

from __future__ import annotations

import sys
import threading

import pytest

from bigmachine.rpc.outgoing import Outgoing
from bigmachine.rpc.streamed import ITEMS, WINDOW_BYTES, WINDOW_ITEMS
from bigmachine.rpc.wire import END, ITEM
from tests.unit.rpc.stream_host import Host


def test_credit_that_comes_as_the_producer_stops_for_it_does_not_end_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host()
    outgoing = Outgoing(host, 1, iter(range(1000)), ITEMS, "numbers")
    may_send = Outgoing._may_send

    def then_credit(self: Outgoing) -> bool:
        if may_send(self):
            return True
        if self._sent_items < 1000:  # as the reactor's thread does it meanwhile
            self.credit(10_000, 64)
        return False

    monkeypatch.setattr(Outgoing, "_may_send", then_credit)
    outgoing.start()
    host.run_jobs()
    assert host.kinds() == [ITEM] * 1000 + [END]


def test_credit_given_while_items_are_counted_is_never_lost() -> None:
    host = Host()
    outgoing = Outgoing(host, 1, iter(()), ITEMS, "numbers")
    rounds = 30_000
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def give() -> None:
            for _ in range(rounds):
                outgoing.credit(10, 1)

        giver = threading.Thread(target=give)
        giver.start()
        for _ in range(rounds):
            outgoing._count([b"01234", b"56789"])
        giver.join()
    finally:
        sys.setswitchinterval(interval)
    assert outgoing._granted_items - outgoing._sent_items == WINDOW_ITEMS
    assert outgoing._granted_bytes - outgoing._sent_bytes == WINDOW_BYTES


def test_a_source_that_fails_after_its_reader_has_gone_is_still_closed() -> None:
    host = Host()
    closed: list[bool] = []

    class Failing:
        def __next__(self) -> int:
            outgoing.close()  # the reader goes while it produces
            raise ValueError("too late")

        def close(self) -> None:
            closed.append(True)

    outgoing = Outgoing(host, 1, Failing(), ITEMS, "numbers")
    outgoing.start()
    host.run_jobs()
    assert closed == [True]
    assert host.sent == []


def test_the_source_is_closed_once_whether_parked_or_ended() -> None:
    for n in (0, 10, WINDOW_ITEMS, WINDOW_ITEMS + 1):
        host = Host()
        closed: list[int] = []

        class Counting:
            def __init__(self, n: int, closed: list[int]) -> None:
                self.left = n
                self.closed = closed

            def __next__(self) -> int:
                self.left -= 1
                if self.left < 0:
                    raise StopIteration
                return self.left

            def close(self) -> None:
                self.closed.append(1)

        outgoing = Outgoing(host, 1, Counting(n, closed), ITEMS, "numbers")
        outgoing.start()
        host.run_jobs()
        outgoing.close()
        outgoing.close()
        host.run_jobs()
        assert closed == [1], n
        assert host.outgoing == {}
