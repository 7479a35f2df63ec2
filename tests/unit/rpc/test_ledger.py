"""Each key runs at most once: whatever is forgotten, that a call has run is not."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bigmachine.rpc.ledger import Lack, Ledger


def test_the_first_attempt_opens_an_entry_and_later_ones_do_not() -> None:
    ledger: Ledger[str, bytes] = Ledger()
    entry = ledger.open(b"k")
    assert entry is not None
    assert ledger.open(b"k") is None
    assert ledger.find(b"k") is entry
    assert not entry.is_settled


def test_whoever_waits_is_told_once_when_it_is_settled() -> None:
    ledger: Ledger[str, bytes] = Ledger()
    entry = ledger.open(b"k")
    assert entry is not None
    entry.waiting += ["a", "b"]
    assert ledger.settle(entry, b"outcome", 7) == ["a", "b"]
    assert entry.is_settled
    assert ledger.find(b"k").outcome == b"outcome"
    assert entry.waiting == []


def test_an_outcome_that_cannot_be_given_twice_is_known_to_have_been() -> None:
    ledger: Ledger[str, bytes] = Ledger()
    entry = ledger.open(b"k")
    assert entry is not None
    ledger.settle(entry, None, 0)
    assert ledger.open(b"k") is None
    assert ledger.find(b"k").is_settled
    assert ledger.find(b"k").outcome is None


def test_the_newest_outcome_is_kept_whatever_its_size_until_the_next_one() -> None:
    ledger: Ledger[str, bytes] = Ledger(kept_bytes=100)
    settled(ledger, b"small", size=1)
    settled(ledger, b"large", size=101)
    assert [ledger.find(key).outcome for key in (b"small", b"large")] == [None, b"large"]
    settled(ledger, b"next", size=1)
    assert [ledger.find(key).outcome for key in (b"large", b"next")] == [None, b"next"]


def test_an_outcome_as_large_as_all_that_is_kept_is_kept() -> None:
    ledger: Ledger[str, bytes] = Ledger(kept_bytes=100)
    settled(ledger, b"a", size=50)
    settled(ledger, b"b", size=50)
    assert [ledger.find(key).outcome for key in (b"a", b"b")] == [b"a", b"b"]


def test_why_there_is_no_outcome_is_known() -> None:
    ledger: Ledger[str, bytes] = Ledger(kept=1)
    settled(ledger, b"old", b"new")
    stream = ledger.open(b"stream")
    assert stream is not None
    ledger.settle(stream, None, 0)
    ledger.remember(b"former")
    lacks = {key: ledger.find(key).lack for key in (b"old", b"stream", b"former")}
    assert lacks == {b"old": Lack.FORGOTTEN, b"stream": Lack.STREAMED, b"former": Lack.FORMER}


def test_what_another_process_began_is_not_begun_again() -> None:
    ledger: Ledger[str, bytes] = Ledger()
    running = ledger.open(b"here")
    for key in (b"there", b"there", b"here"):
        ledger.remember(key)
    assert ledger.open(b"there") is None
    assert ledger.find(b"there").is_settled
    assert ledger.find(b"there").outcome is None
    assert ledger.find(b"here") is running
    assert len(ledger) == 2


def test_what_other_processes_began_is_bounded_too() -> None:
    ledger: Ledger[str, bytes] = Ledger(remembered=3)
    for number in range(10):
        ledger.remember(bytes([number]))
    assert len(ledger) == 3
    assert ledger.open(bytes([9])) is None


def test_nobody_goes_on_waiting_for_a_call_whose_input_broke_off() -> None:
    ledger: Ledger[str, bytes] = Ledger()
    entry = ledger.open(b"k")
    assert entry is not None
    entry.waiting.append("a")
    assert ledger.break_off(entry) == ["a"]
    assert entry.has_broken_off
    assert ledger.open(b"k") is None, "it runs still"
    assert ledger.settle(entry, b"outcome", 7) == []
    assert ledger.find(b"k").outcome == b"outcome", "it came to a result all the same"


def test_a_call_that_is_withdrawn_may_come_again() -> None:
    ledger: Ledger[str, bytes] = Ledger()
    entry = ledger.open(b"k")
    assert entry is not None
    entry.waiting.append("a")
    assert ledger.withdraw(entry) == ["a"]
    assert len(ledger) == 0
    assert ledger.open(b"k") is not None


def settled(ledger: Ledger[str, bytes], *keys: bytes, size: int = 1) -> None:
    for key in keys:
        entry = ledger.open(key)
        assert entry is not None
        ledger.settle(entry, key, size)


def test_the_oldest_outcomes_are_forgotten_first_by_number() -> None:
    ledger: Ledger[str, bytes] = Ledger(kept=2)
    settled(ledger, b"a", b"b", b"c")
    assert [ledger.find(key).outcome for key in (b"a", b"b", b"c")] == [None, b"b", b"c"]
    assert ledger.open(b"a") is None


def test_the_oldest_outcomes_are_forgotten_first_by_size() -> None:
    ledger: Ledger[str, bytes] = Ledger(kept_bytes=100)
    settled(ledger, b"a", b"b", b"c", b"d", b"e", size=25)
    assert [ledger.find(key).outcome for key in (b"a", b"b", b"e")] == [None, b"b", b"e"]


def test_what_is_remembered_is_bounded_but_never_a_call_that_runs() -> None:
    ledger: Ledger[str, bytes] = Ledger(remembered=2)
    running = ledger.open(b"running")
    settled(ledger, b"a", b"b", b"c")
    assert ledger.find(b"running") is running
    assert ledger.open(b"running") is None
    assert running is not None
    ledger.settle(running, b"r", 1)
    settled(ledger, b"d")
    assert len(ledger) == 2
    assert ledger.open(b"d") is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from(["open", "settle", "none", "withdraw"]), st.integers(0, 40))),
    st.integers(0, 3),
    st.integers(0, 100),
)
def test_no_key_runs_twice_while_it_is_remembered_and_the_size_is_right(
    steps: list[tuple[int, str, int]], kept: int, kept_bytes: int
) -> None:
    ledger: Ledger[str, bytes] = Ledger(kept, kept_bytes, remembered=1000)
    running = {}
    has_run = set()
    for number, step, size in steps:
        key = bytes([number])
        if step == "open":
            entry = ledger.open(key)
            assert (entry is None) == (key in running or key in has_run)
            if entry is not None:
                running[key] = entry
        elif key in running:
            entry = running.pop(key)
            if step == "withdraw":
                ledger.withdraw(entry)
            else:
                ledger.settle(entry, key if step == "settle" else None, size)
                has_run.add(key)
        outcomes = [entry for entry in ledger._entries.values() if entry.outcome is not None]
        assert len(outcomes) <= kept
        assert ledger._size == sum(entry.size for entry in outcomes)
        assert ledger._size <= kept_bytes or len(outcomes) == 1
        assert all(entry.outcome == entry.key for entry in outcomes)
