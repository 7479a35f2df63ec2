"""One machine on this host, as its agent keeps it: its process, what it writes, how it is, and how it ends.

The life of a machine's process: started, told what to be (the boot message), coming up (phases), serving, dead. Death
is in this order, so that nothing is lost and nothing is left: the kernel reports the end; the process group and what
left it are killed; pipes and control socket are read to their ends, for at most `LAST_WORDS` seconds (somebody else
may hold them open); the certificate is written; and only then the driver is told. `Supervisor.exec` repeats all but
the telling, with a new process.

The first reason for an end is the one kept, whether the agent had it (shutdown, lease, hung) or the program gave it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bigmachine.agent.certificate import REPORTED, Reason, certify
from bigmachine.agent.conversations import Conversations
from bigmachine.agent.output import MAX_LINES, LastLines
from bigmachine.agent.processes.loop_channel import LoopChannel
from bigmachine.agent.processes.pipes import PipeReader
from bigmachine.agent.processes.trackers import TIDYING, trackers
from bigmachine.agent.processes.tree import kill_all, kill_group, offer_to_oom_killer, sample, strays_of
from bigmachine.agent.records import RecordReader, as_text, decode
from bigmachine.agent.vitals import Vitals
from bigmachine.errors import Cause, DeathCertificate, InvalidCall, MachineStopped

if TYPE_CHECKING:
    from bigmachine.agent.certificate import Ending
    from bigmachine.agent.events import StreamName
    from bigmachine.agent.feed import Feed
    from bigmachine.agent.launch import LaunchSpec
    from bigmachine.agent.processes.children import Child, Nursery
    from bigmachine.agent.processes.control import Message
    from bigmachine.agent.processes.control_groups import ControlGroups
    from bigmachine.agent.processes.reaper import Reaper
    from bigmachine.agent.processes.scratch import Scratch
    from bigmachine.agent.watch.oom import OomWatch

#: How long the agent waits, after a process died, for its pipes to come to their ends.
LAST_WORDS: Final = 0.5
#: So deep may processes that left the group be nested below a machine (each level takes one round).
_ROUNDS: Final = 20
#: Connections that a program has not fetched yet; more are refused, for it is not listening.
_BACKLOG: Final = 128
#: What a process's state, as in proc(5), means for one that is hung.
_STILL: Final = {
    "T": "it was stopped (SIGSTOP, SIGTSTP)",
    "D": "it waits in the kernel, as for a disk or a network's file system",
    "S": "its I/O thread waits for something that does not come, such as a lock, and it used no CPU",
}


#: What a program has to end in that a debugger may hold.
_HELD: Final = 1.0


class Hosted:
    """A machine on this host. `start` it, then `follow` it to its end."""

    def __init__(
        self,
        spec: LaunchSpec,
        *,
        loop: asyncio.AbstractEventLoop,
        nursery: Nursery,
        reaper: Reaper,
        feed: Feed,
        hang: float,
        scratch: Scratch,
        groups: ControlGroups | None = None,
        oom: OomWatch | None = None,
    ) -> None:
        self.spec = spec
        self.started = time.time()
        self.certificate: DeathCertificate | None = None
        self.is_serving = False
        self.output_bytes = 0
        self.log_records = 0
        self.conversations = Conversations()
        self._with_files = {
            "records": self._hear_records,
            "halted": self._halted,
            "asks": self._may_be_asked,
            "journal": self._keep_journal,
        }
        self._journal: int | None = None  # where the program notes its calls, for the process that replaces it
        self._asked: LoopChannel | None = None
        self._loop = loop
        self._nursery = nursery
        self._reaper = reaper
        self._feed = feed
        self._hang = hang
        self._scratch = scratch
        self._groups = groups
        self._oom = oom
        self._child: Child | None = None
        self._channel: LoopChannel | None = None
        self._pipes: list[PipeReader] = []
        self._control_ended: asyncio.Future[None] = loop.create_future()
        self._early: list[int] = []
        self._lines = LastLines()
        self._records = RecordReader()
        self._vitals = Vitals(hang, loop.time())
        self._dump: asyncio.Future[Message] | None = None
        self._probes = 0
        self._answers = 0
        self._reason: Reason | None = None
        self._next: LaunchSpec | None = None
        self._is_between = False
        self._has_turned = asyncio.Event()
        self._stopped: asyncio.Future[DeathCertificate] = loop.create_future()

    @property
    def id(self) -> str:
        """The machine's id."""
        return self.spec.machine_id

    @property
    def is_between(self) -> bool:
        """Whether its process is being replaced by another one, by `restart`: the machine lives on."""
        return self._is_between and self._reason is None

    @property
    def pid(self) -> int:
        """The pid of its process.

        Raises:
            MachineStopped: if there is none any more.
        """
        if self._child is None:
            if self.certificate is not None:
                raise MachineStopped(self.certificate)
            return 0
        return self._child.pid

    async def start(self) -> None:
        """Start the process.

        Raises:
            ProvisionError: if the host cannot start one.
        """
        self.spec = replace(self.spec, scratch=self._scratch.assign(self.spec.environ, self.spec.cwd))
        try:
            child = await self._nursery.start(self.spec)
        except BaseException:
            self._scratch.drop(self.spec.scratch)
            raise
        self._adopt(child)

    def abandon(self, error: BaseException) -> None:
        """Release whoever waits for the end of a machine that never got a process."""
        detail = f"no process could be started: {error}"
        self.certificate = DeathCertificate(Cause.BOOT_FAILED.value, self.id, detail, started=self.started)
        self._stopped.set_result(self.certificate)
        self._let_in()

    def _adopt(self, child: Child) -> None:
        self._child = child
        self.is_serving = False
        self._vitals = Vitals(self._hang, self._loop.time())
        self._probes = self._answers = 0
        self._control_ended = self._loop.create_future()
        self._channel = LoopChannel(child.control, self._loop, self._on_message, self._on_control_end)
        # First of all: it can begin while the rest is seen to.
        boot = {"k": "boot", "identity": self.spec.identity.to_dict(), "spec": self.spec.to_text()}
        self._channel.send(boot, () if self._journal is None else (os.dup(self._journal),))
        offer_to_oom_killer(child.pid)
        if self._oom is not None:
            self._oom.glance([child.pid], self._loop.time())
        self._pipes = [
            PipeReader(self._loop, child.stdout, lambda data: self._on_output("stdout", data)),
            PipeReader(self._loop, child.stderr, lambda data: self._on_output("stderr", data)),
        ]
        if self._feed.is_full:
            self.pause()
        self._feed.phase(self.id, "executing")
        if self._groups is not None:
            self._groups.begin(self.id, child.pid, lambda move: self._loop.run_in_executor(None, move))
        self._let_in()
        self._is_between = self._next is not None
        if not self._is_between:
            self._has_turned.set()
        if self._reason is not None or self._next is not None:
            kill_group(child.pid)  # it was to end, or to be replaced again, while it was being born

    def _let_in(self) -> None:
        while self._early:
            self.connect(self._early.pop(0))

    # what it is asked to do

    def connect(self, fd: int) -> None:
        """Pass an accepted connection on to the program, which may still be coming up; `fd` is closed here."""
        if self._channel is None and len(self._early) < _BACKLOG and self.certificate is None:
            self._early.append(fd)
        elif self._channel is None or self._channel.backlog >= _BACKLOG:
            os.close(fd)
        else:
            self._channel.send({"k": "conn"}, (fd,))

    async def stop(self, cause: Cause, grace: float, detail: str = "") -> DeathCertificate:
        """Ask it to end, kill it after `grace` seconds, and wait until it is gone."""
        self._intend(Reason(cause, detail))
        if self.is_serving and grace > 0 and self._channel is not None:
            if self.conversations.holds_program:
                grace = min(grace, _HELD)
            self._channel.send({"k": "shutdown"})
            await asyncio.wait([self._stopped], timeout=grace)
        self.kill(cause, detail)
        return await asyncio.shield(self._stopped)

    def drain(self) -> None:
        """Have its services finish what they are at: its host will be taken back."""
        if self.is_serving and self._channel is not None:
            self._channel.send({"k": "drain"})

    def open_conversation(self, kind: str, code: str) -> socket.socket:
        """Ask the program for a shell, or another conversation of that kind, and give the agent's end of it.

        Raises:
            InvalidCall: if it does not serve yet.
        """
        if not self.is_serving or self._asked is None:
            raise InvalidCall(f"machine {self.spec.name} does not serve yet: wait until it is RUNNING")
        mine, its = socket.socketpair()
        self._asked.send({"kind": kind, "code": code}, (its.detach(),))
        return mine

    async def ended(self, patience: float) -> None:
        """Wait until it is gone and its certificate is written, but not longer than `patience` seconds."""
        await asyncio.wait([self._stopped], timeout=patience)

    def kill(self, cause: Cause, detail: str = "", text: str = "") -> None:
        """Kill it now."""
        self._intend(Reason(cause, detail, text))
        if self._child is not None and not self._child.ending.done():
            kill_group(self._child.pid)

    async def restart(self, spec: LaunchSpec) -> None:
        """Replace the process by a new one made from `spec`, under the same identity (Go: `Supervisor.Exec`).

        Returns once the new one is there, or the machine is gone.
        """
        self._next = spec
        self._is_between = True
        self._has_turned.clear()
        if self._child is not None and not self._child.ending.done():
            kill_group(self._child.pid)
        await self._has_turned.wait()

    # what it does

    def _decide(self, reason: Reason) -> None:
        if self._reason is None:
            self._reason = reason

    def _intend(self, reason: Reason) -> None:
        # A process that is dead already died of something else, unless another one is about to take its place.
        if self._child is None or not self._child.ending.done() or self._is_between:
            self._decide(reason)

    def _on_message(self, message: Message) -> None:
        take = self._with_files.get(message.kind)
        if take is not None and len(message.fds) == 1:
            take(message)
            return
        for fd in message.fds:
            os.close(fd)
        if message.kind == "alive":
            self._answers = max(self._answers, message.number("n"))
            self._vitals.answered(self._loop.time())
        elif message.kind == "phase":
            self._drain()
            self._feed.phase(self.id, message.text("phase"))
            if message.number("ack") and self._channel is not None:
                self._channel.send({"k": "phased"})  # what it writes from now on belongs to the phase
        elif message.kind == "serving":
            self.is_serving = True
            self._vitals.serves(self._loop.time())
            self._drain()
            self._feed.phase(self.id, "serving")
        elif message.kind == "dumped" and self._dump is not None and not self._dump.done():
            self._dump.set_result(message)
        elif message.kind == "failed":
            self._on_failed(message)
        elif message.kind == "goes on":
            self.conversations.go_on(message.number("n"))

    def _hear_records(self, message: Message) -> None:
        """Read the pipe by which the program sends what it logs, as its output is read."""
        fd = message.fds[0]
        os.set_blocking(fd, False)
        self._pipes.append(PipeReader(self._loop, fd, self._on_records))
        if self._feed.is_full:
            self.pause()

    def _keep_journal(self, message: Message) -> None:
        self._drop_journal()
        self._journal = message.fds[0]

    def _drop_journal(self) -> None:
        if self._journal is not None:
            os.close(self._journal)
            self._journal = None

    def _may_be_asked(self, message: Message) -> None:
        """Keep the socket by which a thread of the program can be asked for a conversation."""
        self._asked = LoopChannel(socket.socket(fileno=message.fds[0]), self._loop, _ignore, lambda: None)

    def _halted(self, message: Message) -> None:
        halt = self.conversations.wait(
            message.number("n"), message.text("where"), message.text("thread"), message.fds[0]
        )
        if halt is not None:
            self._drain()
            self._feed.halted(self.id, halt)

    def _drain(self) -> None:
        """Take in what the program wrote before the message at hand: the driver shows output by phase."""
        for pipe in self._pipes:
            pipe.drain()

    def _on_failed(self, message: Message) -> None:
        cause = message.text("cause")
        exception = message.text("exc")
        self._decide(
            Reason(
                Cause(cause) if cause in REPORTED else Cause.BOOT_FAILED,
                message.text("detail"),
                message.text("text"),
                base64.b64decode(exception) if exception else None,
            )
        )

    def _on_control_end(self) -> None:
        if not self._control_ended.done():
            self._control_ended.set_result(None)
        self._loop.call_later(LAST_WORDS, self._end_deaf, self._child)

    def _end_deaf(self, child: Child | None) -> None:
        """End a machine that lives on without its control socket: nobody could reach it, nor tell it to end."""
        if child is not None and child is self._child and not child.ending.done():
            self.kill(Cause.HUNG, "it closed its control socket; does the program close descriptors it has not opened?")

    def _on_output(self, stream: StreamName, data: bytes) -> None:
        self.output_bytes += len(data)
        self._lines.feed(stream, data)
        self._feed.output(self.id, stream, data)

    def _on_records(self, data: bytes) -> None:
        self.output_bytes += len(data)
        records = self._records.feed(data)
        self.log_records += len(records)
        for record in records[-MAX_LINES:]:
            self._lines.feed("log", f"{as_text(decode(record))}\n".encode())
        self._feed.output(self.id, "log", data)

    def pause(self) -> None:
        """Stop reading what it writes; not once it is dead, for what is left is little and matters most."""
        if self._child is not None and not self._child.ending.done():
            for pipe in self._pipes:
                pipe.pause()

    def resume(self) -> None:
        """Read on."""
        for pipe in self._pipes:
            pipe.resume()

    # how it is

    def examine(self, now: float) -> bool:
        """Look whether it is hung, and ask it for a sign of life."""
        if self._child is None or self._child.ending.done() or self._channel is None:
            return False
        if self.conversations.holds_program:
            self._vitals.excuse(now)
        if self._vitals.is_hung(now, sample(self._child.pid)):
            return True
        if self.is_serving and self._probes == self._answers:
            self._probes += 1
            self._channel.send({"k": "probe", "n": self._probes})
        return False

    def last_lines(self) -> tuple[str, ...]:
        """Give the last lines that it wrote and logged, up to now."""
        return self._lines.lines()

    async def dump(self, headroom: int, patience: float) -> Message | None:
        """Ask the program what it holds; `headroom`: the bytes it may still take. None if it does not answer in time.

        Only one at a time: the second gets the answer to the first.
        """
        if self._channel is None or not self.is_serving:
            return None
        if self._dump is None or self._dump.done():
            self._dump = self._loop.create_future()
            self._channel.send({"k": "dump", "headroom": headroom})
        awaited: list[asyncio.Future[Message] | asyncio.Future[None]] = [self._dump, self._control_ended]
        await asyncio.wait(awaited, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        return self._dump.result() if self._dump.done() else None

    def may_be_excused(self, now: float) -> bool:
        """Tell whether one that looks hung may only be waiting, in code in C."""
        return self._vitals.may_be_excused(now)

    def excuse(self, now: float) -> None:
        """Give it more time: it is waiting in code in C."""
        self._vitals.excuse(now)

    def stillness(self, now: float) -> str:
        """Say how it is hung."""
        seen = sample(self._child.pid) if self._child is not None else None
        how = _STILL.get(seen.state if seen is not None else "", "it used no CPU")
        return f"no sign of life for {self._vitals.silence(now):.1f} s: {how}"

    # its end

    async def follow(self) -> None:
        """Wait for the end of its process and of those that replace it; then tell the driver."""
        while self._child is not None:
            ending = await asyncio.shield(self._child.ending)
            await self._hear_out(ending)
            if self._next is None or self._reason is not None:
                self._conclude(ending)
                return
            if self._oom is not None:
                self._oom.forget(ending.pid)
            self.spec, self._next = self._next, None
            try:
                await self.start()
            except Exception as error:  # noqa: BLE001 (the edge: whatever it was, this machine is over)
                self._decide(Reason(Cause.BOOT_FAILED, f"it could not be started again: {error}"))
                self._conclude(ending)

    async def _hear_out(self, ending: Ending) -> None:
        """Take in the last words of a dead process, and see that nothing it started stays."""
        self.resume()
        await self._let_tidy(ending.pid)
        if self._groups is not None:
            self._groups.kill(self.id)
        for _ in range(_ROUNDS):
            strays = strays_of(self.id, ending.pid, self._reaper.known)
            if not strays:
                break
            kill_all(strays)
            await asyncio.sleep(0.002)  # until their children have become ours
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await asyncio.wait([self._control_ended])  # it may bring one more pipe
                await asyncio.wait([pipe.ended for pipe in self._pipes])
        for pipe in self._pipes:
            pipe.close()
        self.conversations.close()
        if self._asked is not None:
            self._asked.close()
            self._asked = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._groups is not None and not self._groups.end(self.id):
            self._groups.kill(self.id)  # its process was moved into it after its death; the undertaker removes it
        self._scratch.drop(self.spec.scratch)

    async def _let_tidy(self, pid: int) -> None:
        """Give its resource trackers a moment to remove what nobody uses any more, once all others are dead."""
        end = self._loop.time() + TIDYING
        while self._loop.time() < end:
            strays = set(strays_of(self.id, pid, self._reaper.known))
            tidying = trackers(strays)
            if not tidying:
                return
            kill_all(strays - tidying)
            await asyncio.sleep(0.002)

    def _judged(self, ending: Ending) -> Reason | None:
        """Find the reason for an end by SIGKILL that nobody here ordered."""
        if ending.signal != signal.SIGKILL or self._oom is None:
            return None
        verdict = self._oom.judge(ending.pid)
        return Reason(Cause.OOM if verdict.is_oom else Cause.SIGNAL, verdict.detail)

    def _conclude(self, ending: Ending) -> None:
        self.certificate = certify(
            self.id,
            ending,
            reason=self._reason or self._judged(ending),
            is_serving=self.is_serving,
            started=self.started,
            stopped=time.time(),
            last_lines=self._lines.lines(),
        )
        if self._oom is not None:
            self._oom.forget(ending.pid)
        self.is_serving = False
        self._child = None
        self._drop_journal()
        reason = self._reason
        self._feed.stopped(
            self.certificate, exception=reason.exception if reason else None, text=reason.text if reason else ""
        )
        self._stopped.set_result(self.certificate)
        self._has_turned.set()
        self._let_in()


def _ignore(message: Message) -> None:
    """Take what nobody is to send here."""
    for fd in message.fds:
        os.close(fd)


__all__ = ["LAST_WORDS", "Hosted"]
