"""The reading end: it gives back as much credit as it was sent, and ends by an error after the items before it."""

from __future__ import annotations

import pytest

from bigmachine.errors import InvalidCall, NetworkError
from bigmachine.rpc.streams.incoming import Incoming
from bigmachine.rpc.streams.streamed import WINDOW_BYTES, WINDOW_ITEMS
from bigmachine.rpc.wire import CLOSE, CREDIT, ITEM, OVERSIZED, WireError, small_frame
from tests.unit.rpc.stream_host import Host


def test_credit_for_more_than_a_frame_can_say_goes_in_several() -> None:
    host = Host()
    incoming = Incoming(host, 1, "huge")
    incoming.put("item", 3 * 2**32)
    assert incoming.pull() == "item"
    host.work_off()
    assert host.kinds() == [CREDIT] * 4
    granted = [int.from_bytes(frame[16:20], "little") for frame in host.sent]
    items = [int.from_bytes(frame[20:24], "little") for frame in host.sent]
    assert sum(granted) == 3 * 2**32
    assert sum(items) == 1


def test_an_oversized_item_ends_the_stream_with_its_size() -> None:
    host = Host()
    incoming = Incoming(host, 5, "S.m")
    host.stream_frame(ITEM, OVERSIZED, 5, bytearray(b"123456"), None)
    with pytest.raises(InvalidCall, match=r"an item of the stream S\.m has 123,456 bytes"):
        incoming.pull()
    assert host.sent == [small_frame(CLOSE, 0, 5)]


def test_the_first_end_is_the_one_that_counts_and_comes_after_the_items() -> None:
    host = Host()
    incoming = Incoming(host, 5, "S.m")
    incoming.put("item", 20)
    incoming.end(NetworkError("first"))
    incoming.end(None)
    incoming.end(NetworkError("second"))
    assert incoming.pull() == "item"
    with pytest.raises(NetworkError, match="first"):
        incoming.pull()
    with pytest.raises(StopIteration):
        incoming.pull()
    assert host.incoming == {}


def test_no_credit_is_given_for_a_stream_that_has_ended_or_was_closed() -> None:
    host = Host()
    ended = Incoming(host, 5, "S.m")
    ended.put("item", 10 * 2**20)
    ended.end(None)
    assert ended.pull() == "item"
    closed = Incoming(host, 6, "S.m")
    closed.put("item", 10 * 2**20)
    closed.close()
    host.work_off()
    assert host.sent == [small_frame(CLOSE, 0, 6)]


def test_what_comes_in_the_moment_of_closing_is_not_read() -> None:
    incoming = Incoming(Host(), 5, "S.m")
    incoming.put(1, 20)
    incoming.close()
    incoming.put(2, 20)  # the loop was about to
    with pytest.raises(StopIteration):
        incoming.pull()


def test_the_last_item_may_go_beyond_the_bytes_and_no_further_one() -> None:
    host = Host()
    incoming = Incoming(host, 5, "S.m")
    incoming.put("item", 10 * WINDOW_BYTES)
    with pytest.raises(
        WireError, match=r"the stream S\.m has 2 items after 41,943,040 bytes, but credit for 1,024 items"
    ):
        incoming.put("another", 20)


def test_items_beyond_the_credit_are_the_end_of_the_connection_and_what_is_read_is_credit() -> None:
    host = Host()
    incoming = Incoming(host, 5, "S.m")
    for n in range(10 * WINDOW_ITEMS):
        incoming.put(n, 20)
        assert incoming.pull() == n
        host.work_off()
    for n in range(WINDOW_ITEMS):
        incoming.put(n, 20)
    incoming.put(0, 20)  # one is not worth a connection
    with pytest.raises(WireError):
        incoming.put(0, 20)
