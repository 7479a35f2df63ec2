"""Find where the threads and asyncio tasks of this process are, from inside.

A task's stack is its whole chain of awaits: coroutines, generators and asynchronous generators down to the future that
it waits for. The interpreter keeps that chain (`cr_await` and its like); two kinds of objects in between do not tell
what they stand for, so what they refer to is looked at.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import types
from typing import TYPE_CHECKING, Final

from bigmachine.observe.profile import Frame
from bigmachine.observe.stacks import Standing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bigmachine.observe.profile import Stack

#: A chain of awaits may be as deep as a recursion; one that goes in a circle may not keep us.
_DEEPEST: Final = 2000
#: What stands between an awaiting frame and what it awaits, and does not say so; `Steps` is of our own `rpc`.
_WRAPPERS: Final = ("coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable", "Steps")
#: Where an event loop's own thread runs: the frame's `self` or its `_loop` is the loop.
_LOOP_FILES: Final = ("asyncio/base_events.py", "asyncio/runners.py")


def take(loops: Iterable[asyncio.AbstractEventLoop] = ()) -> list[Standing]:
    """Tell where all threads stand but the calling one, and all tasks of `loops` and of the loops in their frames."""
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    standing = []
    found = dict.fromkeys(loops)
    for ident, frame in frames.items():
        standing.append(Standing("thread", names.get(ident, str(ident)), stack_of(frame)))
        found.update(dict.fromkeys(_loops_in(frame)))
    frames.clear()  # each holds all variables of its function
    for loop in found:
        standing += _tasks_of(loop)
    return standing


def stack_of(frame: types.FrameType | None) -> Stack:
    """Give the stack that ends in `frame`, the outermost first."""
    stack = []
    while frame is not None:
        stack.append(frame_of(frame))
        frame = frame.f_back
    return tuple(reversed(stack))


def frame_of(frame: types.FrameType) -> Frame:
    """Describe one frame."""
    code = frame.f_code
    return Frame(code.co_qualname, code.co_filename, frame.f_lineno or 0)


def _loops_in(frame: types.FrameType | None) -> list[asyncio.AbstractEventLoop]:
    found = []
    while frame is not None:
        if frame.f_code.co_filename.endswith(_LOOP_FILES):
            owner = frame.f_locals.get("self")
            loop = owner if isinstance(owner, asyncio.AbstractEventLoop) else getattr(owner, "_loop", None)
            if isinstance(loop, asyncio.AbstractEventLoop) and loop not in found:
                found.append(loop)
        frame = frame.f_back
    return found


def _tasks_of(loop: asyncio.AbstractEventLoop) -> list[Standing]:
    try:
        tasks = asyncio.all_tasks(loop)
    except RuntimeError:  # its set of tasks changed a thousand times while it was copied
        return [Standing("task", "?", (), "the tasks of this loop come and go too fast to be listed")]
    return [_standing_of(task) for task in sorted(tasks, key=lambda task: task.get_name())]


def _standing_of(task: asyncio.Task[object]) -> Standing:
    stack: list[Frame] = []
    awaited: object = task.get_coro()
    for _ in range(_DEEPEST):
        frame, following = _step(awaited)
        if frame is not None:
            stack.append(frame_of(frame))
        if following is None:
            break
        awaited = following
    return Standing("task", task.get_name(), tuple(stack), _waits_for(awaited))


def _step(awaited: object) -> tuple[types.FrameType | None, object]:
    """Give the frame of what is awaited, if it has one, and what that awaits in its turn."""
    if isinstance(awaited, types.CoroutineType):
        return awaited.cr_frame, awaited.cr_await
    if isinstance(awaited, types.AsyncGeneratorType):
        return awaited.ag_frame, awaited.ag_await
    if isinstance(awaited, types.GeneratorType):
        return awaited.gi_frame, awaited.gi_yieldfrom
    if type(awaited).__name__ in _WRAPPERS:
        kinds = (types.CoroutineType, types.AsyncGeneratorType, types.GeneratorType)
        return None, next((each for each in gc.get_referents(awaited) if isinstance(each, kinds)), None)
    return None, None


def _waits_for(last: object) -> str:
    if asyncio.isfuture(last):
        futures = [last]
    elif last is None or isinstance(last, types.CoroutineType | types.GeneratorType | types.AsyncGeneratorType):
        return "runs, or is about to"
    else:
        futures = [each for each in gc.get_referents(last) if asyncio.isfuture(each)]
    for future in futures:
        if isinstance(future, asyncio.Task):
            return f"waits for task {future.get_name()}"
        return "waits for a future"
    return f"waits for {type(last).__name__}"


__all__ = ["frame_of", "stack_of", "take"]
