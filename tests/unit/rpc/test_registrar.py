"""A service is taken in once, after its `init`, and only if that did not raise."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable

import pytest

from bigmachine.errors import InvalidCall
from bigmachine.rpc import ServiceTable
from bigmachine.rpc.registrar import Registrar

SESSION = object()


class Plain:
    def __init__(self) -> None:
        self.seen: list[object] = []
        self.thread = 0

    def init(self, session: object) -> None:
        self.seen.append(session)
        self.thread = threading.get_ident()


class Async(Plain):
    async def init(self, session: object) -> None:  # type: ignore[override]  # another kind of init
        await asyncio.sleep(0)
        super().init(session)


class Returning(Plain):
    def init(self, session: object) -> Awaitable[None]:  # type: ignore[override]  # another kind of init
        async def later() -> None:
            self.seen.append(session)

        return later()


class Held:
    """An init that lasts until `go`."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()

    async def init(self, session: object) -> None:
        self.begun.set()
        await self.go.wait()


class Failing:
    runs = 0

    def init(self, session: object) -> None:
        self.runs += 1
        raise OSError("no disk")


@pytest.mark.parametrize("kind", [Plain, Async, Returning])
def test_init_runs_once_with_the_session_before_the_service_is_there(kind: type[Plain]) -> None:
    async def scenario() -> None:
        table, service = ServiceTable(), kind()
        assert await Registrar(table, SESSION).register("S", service)
        assert service.seen == [SESSION]
        assert table.get("S") is service

    asyncio.run(scenario())


def test_a_plain_init_runs_in_a_thread_and_an_async_one_on_the_loop() -> None:
    async def scenario() -> None:
        registrar = Registrar(ServiceTable(), SESSION)
        plain, on_loop = Plain(), Async()
        await registrar.register("P", plain)
        await registrar.register("A", on_loop)
        assert plain.thread != threading.get_ident()
        assert on_loop.thread == threading.get_ident()

    asyncio.run(scenario())


def test_a_service_without_init_is_taken_as_it_is() -> None:
    table = ServiceTable()
    assert asyncio.run(Registrar(table, SESSION).register("S", 5))
    assert table.get("S") == 5


def test_the_first_of_a_name_is_kept_also_while_its_init_runs(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        table = ServiceTable()
        registrar = Registrar(table, SESSION)
        first, second = Async(), Plain()
        coming = asyncio.create_task(registrar.register("S", first))
        await asyncio.sleep(0)
        assert not await registrar.register("S", second)
        assert await coming
        assert not await registrar.register("S", second)
        assert table.get("S") is first
        assert second.seen == []

    with caplog.at_level(logging.WARNING, "bigmachine"):
        asyncio.run(scenario())
    assert "service S is defined already" in caplog.text


def test_a_second_service_of_a_name_waits_for_the_init_of_the_first() -> None:
    async def scenario() -> None:
        registrar = Registrar(ServiceTable(), SESSION)
        first = Held()
        coming = asyncio.create_task(registrar.register("S", first))
        second = asyncio.create_task(registrar.register("S", Plain()))
        await first.begun.wait()
        await asyncio.sleep(0)
        assert not second.done()
        first.go.set()
        assert [await coming, await second] == [True, False]

    asyncio.run(scenario())


def test_a_service_whose_init_raises_is_not_there_and_not_tried_again() -> None:
    async def scenario() -> None:
        table, service = ServiceTable(), Failing()
        registrar = Registrar(table, SESSION)
        for _ in range(2):
            with pytest.raises(OSError, match="no disk"):
                await registrar.register("S", service)
        assert table.get("S") is None
        assert service.runs == 1

    asyncio.run(scenario())


def test_when_an_init_is_given_up_whoever_waits_for_it_is_told() -> None:
    async def scenario() -> None:
        table = ServiceTable()
        registrar = Registrar(table, SESSION)
        first = Held()
        coming = asyncio.create_task(registrar.register("S", first))
        await first.begun.wait()
        second = asyncio.create_task(registrar.register("S", Plain()))
        await asyncio.sleep(0)
        coming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await coming
        with pytest.raises(InvalidCall, match="the init of service 'S' was given up"):
            await second
        assert table.get("S") is None

    asyncio.run(scenario())


def test_an_init_that_raises_stop_iteration_is_a_runtime_error() -> None:
    class Stopping:
        def init(self, session: object) -> None:
            raise StopIteration

    with pytest.raises(RuntimeError, match="init raised StopIteration"):
        asyncio.run(Registrar(ServiceTable(), SESSION).register("S", Stopping()))


def test_the_machine_runs_once_the_last_of_its_services_is_taken_in() -> None:
    async def scenario() -> None:
        registrar = Registrar(ServiceTable(), SESSION)
        running = asyncio.create_task(registrar.running())
        await registrar.register("A", Plain(), is_last=False)
        await asyncio.sleep(0)
        assert not running.done()
        await registrar.register("B", Plain())
        await running

    asyncio.run(scenario())


def test_a_bad_name_is_refused_before_init_has_done_anything() -> None:
    service = Plain()
    with pytest.raises(InvalidCall, match="cannot name a service"):
        asyncio.run(Registrar(ServiceTable(), SESSION).register("a/b", service))
    assert service.seen == []


def test_an_init_that_is_no_method_is_refused() -> None:
    service = Plain()
    service.init = 5  # type: ignore[assignment,method-assign]  # that is the point
    with pytest.raises(InvalidCall, match="its `init` is not a method"):
        asyncio.run(Registrar(ServiceTable(), SESSION).register("S", service))
