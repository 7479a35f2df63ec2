"""Records of logging survive the pipe: cut anywhere, between frames of other writers, of any length."""

from __future__ import annotations

import json

import pytest

from bigmachine.agent.records import RecordReader, as_text, decode, encode


@pytest.mark.parametrize("length", [0, 1, 459, 460, 461, 5000, 100_000])
def test_a_record_of_any_length_arrives_whole_in_frames_within_the_limit(length: int) -> None:
    fields = {"name": "a.b", "msg": "x" * length}
    frames = list(encode(fields, 2**64, 2**60, 512))
    assert all(len(frame) <= 512 and frame.count(b"\n") == 1 and frame.endswith(b"\n") for frame in frames)
    reader = RecordReader()
    assert [decode(record) for frame in frames for record in reader.feed(frame)] == [fields]


def test_bytes_may_come_one_by_one() -> None:
    reader = RecordReader()
    data = b"".join(encode({"msg": "é\n\0" * 300}, 1, 1, 256))
    whole = [record for i in range(len(data)) for record in reader.feed(data[i : i + 1])]
    assert [decode(record) for record in whole] == [{"msg": "é\n\0" * 300}]


def test_frames_of_several_writers_may_alternate() -> None:
    one, other = (list(encode({"msg": sign * 1000}, pid, 7, 128)) for sign, pid in (("a", 1), ("b", 2)))
    mixed = b"".join(frame for pair in zip(one, other, strict=True) for frame in pair)
    assert {decode(record)["msg"] for record in RecordReader().feed(mixed)} == {"a" * 1000, "b" * 1000}


def test_writers_that_die_in_the_middle_of_a_record_leave_little() -> None:
    reader = RecordReader()
    for pid in range(1000):
        assert reader.feed(next(encode({"msg": "x" * 1000}, pid, 0, 128))) == []
    assert len(reader._pieces) <= 64
    assert [decode(record) for record in reader.feed(b"".join(encode({"msg": "y"}, 1, 1, 128)))] == [{"msg": "y"}]


@pytest.mark.parametrize("data", [b"\n", b"nonsense\n", b"1 2 . {\n", b"1 2 . []\n", b"1 2 . \xff\n"])
def test_what_is_no_record_does_no_harm(data: bytes) -> None:
    reader = RecordReader()
    assert all("unreadable record" in str(decode(record)["msg"]) for record in reader.feed(data))
    assert len(reader.feed(b"1 3 . {}\n")) == 1


def test_a_record_in_words_names_its_level_and_logger() -> None:
    fields = json.loads('{"levelname": "ERROR", "name": "a.b", "msg": "no", "exc_text": "Traceback\\nE: x"}')
    assert as_text(fields) == "ERROR a.b: no\nTraceback\nE: x"
