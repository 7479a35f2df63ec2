"""An agent as a child of the driver: its process, its first orders, its end.

It takes as long to import what it needs as its driver does, and the driver can start no machine before. So `start`
starts it before it does anything else, and this module imports next to nothing: of a driver's 90 ms of computing until
then (2 cores, Python 3.11) 60 come after it, and beside it. That is also why errors are imported where they are raised.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

from bigmachine.agent.commands import AGENT_MARK, agent_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigmachine.agent.bootstrap import Bootstrap
    from bigmachine.errors import ProvisionError

_REPORT_TIMEOUT: Final = 60.0
_STEP: Final = 0.05
_LAST_WAIT: Final = 5.0


class SpawnedAgent:
    """An agent as a child of this process. `port` is 0 until it has its orders and listens.

    Raises:
        ProvisionError: if it cannot be started.
    """

    def __init__(self) -> None:
        if not sys.executable:
            raise _failed("sys.executable is empty: local machines need to know this program's interpreter")
        self.id = f"h{os.urandom(3).hex()}"
        self.port = 0
        self._is_reading = False
        self._has_ended = False
        try:
            self._process = subprocess.Popen(
                agent_command(absolute(sys.path)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                cwd="/",
                env=os.environ | {AGENT_MARK: os.urandom(8).hex()},
            )
        except OSError as exc:
            raise _failed(f"the agent's process could not be started ({sys.executable}): {exc}") from exc

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def order(self, orders: Bootstrap) -> None:
        """Give it its orders, and wait until it listens.

        Raises: ProvisionError.
        """
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(orders.to_json())
        except (OSError, ValueError) as exc:
            raise self._died() from exc
        report = self._report()
        try:
            self.port = int(json.loads(report)["port"])
        except (ValueError, KeyError, TypeError) as exc:
            raise _failed(f"the agent reported {report[:200]!r} instead of its port") from exc

    def _report(self) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        self._is_reading = True
        try:
            if self._has_ended:
                raise self._died()
            return self._read_line(stdout.fileno())
        finally:
            self._is_reading = False
            if self._has_ended:
                stdout.close()

    def _read_line(self, fd: int) -> bytes:
        end = time.monotonic() + _REPORT_TIMEOUT
        report = b""
        while not report.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0:
                raise _failed(f"the agent (process {self._process.pid}) did not come up within {_REPORT_TIMEOUT:.0f} s")
            if select.select([fd], [], [], left)[0]:
                piece = os.read(fd, 4096)
                if not piece:
                    raise self._died()
                report += piece
        return report

    def _died(self) -> ProvisionError:
        try:
            status = self._process.wait(2)
        except subprocess.TimeoutExpired:
            return _failed(f"the agent (process {self._process.pid}) closed its pipe without saying why")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return _failed(
            f"the agent {how} before it listened; what it wrote to stderr says why. "
            f"Its command: {' '.join(agent_command([], interpreter=[])[:-2])} ..."
        )

    def end(self, timeout: float) -> None:
        """End it and its machines: by its tether, and if that takes more than `timeout` seconds by force."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # the tether: now it ends whatever is left
        try:
            _wait(process, max(_STEP, timeout))
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it stands in the kernel; nothing more can be done
                process.wait(_LAST_WAIT)
        finally:
            self._has_ended = True
            if not self._is_reading:  # else whoever reads closes it: its number must not be another file's meanwhile
                process.stdout.close()


def _wait(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Wait for the end of a child.

    At once, where the system has descriptors of processes: `subprocess` looks ever more seldom, in the end every 50 ms.

    Raises:
        subprocess.TimeoutExpired: if it does not end within `timeout` seconds.
    """
    if process.poll() is None and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # no descriptor is left
            descriptor = os.pidfd_open(process.pid)
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                timeout = _STEP if poll.poll(timeout * 1000) else 0.0
            finally:
                os.close(descriptor)
    process.wait(timeout)


def absolute(path: Sequence[str]) -> list[str]:
    """Make a module search path that means the same from everywhere."""
    return [os.path.abspath(entry) for entry in path]


def _failed(text: str) -> ProvisionError:
    from bigmachine.errors import ProvisionError

    return ProvisionError(text)


__all__ = ["SpawnedAgent", "absolute"]
