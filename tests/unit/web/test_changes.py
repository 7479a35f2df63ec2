"""What viewers are told."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from bigmachine.session.seeing.rows import rounded, thinned
from bigmachine.web.changes import Names, Rows, event

_rows = st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.integers(0, 2), min_size=3))


@given(st.lists(_rows, max_size=6))
def test_who_takes_every_change_has_the_rows(states: list[dict[str, dict[str, object]]]) -> None:
    rows = Rows()
    page: dict[str, dict[str, object]] = {}
    for state in states:
        for key, fields in rows.change(state).items():
            if fields is None:
                del page[key]
            else:
                page[key] = {**page.get(key, {}), **fields}
        assert page == state


def test_what_stays_is_not_told_again() -> None:
    rows = Rows()
    rows.change({"a": {"x": 1, "y": 2}, "b": {"x": 1}})
    assert rows.change({"a": {"x": 1, "y": 3}, "b": {"x": 1}}) == {"a": {"y": 3}}


def test_a_name_is_told_once() -> None:
    names = Names()
    assert [names.of(name) for name in ("a", "b", "a")] == [0, 1, 0]
    assert names.fresh() == ["a", "b"]
    assert names.of("c") == 2
    assert names.fresh() == ["c"]
    assert names.all == ["a", "b", "c"]


@given(st.lists(st.integers()), st.integers(1, 20))
def test_thinning_keeps_order_and_the_last(items: list[int], most: int) -> None:
    kept = list(thinned(list(enumerate(items)), most))
    assert len(kept) == min(len(items), most)
    assert kept == sorted(kept)
    assert not items or kept[-1] == (len(items) - 1, items[-1])


def test_numbers_have_three_digits() -> None:
    assert [rounded(value) for value in (0.0012345, 123.456, 99999)] == [0.00123, 123.0, 100000.0]


def test_an_event_is_one_line_of_data_whatever_is_in_it() -> None:
    told = event("change", {"line": "a\nb\r\u2028", "nothing": [], "none": None, "zero": 0}).decode()
    head, data, *rest = told.split("\n")
    assert (head, rest) == ("event: change", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == {"line": "a\nb\r\u2028", "zero": 0}
