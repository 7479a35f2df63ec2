"""Wire the agent's parts together and run its event loop: what `main` does after the zygote is on its way."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import os
import resource
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from bigmachine.agent.bootstrap import Bootstrap
from bigmachine.agent.commands import AGENT_MARK
from bigmachine.agent.feed import Feed
from bigmachine.agent.host import Host
from bigmachine.agent.identity import OwnIdentity
from bigmachine.agent.images import Images
from bigmachine.agent.processes.children import Nursery
from bigmachine.agent.processes.control_groups import ControlGroups
from bigmachine.agent.processes.prctl import become_subreaper, name_process
from bigmachine.agent.processes.reaper import Reaper
from bigmachine.agent.processes.scratch import Scratch
from bigmachine.agent.processes.tether import end_now, tie
from bigmachine.agent.processes.tree import MARK
from bigmachine.agent.processes.zygote import ForkRefused
from bigmachine.agent.service import Agent
from bigmachine.agent.tcp import FrontDoor
from bigmachine.rpc import Codec, Link, Server, ServiceTable, serve_socket
from bigmachine.trust import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bigmachine.agent.images import Onward
    from bigmachine.agent.processes.undertaker import Undertaker
    from bigmachine.agent.processes.zygote import Zygote
    from bigmachine.image.store.store import Store
    from bigmachine.rpc import Reactor


#: For what makes this thread wait: a machine's move into its control group (the kernel makes one after the other, so
#: that more threads only take memory), and a provider that is asked whether it will take the host back.
_THREADS: Final = 2
#: So many seconds after its start the agent has its undertaker relieved: the first machines are more urgent.
_RELIEVED: Final = 0.5
#: An agent that has given no sign of life for its lease and this many seconds is ended by its undertaker.
_SILENCE: Final = 5.0
#: What takes images in; it takes 10 ms to import.
_FOR_IMAGES: Final = ("bigmachine.image.store.store", "bigmachine.image.depot", "zstandard")

_log = logging.getLogger("bigmachine.agent")


def run(zygote: Zygote | None, undertaker: Undertaker | None, inherited: Sequence[int] | None = None) -> NoReturn:
    """Read the orders and serve until the end, which is the end of this process.

    `inherited`: the descriptors of a listening socket and of the orders, left by stage 0.
    """
    logging.basicConfig(format="%(asctime)s bigmachine agent %(levelname)s %(message)s", level=logging.WARNING)
    name_process("bigm-agent")
    if not become_subreaper() and zygote is not None:
        zygote.close()  # its machines would not become ours, and could not be waited for
        zygote = None
    scratch = Scratch(None if undertaker is None else undertaker.scratch)
    try:
        orders = Bootstrap.read(0) if inherited is None else Bootstrap.read_all(inherited[1])
        listening = None if inherited is None else socket.socket(fileno=inherited[0])
        if orders is not None:  # else the driver ended before it had said anything
            # Not by the flags of the program's interpreter, which this is, too.
            asyncio.run(_serve(orders, zygote, undertaker, listening, scratch), debug=False)
    except Exception:  # noqa: BLE001 (the edge of the process)
        _log.exception("the agent failed, and ends with its machines")
    finally:
        end_now(undertaker=undertaker, scratch=scratch)


async def _serve(
    orders: Bootstrap,
    zygote: Zygote | None,
    undertaker: Undertaker | None,
    listening: socket.socket | None,
    scratch: Scratch,
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, "bigm-aside"))
    reaper = Reaper(loop)
    files = _allow_many_files()
    if zygote is not None:
        zygote.attach(loop)
    nursery = Nursery(reaper, orders.interpreter, orders.sys_path, zygote, files, scratch)
    groups = ControlGroups.make(f"bigmachine-{orders.identity.id}-{os.getpid()}") if undertaker is not None else None
    host = Host(orders.clocks, loop=loop, nursery=nursery, reaper=reaper, feed=Feed(), scratch=scratch, groups=groups)
    if undertaker is not None:
        _instruct(undertaker, orders, groups)
        host.on_tick = undertaker.live
    if orders.tethered:
        tie(0, orders.driver_pid, host.pids, undertaker, scratch)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, host.over.set)
    table = ServiceTable()
    identity = OwnIdentity(orders.identity)
    table.register("Agent", Agent(host, table, reaper, identity))

    def lose(root: str, why: str) -> None:
        loop.call_soon_threadsafe(host.lose_image, root, why)

    images = Images(partial(_store, orders.cache), lambda to: _link_to(to, identity, server.reactor), lose, reaper)
    table.register("Images", images)
    server = Server(table, authorize=host.authorize, codec=Codec(machine=orders.identity.id))
    host.heard = partial(_heard, server)

    def route(name: str | None, sock: socket.socket) -> bool:
        if name is None or name == orders.identity.id:
            server.reactor.spawn(serve_socket(sock, identity.context, server), "handshake")
            return True
        machine = host.find(name)
        if machine is None or machine.certificate is not None:
            return False
        machine.connect(sock.detach())
        return True

    door = FrontDoor(loop, *orders.listen, route, listening=listening)
    _report(door.port)
    _get_ready(loop, takes_images=bool(orders.cache))
    watches = [
        loop.create_task(host.watch(), name="clocks"),
        loop.create_task(host.watch_memory(), name="memory"),
        *([loop.create_task(_watch_notices(orders.notices, host), name="notices")] if orders.notices else []),
        *([loop.create_task(_relieve(undertaker, zygote), name="undertaker")] if undertaker and zygote else []),
    ]
    await host.over.wait()
    for watch in watches:
        watch.cancel()
    door.close()
    await server.close()
    images.close()


def _heard(server: Server) -> int:
    """Count the bytes that have come by the driver's connections."""
    lanes = (lane for each in server.channels if each.peer.role is Role.DRIVER for lane in (each.main, each.bulk))
    return sum(lane.bytes_in for lane in lanes if lane is not None)


async def _relieve(undertaker: Undertaker, zygote: Zygote) -> None:
    """Have the undertaker be a fork of the zygote."""
    await asyncio.sleep(_RELIEVED)
    read, write = os.pipe()
    try:
        pid = await zygote.undertake(read)
    except BaseException as error:
        os.close(write)
        if not isinstance(error, ForkRefused):
            raise
    else:
        undertaker.relieve(pid, write)


async def _watch_notices(provider: str, host: Host) -> None:
    from bigmachine.agent.watch.notices import watch  # only hosts of a cloud have any

    await watch(provider, host.notice)


def _store(cache: str) -> Store:
    """Open this host's store of images; most agents never need it."""
    from bigmachine.image.store.store import Store

    return Store(Path(cache) if cache else None)


def _get_ready(loop: asyncio.AbstractEventLoop, *, takes_images: bool) -> None:
    """Import what the driver makes us need next; it is still busy dialling."""
    with contextlib.suppress(ImportError):
        importlib.import_module("aiofastnet")  # the first connection would (12 ms)
    if takes_images:  # on a host of its own: a program is brought, once the driver has made this agent known
        loop.run_in_executor(None, lambda: [importlib.import_module(name) for name in _FOR_IMAGES])


def _link_to(to: Onward, identity: OwnIdentity, reactor: Reactor) -> Link:
    """Make a link to another host's agent, to pass an image on to it."""
    from bigmachine.rpc import TlsDialer
    from bigmachine.trust import client_context

    own = identity.identity
    dialer = TlsDialer(to.host, to.port, to.agent_id, own.session, (Role.AGENT,), client_context(own))
    return Link(reactor, dialer, codec=Codec(machine=to.agent_id), name=f"agent {to.agent_id}")


def _instruct(undertaker: Undertaker, orders: Bootstrap, groups: ControlGroups | None) -> None:
    """Say what is to go with this agent."""
    undertaker.mark(f"{AGENT_MARK}={os.environ[AGENT_MARK]}")
    undertaker.mark(f"{MARK}={orders.identity.id}-")
    if groups is not None:
        undertaker.group(groups.directory)
    undertaker.limit(orders.clocks.lease + _SILENCE)


def _allow_many_files() -> int:
    """Use all the descriptors there are: a machine takes three, a connection one. Gives how many there were."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS has a limit of its own below the hard one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def _report(port: int) -> None:
    """Tell the driver the port; nothing else is ever written there."""
    os.write(1, json.dumps({"port": port}).encode() + b"\n")
    os.dup2(2, 1)


__all__ = ["run"]
