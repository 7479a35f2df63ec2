"""The tree of errors, and what a death certificate says."""

from __future__ import annotations

import copy
import pickle

import pytest

from bigmachine.errors import (
    BigmachineError,
    Cause,
    DeadlineExceeded,
    DeathCertificate,
    MachineStopped,
    NetworkError,
    ProvisionError,
    RemoteError,
    RemoteTraceback,
    is_remote,
)

CERTIFICATE = DeathCertificate(
    "signal",
    "m3",
    signal=9,
    peak_memory=5 * 2**20,
    cpu_time=0.5,
    started=100.0,
    stopped=103.5,
    last_lines=("one", "two"),
)


def test_a_cause_is_one_whoever_wrote_it() -> None:
    assert CERTIFICATE.cause is Cause.SIGNAL
    assert str(CERTIFICATE.cause) == "signal"
    with pytest.raises(ValueError, match="bored"):
        DeathCertificate("bored")


def test_a_stopped_machine_reads_like_a_diagnosis() -> None:
    text = str(MachineStopped(CERTIFICATE))
    for part in ("machine m3 stopped (signal) by SIGKILL", "It lived 3.5 s", "5 MiB", "0.50 s of CPU", "    two"):
        assert part in text


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_a_remedy(cause: Cause) -> None:
    assert len(DeathCertificate(cause, "m1").remedy) > 20


@pytest.mark.parametrize(
    "error",
    [
        MachineStopped(CERTIFICATE),
        ProvisionError("none left", temporary=True),
        RemoteError("app.Odd", "message", "traceback", "it cannot be pickled"),
        NetworkError("cut"),
    ],
)
def test_an_error_survives_a_pickle(error: BigmachineError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.temporary == error.temporary


def test_a_deadline_is_a_time_out_of_python() -> None:
    assert issubclass(DeadlineExceeded, TimeoutError)


def test_what_was_raised_on_a_machine_is_told_from_what_was_raised_here() -> None:
    here, there = ValueError(), ValueError()
    there.__cause__ = RemoteTraceback("Traceback ...", "m1")
    assert (is_remote(here), is_remote(there), is_remote(RemoteError("x", "y"))) == (False, True, True)


def test_a_program_that_never_ran_is_not_said_to_be_at_fault() -> None:
    text = str(MachineStopped(DeathCertificate(Cause.BOOT_FAILED, "m1", "too many open files; see `ulimit -n`")))
    assert "runs the same program" not in text
    assert "put right what is named here" in text
    ended = DeathCertificate(Cause.BOOT_FAILED, "m1", "RuntimeError: no", exit_status=1)
    assert "runs the same program" in str(MachineStopped(ended))


def test_of_a_crash_among_many_threads_the_one_that_crashed_is_shown() -> None:
    other = ["Thread 0x1 (most recent call first):", *(f"  File other {number}" for number in range(20)), ""]
    crashed = ["Current thread 0x2 (most recent call first):", "  File crashed", ""]
    lines = ("Fatal Python error: Segmentation fault", "", *other, *crashed, *other)
    text = str(MachineStopped(DeathCertificate(Cause.SIGNAL, "m1", signal=11, last_lines=lines)))
    shown = text.partition("its last lines of output:\n")[2].splitlines()
    assert [line.strip() for line in shown[:3]] == [lines[0], crashed[0], crashed[1].strip()]


def test_of_a_crash_the_place_is_shown_and_not_the_end_of_the_stack() -> None:
    stack = [f"  File {number}" for number in range(60)]
    lines = ("before", "Fatal Python error: Segmentation fault", "", "Current thread", *stack, "Extension modules: a")
    text = str(MachineStopped(DeathCertificate(Cause.SIGNAL, "m1", signal=11, last_lines=lines)))
    assert "before" in text
    assert "File 0" in text
    assert "Extension modules" not in text
    assert "File 59" not in text
