"""A service is taken in once, and can be called only after its `init`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bigmachine.errors import InvalidCall
from bigmachine.rpc import ServiceTable
from bigmachine.rpc.registrar import Registrar


class Slow:
    """Its `init` ends when it is let go, as it is told."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.failure = failure
        self.inits = 0

    async def init(self, session: object) -> None:
        self.inits += 1
        self.begun.set()
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure


class Plain:
    def init(self, session: object) -> None:
        self.session = session
        self.thread = threading.current_thread()


class Mixed:
    """A plain function that returns something to await."""

    def init(self, session: object) -> Any:
        return self._later()

    async def _later(self) -> None:
        self.is_ready = True


def new() -> tuple[ServiceTable, Registrar]:
    table = ServiceTable()
    return table, Registrar(table, "session")


def test_a_service_is_not_there_until_its_init_is_done() -> None:
    async def main() -> None:
        table, registrar = new()
        slow = Slow()
        registering = asyncio.ensure_future(registrar.register("S", slow))
        await slow.begun.wait()
        assert table.get("S") is None
        slow.may_end.set()
        assert await registering is True
        assert table.get("S") is slow

    asyncio.run(main())


def test_a_second_service_of_the_name_waits_for_the_first_and_is_dropped() -> None:
    async def main() -> None:
        table, registrar = new()
        first, second = Slow(), Slow()
        registering = asyncio.ensure_future(registrar.register("S", first))
        again = asyncio.ensure_future(registrar.register("S", second))
        await first.begun.wait()
        await asyncio.sleep(0)
        assert not again.done()
        first.may_end.set()
        assert (await registering, await again) == (True, False)
        assert table.get("S") is first
        assert second.inits == 0

    asyncio.run(main())


def test_a_second_service_fails_as_the_first_did_and_its_init_is_not_run() -> None:
    async def main() -> None:
        table, registrar = new()
        first = Slow(LookupError("no data"))
        first.may_end.set()
        with pytest.raises(LookupError):
            await registrar.register("S", first)
        second = Slow()
        with pytest.raises(LookupError, match="no data"):
            await registrar.register("S", second)
        assert second.inits == 0
        assert table.get("S") is None

    asyncio.run(main())


def test_who_waits_for_a_first_one_that_is_cancelled_is_told() -> None:
    async def main() -> None:
        _, registrar = new()
        first = Slow()
        registering = asyncio.ensure_future(registrar.register("S", first))
        again = asyncio.ensure_future(registrar.register("S", Slow()))
        await first.begun.wait()
        await asyncio.sleep(0)
        registering.cancel()
        with pytest.raises(InvalidCall, match="init of service 'S' was given up"):
            await again

    asyncio.run(main())


def test_giving_up_a_second_one_does_not_disturb_the_first() -> None:
    async def main() -> None:
        table, registrar = new()
        first = Slow()
        registering = asyncio.ensure_future(registrar.register("S", first))
        again = asyncio.ensure_future(registrar.register("S", Slow()))
        await first.begun.wait()
        again.cancel()
        first.may_end.set()
        assert await registering is True
        assert table.get("S") is first

    asyncio.run(main())


def test_a_plain_init_runs_in_a_thread_of_the_given_kind() -> None:
    asked: list[str] = []

    async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
        asked.append("thread")
        return await asyncio.to_thread(function, *args)

    plain = Plain()
    asyncio.run(Registrar(ServiceTable(), "session", in_thread).register("S", plain))
    assert asked == ["thread"]
    assert plain.session == "session"
    assert plain.thread is not threading.main_thread()


def test_a_plain_init_may_raise_even_stop_iteration() -> None:
    class Empty:
        def init(self, session: object) -> None:
            next(iter(()))

    async def main() -> None:
        async with asyncio.timeout(5):
            await new()[1].register("S", Empty())

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(main())


def test_what_a_plain_init_returns_is_awaited() -> None:
    mixed = Mixed()
    asyncio.run(new()[1].register("S", mixed))
    assert mixed.is_ready


def test_an_attribute_called_init_that_is_no_method_is_refused() -> None:
    class Odd:
        init = 3

    with pytest.raises(InvalidCall, match="`init` is not a method"):
        asyncio.run(new()[1].register("S", Odd()))


def test_a_bad_name_is_refused_before_init_has_run() -> None:
    plain = Plain()
    with pytest.raises(InvalidCall, match="cannot name a service"):
        asyncio.run(new()[1].register("a/b", plain))
    assert not hasattr(plain, "session")


def test_a_name_that_is_in_the_table_already_is_kept() -> None:
    async def main() -> None:
        table, registrar = new()
        table.register("Supervisor", "the machine's own")
        assert await registrar.register("Supervisor", Plain()) is False
        assert table.get("Supervisor") == "the machine's own"

    asyncio.run(main())


def test_a_machine_runs_once_its_last_service_is_there() -> None:
    async def main() -> None:
        _, registrar = new()
        running = asyncio.ensure_future(registrar.running())
        await registrar.register("A", object(), is_last=False)
        await asyncio.sleep(0)
        assert not running.done()
        last = Slow()
        registering = asyncio.ensure_future(registrar.register("B", last))
        await last.begun.wait()
        assert not running.done()
        last.may_end.set()
        await registering
        await asyncio.wait_for(running, 5)

    asyncio.run(main())


def test_a_machine_whose_last_service_failed_never_runs() -> None:
    async def main() -> None:
        _, registrar = new()
        failing = Slow(LookupError())
        failing.may_end.set()
        with pytest.raises(LookupError):
            await registrar.register("A", failing)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(registrar.running(), 0.01)

    asyncio.run(main())
