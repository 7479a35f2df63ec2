"""The life of a machine's process: be told who it is, run the program's main, and serve from where that says `start`.

The main never comes back from `start` (`serve` ends the process), so whatever comes back here means that the machine
did not come up. The agent is told why before the process ends; the reason is not printed as well, because the driver
shows it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import resource
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

from bigmachine.agent.commands import CONTROL_FD
from bigmachine.agent.processes.control import BlockingChannel
from bigmachine.agent.processes.prctl import die_with, name_process
from bigmachine.errors import Cause
from bigmachine.image import run as run_entry
from bigmachine.program import boot, failure
from bigmachine.program.debugging import Debugging
from bigmachine.program.records import send_records

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from bigmachine.program.boot import Boot

#: Seconds for finalizers at the end of a machine.
_FINALIZING: Final = 5.0
#: With so many blocks of memory in use, a look for garbage, which nothing can interrupt, takes some 0.5 s and more.
_MUCH: Final = 5_000_000


def main(orders: dict[str, Any]) -> NoReturn:
    """Be a machine in a process that was spawned for it; `orders` say who the agent is."""
    with contextlib.suppress(PermissionError):  # the leader of a group already
        os.setsid()
    parent = int(orders["parent"])
    with contextlib.suppress(OSError, ValueError):
        # The agent has raised its own; a program that select()s must not get numbers above 1024 by surprise.
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (int(orders["files"]), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
    if not die_with(parent):
        threading.Thread(target=_watch_parent, args=(parent,), name="bigmachine-parent", daemon=True).start()
    run(BlockingChannel(socket.socket(fileno=CONTROL_FD)))


def run(channel: BlockingChannel, blank: ssl.SSLContext | None = None) -> NoReturn:
    """Be the machine that the agent describes on `channel`, in a process that leads its own session.

    `blank`: see `Boot`.
    """
    status = 1
    try:
        message = channel.receive()
        if message is not None:
            status = _live(boot.read(message, channel, blank))
    except OSError:
        pass  # the agent is gone, and so is whoever would want to know
    except Exception as error:  # noqa: BLE001 (the edge of the process)
        _tell(channel, failure.failed(Cause.BOOT_FAILED, f"{type(error).__name__}: {error}", error))
    finish(status)


def _live(machine: Boot) -> int:
    """Run the program; gives the status to exit with."""
    channel, entry = machine.channel, machine.spec.entry
    name_process(f"bigm-{machine.spec.name}")
    try:
        boot.check_image(machine.spec)
        boot.apply(machine.spec)
        _watch_if_asked()
        send_records(channel)
        machine.debugging = Debugging(channel.send, machine.spec.breakpoint_wait)
        machine.debugging.install()
        channel.send({"k": "phase", "phase": "importing"})
        run_entry(entry)
        if not entry.calls_start:
            # There is no main that would say it, so here is the smallest one.
            importlib.import_module("bigmachine").init()
    except SystemExit as error:
        status = exit_status(error)
        detail = f"the program called sys.exit({error.code!r}) before it reached bigmachine.start()"
        _tell(channel, failure.failed(Cause.EXITED, detail, text=failure.describe(error)))
        return status
    except KeyboardInterrupt:
        end_by(signal.SIGINT)
    except BaseException as error:  # noqa: BLE001 (the program's own, of any class)
        _tell(channel, failure.failed(Cause.BOOT_FAILED, _headline(error), error))
        return 1
    if machine.is_served:
        threading.Event().wait()  # start was called in another thread, and serves there
    _tell(channel, failure.failed(Cause.BOOT_FAILED, failure.NOT_REACHED))
    return 1


def _watch_if_asked() -> None:
    """Begin to note locks and allocations, where the machine was started with that: before the program is imported."""
    if "BIGMACHINE_MUTEX" in os.environ:
        from bigmachine.observe import contention

        contention.install_if_asked()
    if "BIGMACHINE_TRACEMALLOC" in os.environ:
        from bigmachine.observe import allocations

        allocations.trace_if_asked()


def exit_status(error: SystemExit) -> int:
    """Give the status that the interpreter would exit with, and print what it would print."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)  # noqa: T201 (as the interpreter does)
    return 1


def finish(status: int, let_go: Callable[[], None] = lambda: None) -> NoReturn:
    """End the process as an interpreter does, but without waiting for threads.

    `let_go`: gives up what the program's objects are held by, so that their finalizers run (a file's, which writes what
    it has not yet, or removes it). What a running call holds is not finalized.
    """
    try:
        with contextlib.suppress(BaseException):  # nothing may keep the process
            atexit._run_exitfuncs()  # the only way to run them and still choose the status
        _flush()
        with contextlib.suppress(BaseException):
            _finalize(status, let_go)
        _flush()
    finally:
        os._exit(status)


def _finalize(status: int, let_go: Callable[[], None]) -> None:
    """Run finalizers, but exit when they take long."""
    limit = threading.Timer(_FINALIZING, os._exit, (status,))
    limit.daemon = True
    limit.start()
    let_go()
    if sys.getallocatedblocks() < _MUCH:
        gc.collect()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or None
            stream.flush()


def end_by(number: signal.Signals) -> NoReturn:
    """End the process by a signal, so that whoever waits for it sees which."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def _tell(channel: BlockingChannel, body: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the agent is gone
        channel.send(body)


def _headline(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _watch_parent(parent: int) -> None:
    """End with the agent, where the kernel does not see to it (macOS)."""
    while os.getppid() == parent:
        threading.Event().wait(0.2)
    os._exit(1)


__all__ = ["end_by", "exit_status", "finish", "main", "run"]
