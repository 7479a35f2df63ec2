"""A carrier of streams without a network: what is posted waits until the test works it off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from bigmachine.rpc import Codec
from bigmachine.rpc.streams.streams import StreamHost
from bigmachine.rpc.wire import HEADER, HEADER_SIZE


class Host(StreamHost):
    """Both tables, and what would have been sent."""

    has_bulk = False

    def __init__(self) -> None:
        super().__init__()
        self.codec = Codec()
        self.reactor = cast(Any, self)
        self.posts: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.jobs: list[Any] = []
        self.sent: list[Any] = []
        self.is_here = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        self.posts.append((function, args))

    def work_off(self) -> None:
        while self.posts:
            function, args = self.posts.pop(0)
            function(*args)

    def transmit(self, encoded: Any, by_bulk: bool | None = None) -> None:
        self.sent.append(encoded)

    def run_in_thread(self, job: Any) -> None:
        self.jobs.append(job)

    def run_jobs(self) -> None:
        while self.jobs or self.posts:
            if self.jobs:
                self.jobs.pop(0).run()
            self.work_off()

    def kinds(self) -> list[int]:
        return [kind for sent in self.sent for kind in _kinds(sent)]


def _kinds(sent: Any) -> list[int]:
    """Name the frames that were sent at once: some that are small, or a large one."""
    if not isinstance(sent, bytes):
        return [bytes(sent[0])[6]]
    kinds, at = [], 0
    while at < len(sent):
        size, number, kind, _, _ = HEADER.unpack_from(sent, at)
        assert not number or not at
        kinds.append(kind)
        at = len(sent) if number else at + HEADER_SIZE + size
    return kinds
