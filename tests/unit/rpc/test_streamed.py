"""Iterators and binary files are streams, and nothing else is."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import AsyncIterator

import pytest

from bigmachine.rpc.streams.streamed import BYTES, ITEMS, stream_kind


async def numbers() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (iter([1]), ITEMS),
        ((n for n in [1]), ITEMS),
        (map(str, [1]), ITEMS),
        (itertools.count(), ITEMS),
        (numbers(), ITEMS),
        (io.BytesIO(), BYTES),
        (io.BufferedReader(io.BytesIO()), BYTES),
        (io.FileIO(os.devnull), BYTES),
        (io.StringIO(), None),
        ([1], None),
        (range(3), None),
        ({1: 2}, None),
        ("text", None),
        (b"bytes", None),
        (3, None),
        (None, None),
        (object(), None),
        (len, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_iterators_and_binary_files_are_streams_and_nothing_else_is(value: object, kind: str | None) -> None:
    assert stream_kind(value) == kind
    if isinstance(value, io.IOBase):
        value.close()
