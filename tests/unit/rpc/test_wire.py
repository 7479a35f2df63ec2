"""Frames as bytes: whatever the cuts, the same frames; whatever is no frame, a WireError."""

from __future__ import annotations

import contextlib
import itertools
import struct
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmachine.rpc import wire
from bigmachine.rpc.buffers import allocate
from bigmachine.rpc.wire import AS_BYTES, Decoder, Kind, WireError, head, small_frame

FEW = settings(max_examples=30, deadline=None)
LIMIT = 1 << 30


@dataclass(frozen=True)
class Sent:
    """A frame as the sender means it; `buffers`: contents, and whether they are to become `bytes`."""

    kind: int
    flags: int
    ident: int
    payload: bytes
    buffers: tuple[tuple[bytes, bool], ...] = ()

    def encoded(self) -> bytes:
        # The layout of the module's docstring, written down a second time.
        table = b"".join(struct.pack("<Q", len(data) | (1 << 63 if as_bytes else 0)) for data, as_bytes in self.buffers)
        header = struct.pack("<IHBBQ", len(self.payload), len(self.buffers), self.kind, self.flags, self.ident)
        return header + table + self.payload + b"".join(data for data, _ in self.buffers)


@dataclass(frozen=True)
class Got:
    kind: int
    flags: int
    ident: int
    payload: bytes
    buffers: tuple[bytes, ...]
    types: tuple[type, ...]


def run(decoder: Decoder, data: bytes, cuts: Iterable[int]) -> list[Got]:
    """Give `data` to the decoder in pieces of at most the sizes in `cuts`, as a network does."""
    got = []
    at = 0
    view = memoryview(data)
    for cut in cuts:
        if at == len(view):
            break
        target = decoder.buffer()
        count = min(cut, len(target), len(view) - at)
        target[:count] = view[at : at + count]
        at += count
        for kind, flags, ident, payload, buffers in decoder.received(count):
            # Copied at once: a small payload is a view of the scratch buffer, valid until the next piece.
            kept = tuple(bytes(b) for b in buffers or ())
            got.append(Got(kind, flags, ident, bytes(payload), kept, tuple(type(b) for b in buffers or ())))
    assert at == len(view)
    return got


def meant(frames: Iterable[Sent]) -> list[tuple[object, ...]]:
    return [(f.kind, f.flags, f.ident, f.payload, tuple(data for data, _ in f.buffers)) for f in frames]


def seen(frames: Iterable[Got]) -> list[tuple[object, ...]]:
    return [(f.kind, f.flags, f.ident, f.payload, f.buffers) for f in frames]


def scratch(size: int) -> memoryview:
    return memoryview(bytearray(size))


def filled(size: int, seed: int) -> bytes:
    return (bytes(range(seed, 256)) * (size // (256 - seed) + 1))[:size]


# Sizes at which the decoder goes another way: its thresholds, and around them.
SIZES = st.one_of(
    st.integers(0, 300),
    st.sampled_from([4095, 4097, 16 * 1024 - 1, 16 * 1024, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 200_000]),
)
CONTENTS = st.builds(filled, SIZES, st.integers(0, 250))
FRAMES = st.lists(
    st.builds(
        Sent,
        kind=st.integers(1, 11),
        flags=st.integers(0, 127),
        ident=st.integers(0, 2**64 - 1),
        payload=CONTENTS,
        buffers=st.lists(st.tuples(CONTENTS, st.booleans()), max_size=3).map(tuple),
    ),
    max_size=5,
)
CUTS = st.one_of(
    st.lists(st.integers(1, 70_000), min_size=1, max_size=12),
    # Around the header's 16 bytes, where most goes wrong.
    st.lists(st.integers(1, 40), min_size=30, max_size=60).map(lambda cuts: [*cuts, 100_000]),
)


@FEW
@given(FRAMES, CUTS, st.sampled_from([64, 5000, 256 * 1024]))
def test_frames_cut_at_any_places_decode_to_the_same_frames(frames: list[Sent], cuts: list[int], size: int) -> None:
    data = b"".join(frame.encoded() for frame in frames)
    decoder = Decoder(scratch(size), allocate, LIMIT)
    assert seen(run(decoder, data, itertools.cycle(cuts))) == meant(frames)
    assert decoder.is_clean


def test_every_single_cut_decodes_to_the_same_frames() -> None:
    frames = [
        Sent(3, 0, 1, b""),
        Sent(2, 1, 2**64 - 1, b"payload", ((b"", True), (b"abc", False))),
        Sent(8, 0, 7, b"", ((b"only a buffer", True),)),
        Sent(10, 0, 3, b"\0" * 8),
    ]
    data = b"".join(frame.encoded() for frame in frames)
    for cut in range(1, len(data)):
        assert seen(run(Decoder(scratch(4096)), data, [cut, len(data)])) == meant(frames), cut


@pytest.mark.parametrize("cut", [1, 15, 16, 20])
def test_a_decoder_in_the_middle_of_a_frame_is_not_clean(cut: int) -> None:
    decoder = Decoder(scratch(64))
    run(decoder, Sent(3, 0, 1, b"12345").encoded()[:cut], [cut])
    assert not decoder.is_clean


def test_the_encoder_writes_the_layout_that_the_decoder_reads() -> None:
    assert small_frame(6, 2, 300, b"xy") == Sent(6, 2, 300, b"xy").encoded()
    data = head(2, 3, 4, b"pickle", [5 | AS_BYTES, 1]) + b"12345" + b"6"
    assert data == Sent(2, 3, 4, b"pickle", ((b"12345", True), (b"6", False))).encoded()


def test_kinds_are_numbered_without_gaps_so_that_one_comparison_tells_a_frame() -> None:
    assert sorted(Kind) == list(range(1, 12))


# --- memory


def test_a_large_buffer_is_received_into_its_final_memory() -> None:
    made: list[memoryview] = []

    def remember(size: int, as_bytes: bool) -> tuple[bytes | bytearray, memoryview]:
        memory, view = allocate(size, as_bytes)
        made.append(view)
        return memory, view

    data = Sent(3, 0, 1, b"p", ((filled(300_000, 3), True), (filled(100_000, 4), False))).encoded()
    decoder = Decoder(scratch(4096), remember, LIMIT)
    own = decoder.buffer()
    direct = 0
    for start, target in _steps(decoder, data):
        if target.obj is not own.obj:
            assert any(target.obj is view.obj for view in made)
            direct += len(target)
        assert start <= len(data)
    assert direct >= 400_000 - 2 * 4096  # all but what came with the header or was too little for a read of its own


def _steps(decoder: Decoder, data: bytes) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at < len(data):
        target = decoder.buffer()
        piece = data[at : at + len(target)]
        target[: len(piece)] = piece
        at += len(piece)
        decoder.received(len(piece))
        yield at, target[: len(piece)]


def test_buffers_marked_as_bytes_arrive_as_bytes_and_the_others_can_be_written() -> None:
    frame = Sent(3, 0, 1, b"p", ((filled(9000, 1), True), (filled(9000, 2), False)))
    (got,) = run(Decoder(scratch(1 << 16), allocate), frame.encoded(), itertools.repeat(1 << 16))
    assert got.types == (bytes, bytearray)


def test_a_large_frame_takes_its_own_size_of_memory_and_no_more() -> None:
    size = 8 * 2**20
    room = scratch(256 * 1024)
    payload = filled(1 << 20, 9)
    first = head(3, 0, 1, payload, [size])
    piece = bytes(256 * 1024)
    decoder = Decoder(room, allocate, LIMIT)
    tracemalloc.start()
    try:
        run(decoder, first, itertools.repeat(1 << 20))
        done: list[wire.Frame] = []
        while not done:
            target = decoder.buffer()
            target[: len(piece)] = piece[: len(target)]
            done = decoder.received(min(len(piece), len(target)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size + len(payload) + 1.5 * len(room)


def test_nothing_is_allocated_before_the_whole_table_is_there() -> None:
    asked: list[int] = []

    def count(size: int, as_bytes: bool) -> tuple[bytes | bytearray, memoryview]:
        asked.append(size)
        return allocate(size, as_bytes)

    data = Sent(3, 0, 1, b"p", ((b"1" * 100_000, False), (b"2" * 100_000, False))).encoded()
    decoder = Decoder(scratch(4096), count, LIMIT)
    run(decoder, data[: 16 + 15], [1] * 31)
    assert asked == []
    run(decoder, data[31:], itertools.repeat(1 << 20))
    assert asked == [1, 100_000, 100_000]  # the payload's, too


# --- limits and garbage


@FEW
@given(
    st.integers(0, 3000),
    st.lists(st.integers(0, 3000), max_size=3),
    CUTS,
    st.sampled_from([64, 2000, 256 * 1024]),
)
def test_a_frame_above_the_limit_is_told_by_its_size_and_the_next_ones_are_still_read(
    size: int, lengths: list[int], cuts: list[int], room: int
) -> None:
    # Only frames with buffers or of a size that is not gathered are measured at all.
    huge = Sent(2, 1, 5, filled(size + 70_000, 1), tuple((filled(n, 2), False) for n in lengths))
    after = [Sent(3, 0, 6, b"next"), Sent(3, 0, 7, b"", ((b"abc", True),))]
    total = size + 70_000 + sum(lengths)
    asked: list[int] = []

    def count(size: int, as_bytes: bool) -> tuple[bytes | bytearray, memoryview]:
        asked.append(size)
        return allocate(size, as_bytes)

    decoder = Decoder(scratch(room), count, total - 1)
    got = run(decoder, huge.encoded() + b"".join(f.encoded() for f in after), itertools.cycle(cuts))
    assert (got[0].kind, got[0].flags, got[0].ident) == (2, 1 | wire.OVERSIZED, 5)
    assert int(got[0].payload) == total
    assert seen(got[1:]) == meant(after)
    assert asked == [0, 3]  # those of the frame after
    assert decoder.is_clean


def test_a_frame_at_the_limit_is_taken() -> None:
    frame = Sent(2, 0, 5, b"p" * 70_000, ((b"b" * 30_000, False),))
    assert seen(run(Decoder(scratch(4096), allocate, 100_000), frame.encoded(), itertools.repeat(4096))) == meant(
        [frame]
    )


@FEW
@given(FRAMES, st.integers(0, 255).filter(lambda kind: not 0 < kind < 12), CUTS)
def test_a_header_of_no_kind_is_a_wire_error_after_the_frames_before_it(
    frames: list[Sent], kind: int, cuts: list[int]
) -> None:
    data = b"".join(frame.encoded() for frame in frames) + Sent(kind, 0, 1, b"").encoded()
    with pytest.raises(WireError, match=f"kind {kind}"):
        run(Decoder(scratch(1 << 18), allocate, LIMIT), data, itertools.cycle(cuts))


@pytest.mark.parametrize("number", [0, 1])
def test_only_a_reader_says_that_a_frame_was_above_its_limit(number: int) -> None:
    frame = Sent(3, 128, 1, b"12345", ((b"x", False),) * number)
    with pytest.raises(WireError, match="too large"):
        run(Decoder(scratch(256), allocate, LIMIT), frame.encoded(), [256])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 50))
def test_garbage_gives_frames_or_a_wire_error_and_nothing_else(data: bytes, cut: int) -> None:
    decoder = Decoder(scratch(256), allocate, 10_000)
    with contextlib.suppress(WireError):
        run(decoder, data, itertools.repeat(cut))


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40)]
)
def test_http_and_tls_bytes_are_no_frames(data: bytes) -> None:
    with pytest.raises(WireError):
        run(Decoder(scratch(256), allocate, LIMIT), data, [256])


def test_a_frame_of_the_most_buffers_that_a_frame_can_have_is_read() -> None:
    frame = Sent(3, 0, 1, b"p", ((b"x", False),) * wire.MAX_BUFFERS)
    (got,) = run(Decoder(scratch(1 << 18), allocate, LIMIT), frame.encoded(), itertools.repeat(1 << 18))
    assert len(got.buffers) == wire.MAX_BUFFERS


# --- encoded frames, taken apart again


@pytest.mark.parametrize("parts", [False, True])
def test_a_readdressed_frame_differs_in_its_id_alone(parts: bool) -> None:
    whole = Sent(4, 2, 5, b"payload", ((b"buffer", True),))
    encoded: bytes | list[bytes | bytearray | memoryview] = whole.encoded()
    if parts:
        encoded = [whole.encoded()[:-6], memoryview(b"buffer")]
    assert wire.kind_of(encoded) == 4
    assert wire.size_of(encoded) == len(whole.encoded())
    again = wire.readdress(encoded, 2**40)
    joined = again if isinstance(again, bytes) else b"".join(again)
    assert joined == Sent(4, 2, 2**40, b"payload", ((b"buffer", True),)).encoded()
    assert isinstance(again, bytes) is not parts
