"""Viewers who do not take what they are told."""

from __future__ import annotations

import asyncio

from bigmachine.web.live import Viewer


def test_who_sleeps_holds_a_few_events_and_is_told_everything_when_awake() -> None:
    async def sleep_and_wake() -> tuple[bool, int]:
        viewer = Viewer()
        viewer.is_new = False
        for number in range(5):
            assert viewer.tell(b"%d" % number)
        await asyncio.sleep(0)
        return viewer.is_new, len(viewer._waiting)

    assert asyncio.run(sleep_and_wake()) == (True, 0)


def test_the_end_reaches_who_sleeps() -> None:
    async def sleep_and_wake() -> list[bytes | None]:
        viewer = Viewer()
        for number in range(4):
            viewer.tell(b"%d" % number)
        viewer.tell(None)
        return [await viewer.next() for _ in range(5)]

    assert asyncio.run(sleep_and_wake()) == [b"0", b"1", b"2", b"3", None]


def test_a_viewer_whose_loop_has_ended_is_given_up() -> None:
    async def leave() -> Viewer:
        return Viewer()

    assert not asyncio.run(leave()).tell(b"anything")
