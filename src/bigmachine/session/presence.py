"""A session makes itself known to its user's other programs, `bigmachine` on the command line first of all.

It has a record in the register and listens on a socket there. Both cost next to nothing while nobody comes: what
answers (`control` and what that names) is imported when somebody does. Where the register cannot be written, there is
neither, and the session is none the worse.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bigmachine.errors import MachineStopped
from bigmachine.machine import Machine, State
from bigmachine.session import register
from bigmachine.session.register import Ended, Record

if TYPE_CHECKING:
    import asyncio

    from bigmachine.session.control import Control
    from bigmachine.session.session import Session

_log = logging.getLogger("bigmachine")
#: What changes within this is written together; the end of a machine sooner, for it may be the driver's, too.
_PAUSE: Final = 1.0
_SOON: Final = 0.05
#: So often it is written in any case: of a driver that is gone, the record says how long ago it was still there.
_BEAT: Final = 60.0
#: Machines that have stopped and are still told of.
_STOPPED: Final = 200
#: For what has been written last to reach those who follow it, and for them to be told of the end.
_FAREWELL: Final = 1.0
_WAITING: Final = 16
#: Characters of the reason why a machine has stopped.
_LONGEST: Final = 500
#: Files in the register, beyond which it is tidied at a session's beginning, too: drivers that crash do it at no end.
_CROWDED: Final = 100


class Presence:
    """What others see of a session. What happens is told on the session's event loop, its end elsewhere."""

    def __init__(self, session: Session, folder: str, record: Record, listener: socket.socket) -> None:
        self._session = session
        self._folder = folder
        self._record = record
        self._listener = listener
        self._why: tuple[str, str] | None = None
        self._stopped: deque[dict[str, object]] = deque(maxlen=_STOPPED)
        self._saving: asyncio.TimerHandle | None = None
        self._control: Control | None = None
        session._reactor.post(self._listen)

    @classmethod
    def announce(cls, session: Session) -> Presence | None:
        """Make a session known; None where that is not possible."""
        try:
            folder = register.made_folder()
            record = _record_of(session)
            if not record.born:
                raise ValueError("when this process was started cannot be found out")
            listener = socket.socket(socket.AF_UNIX)
            try:
                listener.setblocking(False)
                with register.reachable(folder, record.id) as path:
                    listener.bind(path)
                    os.chmod(path, 0o600)
                listener.listen(_WAITING)
                register.save(folder, record)
                if len(os.listdir(folder)) > _CROWDED:
                    register.tidy(folder)
            except BaseException:
                listener.close()
                register.drop_socket(folder, record.id)
                raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the session can begin; `sys.argv` may be anything)
            _log.debug("this session is not to be found by `bigmachine` on the command line: %s", error)
            return None
        return cls(session, folder, record, listener)

    def _listen(self) -> None:
        self._hear()
        self._save_in(_BEAT)

    def _hear(self) -> None:
        if self._listener.fileno() >= 0:
            self._session._reactor.loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it went away
        except OSError as error:  # there is no descriptor left: to try at once would take the whole processor
            _log.debug("somebody who wanted to see the session could not: %s", error)
            loop = self._session._reactor.loop
            loop.remove_reader(self._listener)
            loop.call_later(_PAUSE, self._hear)
            return
        if self._control is None:
            from bigmachine.session.control import Control

            self._control = Control(self._session)
        self._control.take(connection)

    # what happens

    def changed(self) -> None:
        """Machines have come, or changed their state: note it soon."""
        self._save_in(_PAUSE * (1 + len(self._session._owned) / 100))  # a record of many takes longer to write

    def stopped(self, machine: Machine) -> None:
        """An owned machine has stopped."""
        self._stopped.append(told_of(machine))
        self._save_in(_SOON)

    def _save_in(self, seconds: float) -> None:
        loop = self._session._reactor.loop
        if self._saving is not None:
            if self._saving.when() <= loop.time() + seconds:
                return
            self._saving.cancel()
        if self._why is None:
            self._saving = loop.call_later(seconds, self._save)

    def machines(self) -> list[dict[str, object]]:
        """Tell of all machines that there are, and of the last ones that have stopped."""
        gone = {each["address"] for each in self._stopped}
        return [
            *self._stopped,
            *(told_of(machine) for machine in self._session.machines() if machine.address not in gone),
        ]

    def record(self) -> Record:
        """Give what is known now."""
        return replace(
            self._record, updated=time.time(), machines=self.machines(), cost=cost_of(self._session), ended=None
        )

    def _save(self) -> None:
        self._saving = None
        self._write()
        self._save_in(_BEAT)

    def _write(self, ended: Ended | None = None) -> None:
        try:
            register.save(self._folder, replace(self.record(), ended=ended))
        except Exception as error:  # noqa: BLE001 (a System, which is anybody's, tells the cost)
            _log.debug("what the register says of this session is not up to date: %s", error)

    # the end

    def because(self, error: BaseException | None) -> None:
        """Note why the session is about to end: an exception that left its block, or that block's end."""
        if self._why is None:
            self._why = _why(error) if error is not None else ("finished", "the program left the session's block")

    def ending(self) -> None:
        """Note that the session is about to end, if nothing has been said about why."""
        if self._why is None:
            last: BaseException | None = getattr(sys, "last_value", None)
            self._why = ("finished", "the program shut it down") if last is None else _why(last)

    def tidy(self) -> None:
        """Begin to tidy the register, which the end does not wait for then: its system takes longer to end."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._session._reactor.post(self._tidy)

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            register.tidy(self._folder)

    def end(self) -> None:
        """Say that the session has ended, and send those away who look at it; in bounded time."""
        try:
            self._session._reactor.run(self._leave(), 4 * _FAREWELL)
        except Exception as error:  # noqa: BLE001 (whatever it is, the session has to end)
            _log.debug("the register does not say how this session ended: %r", error)

    async def _leave(self) -> None:
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        self._session._reactor.loop.remove_reader(self._listener)
        self._listener.close()
        register.drop_socket(self._folder, self._record.id)
        why, text = self._why or ("finished", "")
        self._write(Ended(time.time(), why, text))
        if self._control is not None:
            await self._control.close(_FAREWELL)


def _why(error: BaseException) -> tuple[str, str]:
    """Say what an exception that ends a session means for it."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "the program was interrupted (Ctrl-C)"
    if isinstance(error, SystemExit):
        return "exit", f"the program called sys.exit({error.code if isinstance(error.code, int) else ''})"
    text = str(error).strip().partition("\n")[0]
    return "error", f"the program failed: {type(error).__name__}{f': {text[:300]}' if text else ''}"


def _record_of(session: Session) -> Record:
    pid = os.getpid()
    now = time.time()
    argv = register.without_secrets(getattr(sys, "argv", None) or [""])
    try:
        directory = os.getcwd()
    except OSError:
        directory = ""
    return Record(
        session._id,
        pid,
        register.born(pid),
        register.here(),
        name=session.name,
        program=os.path.basename(argv[0]) or "python",
        argv=argv,
        directory=directory,
        python=".".join(map(str, sys.version_info[:3])),
        system="" if session.system is None else session.system.name,
        started=now,
        updated=now,
    )


def told_of(machine: Machine) -> dict[str, object]:
    """Tell how a machine is, as JSON has it."""
    told: dict[str, object] = {
        "name": machine.name,
        "address": machine.address,
        "host": machine.hostname,
        "state": machine.state.name,
        "owned": machine.owned,
        "maxprocs": machine.maxprocs,
    }
    if machine.state is State.STARTING:
        told["phase"] = machine.phase.value
    error = machine.error
    if machine.state is State.STOPPED and error is not None:
        told["text"] = str(error).partition("\n")[0][:_LONGEST]
        if isinstance(error, MachineStopped):
            told["cause"] = str(error.certificate.cause)
            told["stopped"] = error.certificate.stopped
            told["text"] = error.certificate.describe()[:_LONGEST]
    return told


def cost_of(session: Session) -> dict[str, float] | None:
    """Tell dollars an hour and altogether, where the system knows, and how many hosts have no price that is known."""
    receipt = session.cost()
    if receipt is None:
        return None
    return {"per_hour": round(receipt.per_hour, 4), "total": round(receipt.total, 4), "unpriced": receipt.unpriced}


__all__ = ["Presence", "cost_of", "told_of"]
