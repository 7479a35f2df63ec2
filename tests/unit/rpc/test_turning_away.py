"""Whoever connects to a process without descriptors is told so at once, and may come again."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import pytest

from bigmachine.errors import NetworkError
from bigmachine.rpc.complaints import Complaints
from bigmachine.rpc.losses import PeerFull, as_network_error
from bigmachine.rpc.turning_away import is_want_of_descriptors, turn_away

_log = logging.getLogger("bigmachine.rpc.test_turning_away")


def test_the_peer_hears_why_and_that_it_may_pass(caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    here, there = socket.socketpair()
    with here, there, ThreadPoolExecutor(1) as pool:
        here.settimeout(10)
        dialling = pool.submit(context.wrap_socket, here, server_hostname="m1")
        there.settimeout(10)
        assert there.recv(1, socket.MSG_PEEK)
        turn_away(there, Complaints(_log))
        error = dialling.exception(10)
    assert error is not None
    told = as_network_error(error, "m1 (127.0.0.1:1)")
    assert type(told) is PeerFull
    assert isinstance(told, NetworkError)
    assert told.temporary
    assert "m1 (127.0.0.1:1) has no file descriptor free" in str(told)
    (record,) = caplog.records
    assert "ulimit -n" in record.getMessage()
    assert there.fileno() == -1


def test_one_that_the_kernel_has_closed_already_is_logged_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints(_log)
    for _ in range(5):
        turn_away(None, complaints)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("number", "is_one"), [(errno.EMFILE, True), (errno.ENFILE, True), (errno.EPIPE, False)])
def test_a_want_of_descriptors_is_told_from_other_errors(number: int, is_one: bool) -> None:
    assert is_want_of_descriptors(OSError(number, "x")) is is_one


def test_another_alert_is_a_refusal() -> None:
    assert not isinstance(as_network_error(ssl.SSLError(1, "TLSV1_ALERT_UNKNOWN_CA"), "m1"), PeerFull)
