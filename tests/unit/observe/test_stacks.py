"""Threads and tasks of a process, found from inside, and written down."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Generator

import pytest

from bigmachine.agent.watch.pyspy import shortened
from bigmachine.observe import walker
from bigmachine.observe.profile import TRUNCATED, Frame, from_folded
from bigmachine.observe.stacks import Standing, as_groups, as_profile, as_text, from_py_spy


async def items() -> AsyncIterator[int]:
    yield 1
    await asyncio.sleep(60)


async def reads_items() -> None:
    async for _ in items():
        pass


class Awaitable:
    def __await__(self) -> Generator[object, None, None]:
        return reads_items().__await__()


async def outer() -> None:
    await Awaitable()


async def waits_for(task: asyncio.Task[None]) -> None:
    await task


def found(*extra: object) -> list[Standing]:
    async def main() -> list[Standing]:
        task = asyncio.create_task(outer(), name="reader")
        waiter = asyncio.create_task(waits_for(task), name="waiter")
        others = [asyncio.create_task(asyncio.sleep(60)) for _ in range(50)]
        await asyncio.sleep(0.01)
        standing = await asyncio.to_thread(walker.take)
        for each in (task, waiter, *others):
            each.cancel()
        await asyncio.gather(task, waiter, *others, return_exceptions=True)
        return standing

    return asyncio.run(main())


def test_a_task_is_told_with_all_that_it_awaits() -> None:
    standing = {each.name: each for each in found()}
    functions = [frame.function for frame in standing["reader"].stack]
    assert functions == ["outer", "reads_items", "items", "sleep"]
    assert standing["reader"].note == "waits for a future"
    assert standing["waiter"].note == "waits for task reader"


def test_the_loops_of_other_threads_are_found() -> None:
    ready, stop = threading.Event(), threading.Event()

    async def waits_elsewhere() -> None:
        ready.set()
        await asyncio.to_thread(stop.wait, 30)

    thread = threading.Thread(target=asyncio.run, args=(waits_elsewhere(),), name="elsewhere")
    thread.start()
    try:
        assert ready.wait(10)
        standing = walker.take()
    finally:
        stop.set()
        thread.join(10)
    assert any(f.function.endswith("waits_elsewhere") for each in standing if each.kind == "task" for f in each.stack)
    assert [each.kind for each in standing if each.name == "elsewhere"] == ["thread"]


def test_the_calling_thread_is_left_out_and_others_are_told_by_name() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="idle")
    thread.start()
    try:
        names = [each.name for each in walker.take()]
    finally:
        stop.set()
        thread.join(10)
    assert "idle" in names
    assert threading.current_thread().name not in names


def test_equal_stacks_are_counted_together_and_made_up_names_do_not_part_them() -> None:
    standing = found()
    profile = as_profile(standing, machine="m1")
    sleeping = {key: values for key, values in profile.samples.items() if [f.function for f in key[0]] == ["sleep"]}
    assert list(sleeping.values()) == [[50]]
    assert [labels for _, labels in sleeping] == [(("machine", "m1"),)]
    assert "50 tasks at\n    sleep (" in as_groups(standing)
    assert as_text(standing).count("task Task-") >= 50


def test_a_services_method_is_a_label() -> None:
    stack = (
        Frame("FramedRun.run", "/x/bigmachine/rpc/runs.py", 1),
        Frame("logged.<locals>.wrapper", "/app/shop.py", 2),
        Frame("make.<locals>.Shop.sell", "/app/shop.py", 3),
        Frame("sqrt", "/app/other.py", 4),
    )
    profile = as_profile([Standing("thread", "bigmachine-call-3", stack)])
    assert [dict(labels)["service"] for _, labels in profile.samples] == ["Shop"]
    encoding = (
        stack[0],
        Frame("Codec.result", "/x/bigmachine/rpc/codec.py", 5),
        Frame("Point.__reduce__", "/app/p.py", 6),
    )
    profile = as_profile([Standing("thread", "bigmachine-call-3", encoding)])
    assert [labels for _, labels in profile.samples] == [()]


def test_what_py_spy_saw_is_read() -> None:
    dumped = json.dumps(
        [
            {
                "thread_id": 1,
                "thread_name": None,
                "os_thread_id": 77,
                "active": True,
                "owns_gil": True,
                "frames": [
                    {"name": "inner", "filename": "a.py", "line": 3},
                    {"name": "f", "filename": "a.py", "line": 9},
                ],
            }
        ]
    ).encode()
    (thread,) = from_py_spy(dumped)
    assert thread == Standing("thread", "77", (Frame("f", "a.py", 9), Frame("inner", "a.py", 3)), "runs, holds the GIL")
    for broken in (b"", b"{}x", b'[{"frames": 3}]', b"[3]"):
        with pytest.raises(ValueError, match="no dump of py-spy"):
            from_py_spy(broken)


def test_too_many_stacks_are_cut_and_no_sample_is_lost() -> None:
    folded = b"".join(b"main (a.py:1);f%d (a.py:2) %d\n" % (number, number) for number in range(1, 100))
    assert shortened(folded, len(folded)) == folded
    profile = from_folded(shortened(folded, 500).decode(), hertz=100)
    assert profile.total(0) == sum(range(1, 100))
    assert profile.samples[(TRUNCATED,), ()][0] > 4000
