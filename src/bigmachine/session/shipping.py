"""The program on its way to hosts that do not have it: packed once, while they come up, and brought once to each.

A `Cargo` belongs to one `start`, so a program that was edited since the last one is sent as it is now; what has not
changed is neither read nor sent again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bigmachine.errors import BigmachineError, Cause, ImageError, MachineStopped, NetworkError
from bigmachine.frozen import frozen
from bigmachine.image.interpreter import interpreter_flags
from bigmachine.machine import Phase
from bigmachine.session.broadcast import WORTHWHILE, Gathering, Peer

if TYPE_CHECKING:
    from bigmachine.agent import LaunchSpec, Onward
    from bigmachine.agent.images import Received
    from bigmachine.image import Entry, Image
    from bigmachine.image.depot import Depot
    from bigmachine.image.manifest import Platform
    from bigmachine.image.plan import Wanted
    from bigmachine.image.scan.scanned import Scan
    from bigmachine.machine import Settle
    from bigmachine.rpc import Link
    from bigmachine.session.order import Order
    from bigmachine.system import Foreseen, Launched, System

_log = logging.getLogger("bigmachine")
#: A host looks through its cache for what it has; on a slow disk that may take a while.
_OFFER: Final = 60.0
#: So often a connection may break while an image travels: each time, what has arrived need not travel again.
_ATTEMPTS: Final = 4
_PAUSE: Final = 0.3
#: A host's Python is found, and says what it is.
_PYTHON: Final = 60.0
#: For the program to be looked through before anything is bought; the first time takes a second or two.
_PACKING: Final = 300.0
#: What a program needs first takes so long at most, or it is no use to start early.
_READY: Final = 60.0

#: Told how far a delivery is: the bytes sent so far, and whether that is all.
Note = Callable[[int, bool], None]
#: Told how many bytes of the rest have been sent for a machine that has begun, and whether that is over.
Rest = Callable[[int, bool], None]


@frozen
class Delivered:
    """An image on a host: its directory there, and what was packed."""

    root: str
    scan: Scan

    def settle(self, spec: LaunchSpec, environ: Mapping[str, str]) -> LaunchSpec:
        """Say for a machine of that host what was said for one of this; `environ` is what the program asked to add.

        Raises:
            ImageError: if the program's main is not in the image.
        """
        from bigmachine.image.environ import shipped_environ

        entry = spec.entry
        if entry.path is not None:
            path = self._there(entry.path)
            if path is None:
                raise ImageError(
                    f"the program {entry.path} is in no folder that goes to other hosts: name it by Image(files=[...])"
                )
            entry = replace(entry, path=path)
        if entry.directory is not None:
            entry = replace(entry, directory=self._there(entry.directory))
        manifest = self.scan.manifest
        argv = [self._there(spec.argv[0]) or spec.argv[0], *spec.argv[1:]] if spec.argv else []
        return replace(
            spec,
            entry=entry,
            argv=argv,
            sys_path=[f"{self.root}/{place}" for place in manifest.sys_path if not place.startswith("site")],
            cwd=self._there(spec.cwd) or self.root,
            environ={**shipped_environ(os.environ), **environ},
            interpreter=[f"{self.root}/bin/python", *interpreter_flags()],
            root=self.root,
            digest=manifest.digest,
        )

    def _there(self, path: str) -> str | None:
        place = self.scan.relocate(os.path.abspath(path))
        return None if place is None else f"{self.root}/{place}"


class Cargo:
    """What the machines of one `start` run, on its way to their hosts. `begin` starts to pack it.

    `depot`: where packs may be left for hosts to fetch.
    """

    def __init__(
        self, entry: Entry, image: Image | None, environ: Mapping[str, str], depot: Depot | None = None
    ) -> None:
        self.depot = depot
        self._entry = entry
        self._image = image
        #: The Python of the hosts' own that it is to run on; "": the one that their agents run on.
        self.python = "" if image is None or image.python is None else os.fspath(image.python)
        self.environ = environ
        self._scans: dict[Platform | None, concurrent.futures.Future[Scan]] = {}
        self._deliveries: dict[str, _Delivery] = {}
        self._lock = threading.Lock()
        #: The platforms that it goes to, as far as is known: what a scan takes.
        self._targets: list[Platform | None] = [None]
        self.gathering = Gathering(1)

    def begin(self) -> None:
        """Pack it for machines like this one, in the background, while their hosts come up."""
        self._packed(None)

    def check(self, timeout: float, hosts: Sequence[Foreseen] = ()) -> str:
        """Wait until it is packed for these hosts, with what their agents need; none: for machines like this one.

        Gives its digest, "" if it is not known before they are there.

        Raises:
            ImageError: if it cannot be, or not within `timeout` seconds; the text names what cannot be had.
        """
        if hosts:
            from bigmachine.session.foreseen import make_kit, platform_of

            end = time.monotonic() + timeout
            platforms = [platform_of(each) for each in hosts]
            self._targets = list(dict.fromkeys(map(_target, platforms)))
            for each, platform in zip(hosts, platforms, strict=True):
                make_kit(each, platform)
            for target in self._targets:
                self._packed(target)  # at the same time
            timeout = max(0.0, end - time.monotonic())
        try:
            packed = [self._packed(target).result(timeout) for target in self._targets]
            return packed[0].manifest.digest if self._targets == [None] else ""
        except TimeoutError as error:
            raise ImageError(
                f"packing the program took more than {timeout:.0f} s: does it lie on a slow disk?"
            ) from error

    def check_packages(self, timeout: float) -> None:
        """Wait until what is to be installed besides is found, for hosts of which nothing is known yet.

        Raises:
            ImageError: if no host can have it; what there is for other platforms only is said by a host that is not.
        """
        from bigmachine.image.foreign.layers import is_for_others

        try:
            self.check(timeout)
        except ImageError as error:
            if not is_for_others(error):
                raise
            _log.info("hosts like this one cannot have the program: %s", error)

    def compress(self, hosts: int) -> None:
        """Make its packs in the background, while hosts boot: new ones lack all of it, and then it lies ready."""
        threading.Thread(target=self._compress, args=(hosts,), name="bigmachine-compress", daemon=True).start()

    def _compress(self, hosts: int) -> None:
        from bigmachine.image.pack_cache import Warming
        from bigmachine.image.packs import PACK_SIZE, SMALL_PACK_SIZE, frames
        from bigmachine.image.plan import Wanted

        with contextlib.suppress(ImageError):  # it is being edited, and packed again once somebody lacks it
            packed = self._packed(self._targets[0]).result()
            everything = Wanted(False, "", tuple(layer.id for layer in packed.manifest.layers))
            for _ in frames(packed, everything, Warming(), PACK_SIZE if hosts == 1 else SMALL_PACK_SIZE):
                if self._deliveries:  # from now on it is made as it is sent
                    return

    def _packed(self, target: Platform | None, distrusted: Collection[str] = ()) -> concurrent.futures.Future[Scan]:
        with self._lock:
            future = self._scans.get(target)
            if future is None or distrusted:
                future = self._scans[target] = concurrent.futures.Future()
                arguments = (future, target, distrusted)
                threading.Thread(target=self._pack, args=arguments, name="bigmachine-pack", daemon=True).start()
            return future

    def _pack(
        self, future: concurrent.futures.Future[Scan], target: Platform | None, distrusted: Collection[str]
    ) -> None:
        from bigmachine.image.scan.scan import scan

        try:
            future.set_result(scan(self._entry, image=self._image, target=target, distrusted=distrusted))
        except BaseException as error:  # noqa: BLE001 (it is raised where the result is asked for)
            future.set_exception(error)

    def expect(self, hosts: int) -> None:
        """Say how many hosts it goes to: they pass it on to each other."""
        self.gathering = Gathering(hosts)

    async def deliver(self, link: Link, place: Launched, note: Note) -> Delivered:
        """Bring it to a host, unless it is there or on its way; on the reactor's thread.

        Returns when programs can start there; a part of it that they do not need at once may be on its way then.

        Raises:
            ImageError, NetworkError: if it does not arrive.
        """
        delivery = self._deliveries.get(place.agent_id)
        if delivery is None:
            delivery = self._deliveries[place.agent_id] = _Delivery(self, link, place, note)
            link.reactor.spawn(delivery.run(), f"image for {place.agent_id}")
        return await asyncio.shield(delivery.usable)

    def passed_on(self, agents: Sequence[str]) -> None:
        """Say that all has been sent that these hosts get from another one: they have it hardly later."""
        for agent_id in agents:
            self._deliveries[agent_id].is_all_sent()

    def settling(self, link: Link, place: Launched, tell: Callable[[int], None], tell_rest: Rest) -> Settle:
        """Give the way in which one machine's program is brought to its host.

        `tell` is told the bytes sent so far; `tell_rest` those of what comes after the machine has begun.
        """
        runtime = place.runtime
        assert runtime is not None

        async def settle(spec: LaunchSpec, reach: Callable[[Phase], None]) -> LaunchSpec:
            before, so_far, is_settled = 0, 0, False

            def on_note(sent: int, is_all: bool) -> None:
                nonlocal so_far
                so_far = sent
                if is_settled:
                    tell_rest(sent - before, False)
                    return
                tell(sent)
                if is_all:
                    reach(Phase.ASSEMBLING)

            def note(sent: int, is_all: bool) -> None:
                link.reactor.post(on_note, sent, is_all)

            reach(Phase.SHIPPING)
            is_first = place.agent_id not in self._deliveries
            delivered = await self.deliver(link, place, note)
            before, is_settled = so_far, True
            whole = self._deliveries[place.agent_id].whole
            if is_first and not whole.done():
                tell_rest(0, False)
                whole.add_done_callback(lambda _: tell_rest(so_far - before, True))
            trusted = {"SSL_CERT_FILE": runtime.ca_file} if runtime.ca_file else {}
            return delivered.settle(spec, {**trusted, **self.environ})

        return settle

    async def packed_for(self, platform: Platform, distrusted: Collection[str] = ()) -> Scan:
        """Give it as it is for a platform.

        Raises:
            ImageError: if a package cannot be had for it.
        """
        return await asyncio.wrap_future(self._packed(_target(platform), distrusted))


def loaded(system: System, order: Order, image: Image | None, hosts: int) -> tuple[Cargo, str]:
    """Begin to pack the program for so many hosts of a system; gives its digest, "" if that is not known yet.

    Sees that it can be packed, before anything is bought; what is to be installed besides, before anybody logs in.

    Raises:
        ImageError: if it cannot be; the text names what cannot be had.
        ProvisionError: if it is clear already that there will be no machines.
    """
    cargo = Cargo(order.entry, image, order.added, system.depot())
    cargo.begin()
    if system.is_paid:
        digest = cargo.check(_PACKING, system.foresee())
        cargo.compress(hosts)  # they take their time, and have nothing yet
        return cargo, digest
    if image is not None and image.packages:
        cargo.check_packages(_PACKING)
    return cargo, ""


def _target(platform: Platform) -> Platform | None:
    """Return what a scan takes for a platform: None, if it takes what is compiled for this one."""
    from bigmachine.image.platforms import takes, this_platform

    return None if takes(platform, this_platform()) else platform


class _Delivery:
    """One image to one host."""

    def __init__(self, cargo: Cargo, link: Link, place: Launched, note: Note) -> None:
        assert place.runtime is not None
        self._cargo = cargo
        self._link = link
        self._python = place.runtime.python
        self._named = cargo.python
        self._platform = place.runtime.platform
        self._note = note
        # What is reached through a tunnel is reached by us alone.
        self._peer = None if place.path else Peer(place.host, place.port, place.agent_id, self._python)
        self._has_said = False
        self._head = b""
        self._depot = cargo.depot
        self._waiting: asyncio.Task[None] | None = None
        #: When programs can start there.
        self.usable: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        #: When nothing of it is on its way any more, whatever came of it.
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Bring it, whatever it takes; what comes of it `usable` tells."""
        try:
            delivered = await self._insist()
        except asyncio.CancelledError:
            self.usable.cancel()
            raise
        except BaseException as error:
            if not self.usable.done():
                self.usable.set_exception(error)
                self.usable.exception()  # a machine that was stopped meanwhile does not ask
            elif isinstance(error, BigmachineError):
                await self._give_up(error)
            if not isinstance(error, BigmachineError):
                raise
        else:
            if not self.usable.done():
                self.usable.set_result(delivered)
        finally:
            if self._waiting is not None:
                self._waiting.cancel()
            self.whole.set_result(None)

    def is_all_sent(self) -> None:
        """Take note that another host has been sent all of it, and passes it on; from any thread."""
        self._note(len(self._head), True)

    async def _give_up(self, error: BigmachineError) -> None:
        """Have the machines ended that started with what had come."""
        if isinstance(error, MachineStopped) and error.certificate.cause is Cause.SHUTDOWN:
            return  # the session ends, and they with it
        _log.warning("the rest of the program could not be brought to %s: %s", self._link.name, error)
        with contextlib.suppress(BigmachineError):  # the host is lost, and its machines with it
            await self._link.submit("Images.give_up", (self._head, self._python, str(error)), {}, _OFFER)

    async def _insist(self) -> Delivered:
        from bigmachine.image.packs import Edited

        distrusted: Collection[str] = ()
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return await self._bring(distrusted)
                except Edited as error:
                    if attempt == _ATTEMPTS or self.usable.done():  # machines run the one that was begun
                        text = f"the program is being changed while it is sent to {self._link.name}: {error}"
                        raise ImageError(text) from error
                    distrusted = error.paths
                except BigmachineError as error:
                    if not error.temporary or attempt == _ATTEMPTS:
                        raise
                    _log.info("sending the program to %s broke off, and goes on: %s", self._link.name, error)
                    await asyncio.sleep(_PAUSE * attempt)
        finally:
            self._say()
        raise AssertionError("the last attempt returns or raises")

    def _say(self) -> None:
        """Tell those who gather that this host is not to be waited for, once."""
        if not self._has_said:
            self._has_said = True
            self._cargo.gathering.skip()

    async def _bring(self, distrusted: Collection[str]) -> Delivered:
        from bigmachine.image.plan import encode_head

        packed = await self._cargo.packed_for(self._platform, distrusted)
        if self._named:
            await self._find_python()
        head = self._head = encode_head(packed.manifest)
        self._note(len(head), False)
        wanted = await self._ask(packed, head)
        lacking = set(wanted.layers)
        size = sum(layer.size for layer in packed.manifest.layers if layer.id in lacking)
        if not wanted.is_built and size >= WORTHWHILE and self._waiting is None:
            self._waiting = self._link.reactor.spawn(self._start_early(packed, head), "early start")
        if self._peer is not None and not wanted.is_built and size >= WORTHWHILE:
            return await self._share(self._peer, packed, head, wanted)
        self._say()
        if wanted.is_built:
            return Delivered(wanted.root, packed)
        return Delivered((await self._send(packed, head, wanted, (), self._note)).built.root, packed)

    async def _find_python(self) -> None:
        """Have the host say which of its interpreters is meant, and that it fits what it gets."""
        arguments = (self._named, self._platform.minor, self._platform.abi)
        self._python = await self._link.submit("Images.python", arguments, {}, _PYTHON)
        self._named = ""
        if self._peer is not None:
            self._peer = replace(self._peer, python=self._python)

    async def _start_early(self, packed: Scan, head: bytes) -> None:
        """Let programs start as soon as all has come that this one has loaded itself."""
        with contextlib.suppress(BigmachineError):  # then they start when all of it has come
            root = await self._link.submit("Images.ready", (head, self._python, _READY), {}, 2 * _READY)
            if root and not self.usable.done():
                self.usable.set_result(Delivered(root, packed))

    async def _ask(self, packed: Scan, head: bytes) -> Wanted:
        """Find out what is lacking; files of large trees are listed only if the host may have some of them."""
        from bigmachine.image.plan import encode_head

        wanted = await self._offer(head)
        if not wanted.unlisted:
            return wanted
        return await self._offer(encode_head(packed.manifest, wanted.unlisted))

    async def _offer(self, head: bytes) -> Wanted:
        wanted: Wanted = await self._link.submit("Images.offer", (head, self._python), {}, _OFFER)
        return wanted

    async def _share(self, peer: Peer, packed: Scan, head: bytes, wanted: Wanted) -> Delivered:
        """Have one of the hosts that lack much of the same pass it on to the others."""
        is_again, self._has_said = self._has_said, True
        lacking = replace(peer, wanted=wanted)
        joined = await self._cargo.gathering.join(lacking, head, packed.manifest.layers, again=is_again)
        if isinstance(joined, str):
            if (await self._offer(head)).is_built:
                return Delivered(wanted.root, packed)
            raise NetworkError(f"{self._link.name} did not get the program from another host: {joined}")

        def note(sent: int, is_all: bool) -> None:
            self._note(sent, is_all)
            if is_all:
                self._cargo.passed_on(joined.others)

        failed = "the host before it failed"
        try:
            received = await self._send(packed, head, joined.wanted, joined.onward, note)
            for agent_id, why in received.onward.items():
                joined.settle(agent_id, why)
            failed = "nothing is known of it"
            return Delivered(received.built.root, packed)
        finally:
            for agent_id in joined.others:
                joined.settle(agent_id, failed)

    async def _send(
        self, packed: Scan, head: bytes, wanted: Wanted, onward: tuple[Onward, ...], note: Note
    ) -> Received:
        from bigmachine.image.pack_cache import PackCache
        from bigmachine.image.packs import PACK_SIZE, SMALL_PACK_SIZE, frames

        size = SMALL_PACK_SIZE if onward else PACK_SIZE
        told = frames(packed, wanted, PackCache(), size)
        if self._depot is not None:
            from bigmachine.image.depot import referred

            told = referred(told, self._depot)
        source = _Metered(told, note, len(head))
        try:
            received: Received = await self._link.submit("Images.receive", (head, self._python, source, onward), {})
        except BigmachineError:
            self._depot = None  # it may be that: the next attempt goes without
            if source.error is not None:
                raise source.error from None  # what the other side saw of it says less
            raise
        return received


class _Metered(Iterator[bytes]):
    """Counts what is sent, and keeps what went wrong while it was read."""

    def __init__(self, source: Iterator[bytes], note: Note, sent: int) -> None:
        self._source = source
        self._note = note
        self._sent = sent
        self.error: Exception | None = None

    def __next__(self) -> bytes:
        try:
            frame = next(self._source)
        except StopIteration:
            self._note(self._sent, True)
            raise
        except Exception as error:
            self.error = error
            raise
        self._sent += len(frame)
        self._note(self._sent, False)
        return frame


__all__ = ["Cargo", "Delivered", "Note", "loaded"]
