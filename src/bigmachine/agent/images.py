"""The service "Images": the driver's program, brought to this host and put together.

What is sent, kept and built is the room `image`'s; this is the way there by calls. An image arrives as a stream of
frames, each of which can be verified by itself, so a host passes them on to others while it takes them in (`onward`),
and the driver's uplink carries about one copy however many hosts there are. A host that is slow or dead is dropped
with those behind it; whom that concerns is in the answer, and the driver sends to them again.

Programs may start while a part of a large image is still on its way (`bigmachine.image.store.early`): `ready` says
where. If that part does not come, they are ended.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import queue
import threading
from dataclasses import field
from typing import TYPE_CHECKING, Final

from bigmachine.errors import BigmachineError
from bigmachine.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bigmachine.agent.processes.reaper import Reaper
    from bigmachine.image.plan import Wanted
    from bigmachine.image.store.store import Built, Store

    #: Ends the programs that run in an image, by its directory, and says why.
    End = Callable[[str, str], None]
    from bigmachine.rpc import Link

#: Frames that wait for the next host, and how many seconds it may leave them waiting.
_AHEAD: Final = 4
_PATIENCE: Final = 5.0
#: The hosts behind this one are done soon after it, unless they are stuck.
_REST: Final = 60.0


@frozen
class Onward:
    """A host to pass an image on to, and those that it passes it on to in turn.

    `skipped`: the layers that none of them lacks, though others do.
    """

    host: str
    port: int
    agent_id: str
    python: str
    onward: tuple[Onward, ...] = ()
    skipped: tuple[str, ...] = ()

    def all_ids(self) -> Iterator[str]:
        """Give the agents' ids of this host and of those behind it."""
        yield self.agent_id
        for each in self.onward:
            yield from each.all_ids()


@frozen
class Received:
    """What became of an image here, and where it was passed on to: by agent, what failed there, "" for nothing."""

    built: Built
    onward: Mapping[str, str] = field(default_factory=dict)


class Images:
    """Takes images in. `store` makes the host's store when it is first needed, `dial` a link to another agent.

    `end` is called where what is left of an image, in which programs run already, does not come; `reaper` takes the
    ends of what is run to find something out.
    """

    def __init__(self, store: Callable[[], Store], dial: Callable[[Onward], Link], end: End, reaper: Reaper) -> None:
        self._make_store = store
        self._dial = dial
        self._end = end
        self._reaper = reaper
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._early: dict[tuple[bytes, str], concurrent.futures.Future[str]] = {}

    async def python(self, named: str, minor: str, abi: str) -> str:
        """Find an interpreter of this host's that the program names; see `named_python.find`.

        Raises:
            ImageError: if there is none, or it does not fit.
        """
        from bigmachine.agent.named_python import find  # few programs name any

        return await find(self._reaper, named, minor, abi)

    def offer(self, head: bytes, python: str) -> Wanted:
        """Say what this host lacks of an image, to be run by the interpreter at `python`.

        Raises:
            ImageError: if this host cannot keep images.
        """
        return self._opened().offer(head, python)

    def receive(self, head: bytes, python: str, frames: Iterator[bytes], onward: Sequence[Onward] = ()) -> Received:
        """Take in what was lacking, and build the image; pass it on meanwhile.

        Raises:
            ImageError: if something is wrong with it, or with this host; the text names the stage and the file.
        """
        from bigmachine.image.depot import fetched
        from bigmachine.image.store.store import EarlyStart

        relays = [_Relay(self._dial(to), head, to) for to in onward]
        failed = "the host before it could not take the image in"
        early = self._expected(head, python)
        start = EarlyStart(lambda root: _tell(early, root), lambda why: self._break(early, why))
        try:
            taken = fetched(frames)
            if relays:
                taken = _passed_on(taken, relays)
            built = self._opened().receive(head, python, taken, early=start)
            failed = ""
        finally:
            _tell(early, "")
            for relay in relays:
                relay.finish(failed)
        statuses: dict[str, str] = {}
        for relay in relays:
            statuses.update(relay.outcome())
        return Received(built, statuses)

    def ready(self, head: bytes, python: str, patience: float) -> str:
        """Wait until programs can start in an image that is being taken in, and say where.

        Empty: they have to wait for the whole image, or nothing of the kind was found out within `patience` seconds.
        """
        try:
            return self._expected(head, python).result(patience)
        except TimeoutError:
            return ""

    def give_up(self, head: bytes, python: str, why: str) -> None:
        """Say that the rest of an image will not come: programs that run in it already are ended."""
        self._break(self._expected(head, python), why)

    def _expected(self, head: bytes, python: str) -> concurrent.futures.Future[str]:
        with self._lock:
            name = hashlib.sha256(head).digest(), python
            return self._early.setdefault(name, concurrent.futures.Future())

    def _break(self, early: concurrent.futures.Future[str], why: str) -> None:
        root = early.result() if early.done() else ""
        if root:
            self._end(root, f"the rest of the program did not come: {why}")

    def close(self) -> None:
        """Remove what only the machines of this agent could use; they have ended."""
        if self._store is not None:
            self._store.close()

    def _opened(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = self._make_store()
            return self._store


def _tell(early: concurrent.futures.Future[str], root: str) -> None:
    if not early.done():
        early.set_result(root)


class _Relay:
    """One host that the frames are passed on to."""

    def __init__(self, link: Link, head: bytes, to: Onward) -> None:
        self._link = link
        self._to = to
        self.skipped = frozenset(to.skipped)
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._over = threading.Event()
        self._why = ""
        self._call = link.submit("Images.receive", (head, to.python, self._frames(), to.onward), {})
        self._call.add_done_callback(lambda _: self._over.set())

    def _frames(self) -> Iterator[bytes]:
        while (frame := self._queue.get()) is not None:
            yield frame

    def put(self, frame: bytes) -> None:
        """Pass a frame on, unless the host has failed, or does not take it within some seconds."""
        if self._over.is_set():
            return
        try:
            self._queue.put(frame, timeout=_PATIENCE)
        except queue.Full:
            self._drop(f"it took nothing for {_PATIENCE:.0f} s")

    def _drop(self, why: str) -> None:
        self._why = self._why or why
        self._over.set()
        self._call.cancel()
        while True:  # whoever reads is let go
            try:
                self._queue.get_nowait()
            except queue.Empty:
                break
        self._queue.put(None)

    def finish(self, failed: str) -> None:
        """Say that no more will come; `failed`: because this host could take no more."""
        if failed:
            self._drop(failed)
            return
        try:
            self._queue.put(None, timeout=0.0 if self._over.is_set() else _PATIENCE)
        except queue.Full:
            self._drop(f"it took nothing for {_PATIENCE:.0f} s")

    def outcome(self) -> Mapping[str, str]:
        """Wait for what became of it, there and behind."""
        try:
            received: Received = self._call.result(_REST)
            return {self._to.agent_id: "", **received.onward}
        except BaseException as error:  # noqa: BLE001 (whatever it was: the driver is told, and sends again)
            why = self._why or f"{type(error).__name__}: {error}"
            return dict.fromkeys(self._to.all_ids(), why)
        finally:
            self._link.close(BigmachineError("the image was passed on"))


def _passed_on(frames: Iterator[bytes], relays: Sequence[_Relay]) -> Iterator[bytes]:
    from bigmachine.image.belonging import layer_of
    from bigmachine.image.packs import verify

    have_parts = any(relay.skipped for relay in relays)
    for frame in frames:
        _, body = verify(frame)  # what is not what it says goes no further
        layer = layer_of(body) if have_parts else ""
        for relay in relays:
            if layer not in relay.skipped:
                relay.put(frame)
        yield frame


__all__ = ["Images", "Onward", "Received"]
