"""The pprof codec: what is written is read back, and Go's own tool agrees."""

import contextlib
import gzip
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmachine.observe.pprof import decode, encode
from bigmachine.observe.profile import (
    TRUNCATED,
    FoldedReader,
    Frame,
    Labels,
    Profile,
    Stack,
    from_folded,
    merge,
    rate_line,
    to_folded,
)

CPU = (("samples", "count"), ("cpu", "nanoseconds"))
RAW = 'thread (0x7f): "MainThread";<module> (a.py:3);f.<locals>.g (b c.py:10) 5\n 1\nx (c.py:1) 3\nnative 2\n'

texts = st.text(max_size=12).map(lambda text: text.replace("\ud800", ""))
frames = st.builds(Frame, texts, texts, st.integers(0, 2**40))
samples = st.dictionaries(
    st.tuples(
        st.lists(frames, max_size=5).map(tuple),
        st.dictionaries(st.sampled_from(["machine", "thread", "service"]), texts.filter(bool)).map(
            lambda labels: tuple(sorted(labels.items()))
        ),
    ),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2),
    max_size=8,
)


@given(
    samples,
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.lists(texts.filter(bool), max_size=3),
    st.integers(0, 2**62),
)
def test_what_is_written_is_read_back(
    samples: dict[tuple[Stack, Labels], list[int]], began: int, duration: int, comments: list[str], period: int
) -> None:
    profile = Profile(CPU, samples, period, began, duration, comments)
    assert decode(encode(profile)) == profile


@given(st.binary(max_size=200))
def test_other_bytes_are_no_profile_or_one(data: bytes) -> None:
    for given_bytes in (data, gzip.compress(data)):
        with contextlib.suppress(ValueError):  # nothing else may be raised
            decode(given_bytes)


def test_a_cut_profile_is_refused() -> None:
    whole = gzip.decompress(encode(from_folded(RAW, hertz=100)))
    for size in range(len(whole) - 1):
        try:
            assert decode(whole[:size]) != decode(whole)
        except ValueError:
            continue


def test_py_spys_lines_are_read() -> None:
    profile = from_folded(RAW, hertz=100, labels={"machine": "m1"})
    stack = (Frame("<module>", "a.py", 3), Frame("f.<locals>.g", "b c.py", 10))
    assert profile.samples[stack, (("machine", "m1"), ("thread", "MainThread"))] == [5, 50_000_000]
    assert profile.samples[(Frame("native"),), (("machine", "m1"),)] == [2, 20_000_000]
    assert profile.total(0) == 10
    assert "machine=m1;thread=MainThread;<module>;f.<locals>.g 50000000\n" in to_folded(profile)


def test_stacks_that_say_how_often_they_were_sampled_count_for_their_own_time() -> None:
    reader = FoldedReader(100)
    assert reader.read("f (a.py:1) 2\n", {"machine": "m1"}) == 2
    assert reader.read(f"{rate_line(20)}f (a.py:1) 2\n", {"machine": "m2"}) == 2
    assert [values for _, values in reader.profile.samples.items()] == [[2, 20_000_000], [2, 100_000_000]]


def test_profiles_add_up_and_keep_their_origin() -> None:
    one = from_folded("f (a.py:1) 1\n", hertz=100)
    merged = merge([one.labelled(machine="m1"), one.labelled(machine="m2"), one.labelled(machine="m1")])
    assert {dict(labels)["machine"]: values[0] for (_, labels), values in merged.samples.items()} == {"m1": 2, "m2": 1}
    with pytest.raises(ValueError, match="cannot be added"):
        merge([one, Profile((("objects", "count"),))])
    with pytest.raises(ValueError, match="no profile"):
        merge([])


def test_too_many_stacks_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bigmachine.observe.profile.MOST_STACKS", 3)
    profile = Profile(CPU)
    for number in range(10):
        profile.add((Frame(f"f{number}"),), (1, 10))
    assert profile.total(0) == 10
    assert profile.samples[(TRUNCATED,), ()] == [7, 70]


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no Go toolchain: its pprof is the judge here")
def test_go_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "cpu.pb.gz"
    file.write_bytes(encode(from_folded(RAW, hertz=100).labelled(machine="m1")))
    for report, expected in (("-top", "f.<locals>.g"), ("-top", "<module>"), ("-tags", "m1"), ("-traces", "native")):
        done = subprocess.run(
            ["go", "tool", "pprof", report, str(file)], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
