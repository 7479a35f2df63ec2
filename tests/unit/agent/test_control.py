"""Messages and open files arrive whole, in order, each with its own, however the bytes are cut or glued."""

from __future__ import annotations

import os
import random
import resource
import socket
from collections.abc import Iterator

import pytest

from bigmachine.agent.processes.control import BlockingChannel, Decoder, Message, encode, receive_chunk, send_chunk

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        yield one, other


def opened(text: bytes) -> int:
    """A descriptor from which `text` can be read."""
    read, write = os.pipe()
    os.write(write, text)
    os.close(write)
    return read


def contents(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def number_of_open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_messages_cut_anywhere_are_put_together() -> None:
    bodies: list[dict[str, object]] = [{"k": "a", "text": "line\nbreak"}, {"k": "b"}, {"k": "c", "n": 3}]
    data = b"".join(map(encode, bodies))
    rng = random.Random(1)
    for _ in range(100):
        cuts = sorted(rng.randrange(len(data)) for _ in range(8))
        decoder = Decoder(os.close)
        got: list[Message] = []
        for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True):
            decoder.feed(data[a:b])
            got += decoder.messages()
        assert [message.body for message in got] == bodies


@pytest.mark.parametrize("line", [b"[1]\n", b"nonsense\n", b'"text"\n', b"\xff\xfe\n", b"[" * 9999 + b"\n"])
def test_what_is_no_json_object_is_an_error(line: bytes) -> None:
    decoder = Decoder(os.close)
    decoder.feed(line)
    with pytest.raises(ValueError, match=r"."):
        list(decoder.messages())


def test_fields_of_the_wrong_type_count_as_missing() -> None:
    message = Message({"k": 3, "n": "x"})
    assert (message.kind, message.number("n"), message.text("nothing")) == ("", 0, "")


def test_files_go_to_the_messages_that_declare_them_in_order() -> None:
    decoder = Decoder(os.close)
    decoder.feed(encode({"k": "a"}) + encode({"k": "b"}, 2), [11, 12])
    decoder.feed(encode({"k": "c"}, 1)[:3], [13])
    decoder.feed(encode({"k": "c"}, 1)[3:] + encode({"k": "d"}))
    assert [(m.kind, m.fds) for m in decoder.messages()] == [("a", ()), ("b", (11, 12)), ("c", (13,)), ("d", ())]


def test_a_batch_that_was_cut_off_does_not_shift_the_files_of_later_messages() -> None:
    closed: list[int] = []
    decoder = Decoder(closed.append)
    decoder.feed(encode({"k": "a"}, 1), [])
    decoder.feed(encode({"k": "b"}, 1), [14])
    assert [(m.kind, m.fds) for m in decoder.messages()] == [("a", ()), ("b", (14,))]
    assert closed == []


def test_files_that_nobody_declared_are_closed() -> None:
    closed: list[int] = []
    decoder = Decoder(closed.append)
    decoder.feed(encode({"k": "a"}, 1), [15, 16])
    decoder.feed(b"unfinished", [17])
    list(decoder.messages())
    decoder.close()
    assert closed == [16, 17]


def test_files_arrive_over_a_socket_in_order_also_when_messages_are_read_late(pair: Pair) -> None:
    sender, receiver = BlockingChannel(pair[0]), BlockingChannel(pair[1])
    for i in range(20):
        fds = [opened(b"%d.%d" % (i, j)) for j in range(i % 3)]
        sender.send({"k": "m", "n": i}, fds)
        for fd in fds:
            os.close(fd)
    for i in range(20):
        message = receiver.receive()
        assert message is not None
        assert message.number("n") == i
        assert [contents(fd) for fd in message.fds] == [b"%d.%d" % (i, j) for j in range(i % 3)]


def test_received_files_are_not_inherited(pair: Pair) -> None:
    BlockingChannel(pair[0]).send({"k": "m"}, [0])
    message = BlockingChannel(pair[1]).receive()
    assert message is not None
    assert not os.get_inheritable(message.fds[0])
    os.close(message.fds[0])


def test_a_receiver_without_descriptors_still_gets_the_right_file_for_the_next_message(pair: Pair) -> None:
    sender, receiver = BlockingChannel(pair[0]), BlockingChannel(pair[1])
    lost, kept = opened(b"lost"), opened(b"kept")
    sender.send({"k": "lost"}, [lost])
    sender.send({"k": "kept"}, [kept])
    os.close(lost)
    os.close(kept)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        first = receiver.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    second = receiver.receive()
    assert first is not None
    assert (first.kind, first.fds) == ("lost", ())
    assert second is not None
    assert contents(second.fds[0]) == b"kept"


def test_a_message_larger_than_the_socket_buffer_gets_through(pair: Pair) -> None:
    import threading

    text = "x" * 3_000_000
    sender, receiver = BlockingChannel(pair[0]), BlockingChannel(pair[1])
    thread = threading.Thread(target=sender.send, args=({"k": "big", "text": text},))
    thread.start()
    message = receiver.receive()
    thread.join(10)
    assert message is not None
    assert message.text("text") == text


def test_the_other_sides_end_is_no_message(pair: Pair) -> None:
    BlockingChannel(pair[0]).close()
    assert BlockingChannel(pair[1]).receive() is None


def test_closing_a_channel_closes_the_files_that_wait_in_it(pair: Pair) -> None:
    before = number_of_open_files()
    sender, receiver = BlockingChannel(pair[0]), BlockingChannel(pair[1])
    sender.send({"k": "one"})
    for _ in range(3):
        fd = opened(b"")
        sender.send({"k": "conn"}, [fd])
        os.close(fd)
    assert receiver.receive() is not None
    # Taken off the socket, but not by anybody.
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):  # noqa: PT012 (until there is no more)
        while True:
            receiver.decoder.feed(*receive_chunk(pair[1]))
    receiver.close()
    assert number_of_open_files() == before - 1


def test_a_sender_whose_peer_is_gone_gets_an_error_and_no_signal(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(OSError, match=r"(?i)pipe|reset"):
        send_chunk(pair[0], b"x")


def test_the_next_message_of_a_kind_is_given_only_if_it_is_there_already(pair: Pair) -> None:
    sender, receiver = BlockingChannel(pair[0]), BlockingChannel(pair[1])
    assert receiver.next_of("fork") is None
    sender.send({"k": "fork", "n": 1}, [0])
    sender.send({"k": "fork", "n": 2}, [0])
    sender.send({"k": "other"})
    first, second = receiver.next_of("fork"), receiver.next_of("fork")
    assert first is not None
    assert second is not None
    assert [message.number("n") for message in (first, second)] == [1, 2]
    assert receiver.next_of("fork") is None  # but the other one is not lost
    other = receiver.receive()
    assert other is not None
    assert other.kind == "other"
    for message in (first, second):
        for fd in message.fds:
            os.close(fd)
    pair[0].close()
    assert receiver.next_of("fork") is None
