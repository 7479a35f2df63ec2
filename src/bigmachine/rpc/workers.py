"""Tasks that run `async def` methods on an event loop, one method after the other.

A task for each call would cost as much as all else that is done for a small one: the task itself, its entry in the
loop's set of tasks, and the callback that begins it in the loop's next round. Most methods that are called a hundred
thousand times a second wait for nothing. So a few tasks take the calls from a queue: a worker goes on with the next one
once a method is through; while a method waits for something, its worker waits with it, and another takes the rest.

Each method has a context of its own, as in a task of its own. To it, its worker is its task: what it asks of
`asyncio.current_task()`, time limits and task groups among it, holds; and a worker that was cancelled for its method's
sake takes no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, Protocol

from bigmachine.rpc.reactor import release

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

_log = logging.getLogger("bigmachine.rpc")
#: Workers that wait for calls; more than these end when their method has.
_MOST_IDLE: Final = 64
#: What `Steps.first` gives when there is no second step.
DONE: Final = object()


class Work(Protocol):
    """A call for a worker."""

    context: Context | None
    task: asyncio.Task[Any] | None

    def first(self) -> Any:
        """Run until the method waits for something, which is returned; DONE if it did not."""

    def rest(self, waits_for: Any) -> Steps:
        """Give the steps that are left."""

    def succeed(self, result: Any) -> None:
        """Take what the method has returned."""

    def fail(self, exc: BaseException) -> None:
        """Take what the method has raised."""


class Steps:
    """The steps of a coroutine in a context, to be awaited; the first has been taken, and waits for something."""

    __slots__ = ("_context", "_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: Context, waits_for: Any) -> None:
        self._coroutine = coroutine
        self._context = context
        self._waits_for = [waits_for]

    def __await__(self) -> Generator[Any, None, Any]:
        return self  # all that a task needs of a generator

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> Any:
        if self._waits_for:
            return self._waits_for.pop()
        return self._context.run(self._coroutine.send, None)

    def send(self, value: Any) -> Any:
        return self._context.run(self._coroutine.send, value)

    def throw(self, *exc: Any) -> Any:
        return self._context.run(self._coroutine.throw, *exc)

    def close(self) -> None:
        self._context.run(self._coroutine.close)


class Workers:
    """The workers of one event loop; all of it runs there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        #: What held where the server was made; each call has a copy.
        self.context = copy_context()
        #: Calls that nobody has begun.
        self.queue: deque[Work] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_due = False
        self._is_closed = False

    def close(self) -> None:
        """Have every worker end when it has nothing to do any more."""
        self._is_closed = True
        idle = self._idle.copy()
        self._idle.clear()
        release(idle)

    def work_soon(self) -> None:
        """Have what is in the queue begun in the loop's next round."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._work_due)

    def _work_due(self) -> None:
        self._is_due = False
        self.work()

    def work(self) -> None:
        """Have what is in the queue begun now; in a callback of the loop."""
        while self.queue:
            if not self._idle:
                task = self._loop.create_task(self._serve(), name="bigmachine-call", context=self.context.copy())
                self._tasks.add(task)
                task.add_done_callback(self._ended)
                self.work_soon()  # after its first step, should that end in a method that waits
                return
            release((self._idle.pop(),))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            _log.error("a worker failed", exc_info=exc)
        if self.queue:
            self.work_soon()

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        queue = self.queue
        while True:
            while queue:
                work = queue.popleft()
                work.task = task
                context = work.context
                assert context is not None
                waits_for = context.run(work.first)
                if waits_for is not DONE:
                    await _finish(work, context, waits_for)
                del work, context, waits_for
                if task.cancelling():
                    return
            if self._is_closed or len(self._idle) >= _MOST_IDLE:
                return
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle


async def _finish(work: Work, context: Context, waits_for: Any) -> None:
    try:
        result = await work.rest(waits_for)
    except BaseException as exc:  # the edge of the method: also SystemExit must not end the loop
        context.run(work.fail, exc)
        if isinstance(exc, GeneratorExit):
            raise
    else:
        context.run(work.succeed, result)
