"""The service "Images": the driver's program, brought to this host and put together.

What is sent, kept and built is the room `image`'s; this is the way there by calls. An image arrives as a stream of
frames, each of which can be verified by itself, so a host passes them on to others while it takes them in (`onward`),
and the driver's uplink carries about one copy however many hosts there are.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bigmachine.errors import BigmachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bigmachine.image.plan import Wanted
    from bigmachine.image.store import Built, Store
    from bigmachine.rpc import Link

#: Frames that wait for a host further down. A slow one holds up those before it for `_PATIENCE` seconds and is then
#: left to the driver.
_AHEAD: Final = 4
_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Onward:
    """A host to pass an image on to, and those that it passes it on to in turn."""

    host: str
    port: int
    agent_id: str
    python: str
    onward: tuple[Onward, ...] = ()


class Images:
    """Takes images in. `store` makes the host's store when it is first needed, `dial` a link to another agent."""

    def __init__(self, store: Callable[[], Store], dial: Callable[[Onward], Link]) -> None:
        self._make_store = store
        self._dial = dial
        self._lock = threading.Lock()
        self._store: Store | None = None

    def offer(self, head: bytes, python: str) -> Wanted:
        """Say what this host lacks of an image, to be run by the interpreter at `python`.

        Raises:
            ImageError: if this host cannot keep images.
        """
        return self._opened().offer(head, python)

    def receive(self, head: bytes, python: str, frames: Iterator[bytes], onward: Sequence[Onward] = ()) -> Built:
        """Take in what was lacking, and build the image.

        Raises:
            ImageError: if something is wrong with it, or with this host; the text names the stage and the file.
        """
        relays = [_Relay(self._dial(to), head, to) for to in onward]
        try:
            return self._opened().receive(head, python, _passed_on(frames, relays) if relays else frames)
        finally:
            for relay in relays:
                relay.finish()

    def _opened(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = self._make_store()
            return self._store


class _Relay:
    """One host that the frames are passed on to. What goes wrong there is the driver's to find out: it asks again."""

    def __init__(self, link: Link, head: bytes, to: Onward) -> None:
        self._link = link
        self._queue: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        self._has_failed = False
        self._call = link.submit("Images.receive", (head, to.python, self._frames(), to.onward), {})
        self._call.add_done_callback(self._done)

    def _frames(self) -> Iterator[bytes]:
        while (frame := self._queue.get()) is not None:
            yield frame

    def _done(self, _: object) -> None:
        self._has_failed = True  # or has all it wants: either way there is nobody to wait for

    def put(self, frame: bytes | None) -> None:
        """Pass a frame on; None ends it."""
        if self._has_failed:
            return
        try:
            self._queue.put(frame, timeout=_PATIENCE)
        except queue.Full:
            self._has_failed = True
            self._call.cancel()

    def finish(self) -> None:
        """Let it take the rest in, without waiting for it."""
        self.put(None)
        self._call.add_done_callback(lambda _: self._link.close(BigmachineError("the image was passed on")))


def _passed_on(frames: Iterator[bytes], relays: Sequence[_Relay]) -> Iterator[bytes]:
    from bigmachine.image.packs import verify

    for frame in frames:
        verify(frame)  # what is not what it says goes no further
        for relay in relays:
            relay.put(frame)
        yield frame


__all__ = ["Images", "Onward"]
