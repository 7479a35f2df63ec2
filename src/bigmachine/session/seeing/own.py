"""The driver's own process, looked at like a machine."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from typing import Final

from bigmachine.agent.watch import pyspy
from bigmachine.errors import BigmachineError
from bigmachine.observe.profile import Profile

#: How the driver is called among the machines.
NAME: Final = "driver"
_PATIENCE: Final = 5.0
#: prctl(2): who may trace this process, where the kernel (Yama) lets ancestors only; and anybody of this user.
_PR_SET_PTRACER: Final = 0x59616D61
_ANYBODY: Final = ctypes.c_ulong(-1)


def sample(seconds: float, sampling: pyspy.Sampling) -> bytes | Profile:
    """Sample this process: folded stacks by py-spy; or, where that may not, a profile from inside.

    Raises:
        BigmachineError: if only py-spy could do it, and cannot.
    """
    try:
        return _by_py_spy(seconds, sampling)
    except (BigmachineError, OSError, subprocess.SubprocessError) as error:
        if sampling.gil or sampling.native:
            raise BigmachineError(f"the driver cannot be sampled by py-spy: {error}") from error
        from bigmachine.observe import sampler

        return sampler.sample(seconds, sampling.hertz)


def _by_py_spy(seconds: float, sampling: pyspy.Sampling) -> bytes:
    whole = max(1, round(seconds))
    with tempfile.TemporaryFile() as result:  # without a name: nothing stays, however this process ends
        command = [pyspy.program(), "record", "--pid", str(os.getpid()), "--duration", str(whole), "--format", "raw"]
        command += [*sampling.options(), "--threads", "--full-filenames", "--output", f"/dev/fd/{result.fileno()}"]
        _let_trace(_ANYBODY)
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=whole + _PATIENCE,
                check=False,
                pass_fds=[result.fileno()],
            )
        finally:
            _let_trace(ctypes.c_ulong(0))
        if done.returncode:
            raise BigmachineError(f"py-spy failed: {done.stderr.decode(errors='replace').strip()}")
        result.seek(0)  # where it was opened anew this stands at the start; elsewhere it is the same open file
        return result.read()


def _let_trace(whom: ctypes.c_ulong) -> None:
    if sys.platform == "linux":  # without Yama the kernel refuses, and everybody of this user may anyway
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, whom, 0, 0, 0)


def born() -> float:
    """Tell when this process was started, in seconds since the epoch."""
    import psutil

    try:
        return float(psutil.Process().create_time())
    except psutil.Error:
        return time.time()


__all__ = ["NAME", "born", "sample"]
