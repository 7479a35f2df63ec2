"""A call is repeated while its error may go away, with growing pauses, and not beyond its deadline."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.errors import (
    AuthenticationError,
    BigmachineError,
    Cause,
    DeadlineExceeded,
    DeathCertificate,
    ImageError,
    InvalidCall,
    MachineStopped,
    NetworkError,
    ProvisionError,
    RemoteError,
    RemoteTraceback,
)
from bigmachine.machine.retry import has_stream, is_worth_repeating, pause, retry
from bigmachine.rpc import Call, OutcomeGone, deadline


def remote(error: Exception) -> Exception:
    error.__cause__ = RemoteTraceback("Traceback ...", "m1")
    return error


def calls(*outcomes: object) -> tuple[list[bytes], Any]:
    """Make a `submit` whose calls have these outcomes, one after the other; and the list of keys that it gets."""
    keys: list[bytes] = []
    left: Iterator[object] = iter(outcomes)

    def submit(key: bytes) -> Call[Any]:
        keys.append(key)
        call: Call[Any] = Call(len(keys), "S.method")
        outcome = next(left)
        if isinstance(outcome, BaseException):
            call.fail(outcome)
        else:
            call.finish(outcome)
        return call

    return keys, submit


@given(attempt=st.integers(0, 10_000), chance=st.floats(0, 1))
def test_a_pause_is_at_least_25_ms_and_at_most_5_s(attempt: int, chance: float) -> None:
    assert 0.025 <= pause(attempt, chance) <= 5.0


def test_pauses_grow_by_half_from_50_ms_to_5_s() -> None:
    longest = [pause(attempt, 1.0) for attempt in range(20)]
    assert longest[:4] == pytest.approx([0.05, 0.075, 0.1125, 0.16875])
    assert longest == sorted(longest)
    assert longest[-1] == 5.0


def test_chance_takes_up_to_half_of_a_pause_away() -> None:
    assert pause(3, 0.0) == pytest.approx(pause(3, 1.0) / 2)


@pytest.mark.parametrize(
    ("error", "is_worth_it"),
    [
        (NetworkError("lost"), True),
        (ProvisionError("full", temporary=True), True),
        (ProvisionError("no such type"), False),
        (DeadlineExceeded("late"), False),
        (InvalidCall("no such method"), False),
        (MachineStopped(DeathCertificate(Cause.EXITED)), False),
        (ImageError("no such file"), False),
        (AuthenticationError("who?"), False),
        (RemoteError("X", "unknown"), False),
        (BigmachineError("something"), False),
        (ConnectionError("the method's own, or ours: not a link's"), False),
        (remote(NetworkError("the method called another machine")), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_what_the_link_did_and_may_not_do_again_is_repeated(error: BaseException, is_worth_it: bool) -> None:
    assert is_worth_repeating(error) is is_worth_it


def test_a_call_is_repeated_under_one_key_until_it_has_an_outcome() -> None:
    keys, submit = calls(NetworkError("one"), NetworkError("two"), 42)
    pauses: list[float] = []
    assert retry(submit, pauses.append) == 42
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert len(pauses) == 2


def test_two_calls_have_two_keys() -> None:
    first, submit = calls(1)
    retry(submit, lambda _: None)
    second, submit = calls(1)
    retry(submit, lambda _: None)
    assert first != second


def test_an_outcome_that_repeating_cannot_change_is_raised_at_once() -> None:
    error = remote(NetworkError("the method's own"))
    keys, submit = calls(error)
    with pytest.raises(NetworkError) as caught:
        retry(submit, lambda _: None)
    assert caught.value is error
    assert len(keys) == 1


def test_it_is_not_repeated_if_the_deadline_comes_first() -> None:
    keys, submit = calls(NetworkError("the cable is out"))
    with deadline(0.01), pytest.raises(DeadlineExceeded, match=r"S\.method failed 1 times.*the cable is out") as caught:
        retry(submit, lambda _: pytest.fail("there was no time to pause"))
    assert isinstance(caught.value.__cause__, NetworkError)
    assert len(keys) == 1


def test_a_method_is_named_as_people_write_it() -> None:
    def submit(key: bytes) -> Call[Any]:
        call: Call[Any] = Call(1, "@__main__:PI.sample")
        call.fail(NetworkError("the cable is out"))
        return call

    with deadline(0.01), pytest.raises(DeadlineExceeded, match=r"^PI\.sample failed 1 times"):
        retry(submit, lambda _: pytest.fail("there was no time to pause"))


def test_what_interrupts_the_wait_gives_the_call_up() -> None:
    class Interrupted(Call[int]):
        def result(self, timeout: float | None = None) -> int:
            raise KeyboardInterrupt

    call = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        retry(lambda key: call, lambda _: None)
    assert call.cancelled()


def test_an_outcome_that_is_gone_ends_it_and_what_made_it_be_repeated_is_the_cause() -> None:
    lost = NetworkError("the cable is out")
    keys, submit = calls(NetworkError("first"), lost, OutcomeGone("S.method on m1 began a stream"), 42)
    with pytest.raises(NetworkError, match="on m1 began a stream") as caught:
        retry(submit, lambda _: None)
    assert not caught.value.temporary
    assert caught.value.__cause__ is lost
    assert len(keys) == 3


def test_an_outcome_that_is_gone_for_the_method_is_the_methods_own_error() -> None:
    error = remote(OutcomeGone("the method repeated a call of another machine"))
    cause = error.__cause__
    _, submit = calls(NetworkError("first"), error)
    with pytest.raises(OutcomeGone) as caught:
        retry(submit, lambda _: None)
    assert caught.value.__cause__ is cause


def test_what_cannot_be_sent_again_is_attempted_once_and_its_error_says_what_would_help() -> None:
    error = NetworkError("the cable is out")
    keys, submit = calls(error, 42)
    with pytest.raises(NetworkError) as caught:
        retry(submit, lambda _: pytest.fail("nothing is to be repeated"), is_once=True)
    assert caught.value is error
    assert "give a function without arguments that makes the stream" in error.__notes__[0]
    assert len(keys) == 1


@pytest.mark.parametrize("stream", [iter([1]), (i for i in [1]), io.BytesIO(b"x")])
def test_an_iterator_or_a_file_can_be_sent_once(stream: object) -> None:
    assert has_stream((1, stream), {})
    assert has_stream((), {"stream": stream})


def test_values_and_what_makes_a_stream_can_be_sent_again() -> None:
    assert not has_stream((1, [2], io.StringIO("x")), {"make": lambda: iter([1])})
