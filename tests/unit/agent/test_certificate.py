"""A certificate gives the reason that was known, and otherwise what the kernel says."""

from __future__ import annotations

import signal

import pytest

from bigmachine.agent.certificate import Ending, Reason, certify, peak_memory
from bigmachine.errors import Cause, DeathCertificate


def certificate(status: int, reason: Reason | None = None, *, is_serving: bool = True) -> DeathCertificate:
    ending = Ending(4711, status, 1 << 20, 0.5)
    return certify(
        "h1-m1", ending, reason=reason, is_serving=is_serving, started=1.0, stopped=3.5, last_lines=("a", "b")
    )


def test_an_exit_status_is_the_second_byte_of_the_wait_status() -> None:
    made = certificate(3 << 8)
    assert (made.cause, made.exit_status, made.signal) == ("exited", 3, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_is_the_low_bits_of_the_wait_status(number: signal.Signals) -> None:
    made = certificate(number)
    assert (made.cause, made.exit_status, made.signal) == ("signal", None, number)


def test_a_core_dump_does_not_change_the_signal() -> None:
    assert certificate(signal.SIGSEGV | 0x80).signal == signal.SIGSEGV


def test_a_known_reason_goes_before_what_the_kernel_says_and_keeps_it() -> None:
    made = certificate(signal.SIGKILL, Reason(Cause.LEASE_EXPIRED, "no keepalive"))
    assert (made.cause, made.detail, made.signal) == ("lease_expired", "no keepalive", signal.SIGKILL)


def test_it_carries_the_process_and_its_last_words() -> None:
    made = certificate(0)
    assert (made.machine, made.pid, made.peak_memory, made.cpu_time) == ("h1-m1", 4711, 1 << 20, 0.5)
    assert made.lifetime == 2.5
    assert made.last_lines == ("a", "b")


def test_an_end_before_it_served_is_told() -> None:
    assert "not come up" in certificate(signal.SIGSEGV, is_serving=False).detail


def test_peak_memory_is_in_bytes_on_every_system() -> None:
    assert peak_memory(1024, "linux") == 1 << 20
    assert peak_memory(1 << 20, "darwin") == 1 << 20
