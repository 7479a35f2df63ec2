"""The zygote: a process that has imported what machines need, and becomes one by fork whenever the agent asks.

A fork takes 0.5 ms where a new interpreter with the same imports takes 60 ms (measured; with pandas or torch,
seconds). It is safe only under these rules, each of which stands for a hang or a repeated random number that was
reproduced:

- This is a process of its own, never the driver: it has imported, and run nothing but a `rehearsal`, of which nothing
  is left that runs. No event loop, no thread pool, no connection. It is itself forked off the agent, before that has
  any of these.
- It has one thread. Any lock that another thread held at the fork would stay locked for ever. This is asserted before
  each fork, and if a preloaded module has started a thread there is no fork at all.
- The child gets new seeds. CPython sees to `random` and `ssl`; NumPy's global generator is reseeded here; generators
  that a module made for itself at import cannot be, which is why services are constructed after the fork.
- The child keeps no descriptor but its own.

The machine is forked twice over: the process in between exits at once, so that the machine becomes the child of the
agent, which is a subreaper, and not of the zygote. Machines that are asked for at the same time have one process in
between for all of them: a fork less for each, and agent and driver hear of several at once (fifty machines: 24 ms of
computing each before, 19 ms now). On request it forks another zygote in the same way, which imports a program's modules
(`preload`) while this one stays as it is.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from bigmachine import trust
from bigmachine.agent.processes.control import BlockingChannel
from bigmachine.agent.processes.prctl import die_with, name_process
from bigmachine.agent.processes.tree import threads
from bigmachine.agent.processes.undertaker import serve_as_undertaker
from bigmachine.program import preload

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from bigmachine.agent.processes.control import Message
    from bigmachine.program.preload import Loaded

#: What every machine will import anyway, beyond what the agent has. The session is a floor up, and not seen from here.
_SESSION: Final = "bigmachine.session.session"
_OURS: Final = ("uvloop", "bigmachine.program.main", "bigmachine.program.serving", "bigmachine.rpc.packed", _SESSION)

#: How many files come with a request: a zygote's channel; an undertaker's pipe; control, stdout, stderr of a machine.
_FILES: Final = {"sprout": 1, "undertake": 1, "fork": 3}
#: So many machines are forked together, at most: the first of them waits for the last.
_TOGETHER: Final = 8


class _Refused(Exception):
    """Private to this file: why there is no fork."""


def be_zygote(sock: socket.socket, agent: int, names: Sequence[str]) -> NoReturn:
    """Be a zygote, in a fresh fork of the agent: import, then fork for whom asks on `sock`, until the agent is gone."""
    try:
        _be_zygote(sock, agent, names)
    finally:
        os._exit(0)


def _be_zygote(sock: socket.socket, agent: int, names: Sequence[str]) -> None:
    # Nothing is collected here: during imports there is nothing to find (it takes 8 % of their time), and later a
    # collection would write to, and so copy, every page with an object that is shared with the machines.
    gc.disable()
    die_with(agent)
    name_process("bigm-zygote")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)  # the agent's own stdout is for its driver
    _close_others((0, 1, 2, sock.fileno()))
    channel = BlockingChannel(sock)
    for name in (*_OURS, *names):
        # A module that is missing or fails here will do so in the program, where its error belongs.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    from bigmachine.program.rehearsal import rehearse  # all of its own imports are there now

    blank = trust.blank_server_context()
    gc.freeze()
    session, machine = (importlib.import_module(name) for name in (_SESSION, "bigmachine.machine"))
    rehearse(session.Session.on_machine, machine.receive_with)
    gc.collect(0)  # what that has left, which is all that is not frozen
    gc.freeze()  # what is here now is looked at by no collection in a machine, either
    with contextlib.suppress(OSError):
        _serve(channel, agent, blank, None)


def _serve(channel: BlockingChannel, agent: int, blank: ssl.SSLContext, loaded: Loaded | None) -> None:
    """Fork for each request, until the agent is gone.

    `blank`: see `Boot`. `loaded`: what this zygote has beyond the library's modules.
    """
    while messages := _asked(channel):
        if loaded is not None and any(loaded.is_stale(message.number("t")) for message in messages):
            _close_all(messages)
            channel.send({"k": "stale"})
            return
        why = "the second fork failed: see `ulimit -u` and the memory of this host"
        pids: list[int] = []
        try:
            born, pids = _fork(messages)
        except (_Refused, OSError) as error:
            born, why = None, str(error)
        if born is not None:
            channel.close()
            if born.kind == "sprout":
                _sprout(born, agent, blank)
            if born.kind == "undertake":
                serve_as_undertaker(born.fds[0], agent)
            _become(born.fds, agent, blank, loaded)
        _close_all(messages)
        for pid in pids:
            channel.send({"k": "forked", "pid": pid})
        for _ in messages[len(pids) :]:
            channel.send({"k": "refused", "why": why})


def _asked(channel: BlockingChannel) -> list[Message]:
    """Wait for a request, and give it with those like it that are there already; none when the agent is gone."""
    first = channel.receive()
    if first is None:
        return []
    messages = [first]
    while first.kind == "fork" and len(messages) < _TOGETHER and (more := channel.next_of("fork")) is not None:
        messages.append(more)
    return messages


def _sprout(message: Message, agent: int, blank: ssl.SSLContext) -> NoReturn:
    """Turn this fresh fork into a zygote that has a program's modules."""
    try:
        os.setsid()
        die_with(agent)
        channel = BlockingChannel(socket.socket(fileno=message.fds[0]))
        try:
            loaded = preload.load(message.body)
        except preload.Unfit as unfit:
            channel.send({"k": "refused", "why": str(unfit)})
        else:
            gc.freeze()
            _serve(channel, agent, blank, loaded)
    except OSError:
        pass  # the agent is gone, and so is whoever would want to know
    finally:
        os.killpg(0, signal.SIGKILL)  # with what imports have started; the machines have groups of their own
        os._exit(1)


def _fork(messages: Sequence[Message]) -> tuple[Message | None, list[int]]:
    """Fork twice; in the zygote it gives the pids, in a machine or zygote that is to be the message that asked for it.

    Fewer pids than messages: for the rest the second fork failed.
    """
    for message in messages:
        if len(message.fds) != _FILES.get(message.kind):
            raise _Refused(f"{message.kind!r} with {len(message.fds)} files is no request for a fork")
    if (count := threads()) != 1:
        raise _Refused(f"the zygote has {count} threads, and a fork might hang: which preloaded module starts one?")
    read, write = os.pipe()
    between = os.fork()
    if between == 0:
        born = _fork_again(messages, write)
        os.close(read)
        os.close(write)
        return born, []
    os.close(write)
    with open(read, "rb") as pipe:
        pids = [int(line) for line in pipe]
    os.waitpid(between, 0)
    return None, pids


def _fork_again(messages: Sequence[Message], write: int) -> Message:
    """Fork for each message in the process in between, which does not survive it."""
    pid = -1
    try:
        for message in messages:
            pid = os.fork()
            if pid == 0:
                return message
            os.write(write, b"%d\n" % pid)
    finally:
        if pid != 0:
            os._exit(0)
    raise AssertionError  # not reached


def _become(fds: tuple[int, ...], agent: int, blank: ssl.SSLContext, loaded: Loaded | None) -> NoReturn:
    """Turn this fresh fork into a machine's process."""
    os.setsid()
    die_with(agent)
    gc.enable()
    null = os.open(os.devnull, os.O_RDONLY)
    for new, old in ((null, 0), (fds[1], 1), (fds[2], 2)):
        os.dup2(new, old)
    control = fds[0]
    _close_others((0, 1, 2, control))
    _reseed()
    if loaded is not None:
        loaded.replay()

    from bigmachine.program.main import run

    run(BlockingChannel(socket.socket(fileno=control)), blank)


def _close_others(kept: Sequence[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(int(name))


def _reseed() -> None:
    """Give the generators that are one a process a new seed; CPython has done so for `random`."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _close_all(messages: Sequence[Message]) -> None:
    for message in messages:
        for fd in message.fds:
            os.close(fd)


__all__ = ["be_zygote"]
