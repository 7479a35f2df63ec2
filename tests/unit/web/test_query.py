"""What a URL asks of a profile."""

from __future__ import annotations

import re

import pytest

from bigmachine.web.query import Wanted, wanted


def test_nothing_asks_for_what_is_usual() -> None:
    assert wanted("") == Wanted()


def test_everything_can_be_asked_for() -> None:
    query = "seconds=1.5&machine=m1&machine=m2&debug=1&format=svg&gc=1&driver=1&hertz=50&idle=0&mode=types"
    assert wanted(query) == Wanted(
        seconds=1.5,
        machines=("m1", "m2"),
        format="svg",
        debug=1,
        driver=True,
        options={"gc": True, "idle": False, "hertz": 50, "mode": "types"},
    )


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("secs=1", "no parameter 'secs': there is seconds, machine"),
        ("seconds=long", "seconds='long': it has to be a number"),
        ("hertz=1.5", "hertz='1.5': it has to be a whole number"),
        ("gc=yes", "gc='yes': it has to be 0 or 1"),
        ("debug=x", "debug='x'"),
        ("native=", "native=''"),
    ],
)
def test_what_is_wrong_is_said_with_what_there_is(query: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        wanted(query)
