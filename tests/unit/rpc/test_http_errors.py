"""Exceptions as statuses and JSON objects."""

from __future__ import annotations

import pytest

from bigmachine.errors import DeadlineExceeded, InvalidCall, RemoteError
from bigmachine.rpc.http.errors import describe, status_of


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def _raised_in_user_code(exc: Exception) -> Exception:
    try:
        raise exc
    except Exception as caught:  # noqa: BLE001 (that is what is asked for)
        return caught


@pytest.mark.parametrize(("exc", "status"), [(InvalidCall("no"), 400), (DeadlineExceeded("late"), 504)])
def test_our_own_errors_tell_whose_fault_it_is(exc: Exception, status: int) -> None:
    assert status_of(exc) == status


@pytest.mark.parametrize("exc", [InvalidCall("no"), DeadlineExceeded("late"), TimeoutError(), ValueError()])
def test_whatever_was_raised_in_the_users_code_is_the_methods(exc: Exception) -> None:
    assert status_of(_raised_in_user_code(exc)) == 590


def test_an_error_has_a_type_and_a_message() -> None:
    assert describe(KeyError("k"), with_traceback=False) == {"error": {"type": "KeyError", "message": "'k'"}}


def test_types_of_the_users_have_their_module_and_ours_have_not() -> None:
    told = describe(Unprintable(), with_traceback=False)["error"]
    assert isinstance(told, dict)
    assert told["type"] == f"{__name__}.Unprintable"
    assert describe(InvalidCall("x"), with_traceback=False) == {"error": {"type": "InvalidCall", "message": "x"}}


def test_a_message_that_cannot_be_printed_does_not_hide_the_error() -> None:
    told = describe(Unprintable(), with_traceback=True)["error"]
    assert isinstance(told, dict)
    assert told["message"] == "<its message cannot be printed: RuntimeError>"
    assert "Unprintable" in told["traceback"]


def test_an_error_that_stands_for_another_one_is_told_as_that() -> None:
    told = describe(RemoteError("pkg.Odd", "odd", "..."), with_traceback=False)
    assert told == {"error": {"type": "pkg.Odd", "message": "odd"}}


def test_the_traceback_shows_the_users_frames() -> None:
    told = describe(_raised_in_user_code(ValueError("x")), with_traceback=True)["error"]
    assert isinstance(told, dict)
    assert "_raised_in_user_code" in told["traceback"]
