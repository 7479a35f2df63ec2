"""The application, asked directly, with machines inside this process."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator

import pytest

import bigmachine
from bigmachine import Machine, Session
from bigmachine.system.cost import Receipt, Use
from bigmachine.systems.inprocess import InprocessSystem
from bigmachine.web import debug_app
from bigmachine.web.profiles import shortened_comments
from tests.unit.inside import eventually
from tests.unit.web.asking import Reply, ask, events


class Work:
    def add(self, n: int) -> int:
        return n + 1

    def fail(self) -> None:
        raise ValueError("on purpose")


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with bigmachine.start("inprocess", name="paged", output="off") as session:
        for machine in session.start(2, services=[Work()]):
            machine.wait()
        yield session


def get(session: Session, path: str, query: str = "", **given: object) -> Reply:
    return asyncio.run(ask(debug_app(session), path, query, **given))  # type: ignore[arg-type]  # passed on


@pytest.mark.parametrize("root", ["", "/mounted/here"])
@pytest.mark.parametrize("has_root", [True, False])
def test_pages_are_there_under_any_prefix(session: Session, root: str, has_root: bool) -> None:
    for path, kind in [
        ("/debug/bigmachine/", "text/html"),
        ("/debug/bigmachine/status", "text/plain"),
        ("/debug/bigmachine/pprof/", "text/html"),
        ("/debug/bigmachine/vars", "application/json"),
        ("/debug/vars", "application/json"),
        ("/metrics", "application/openmetrics-text"),
        ("/debug/bigmachine/static/dashboard.js", "text/javascript"),
        ("/debug/bigmachine/static/speedscope/index.html", "text/html"),
    ]:
        reply = get(session, (root if has_root else "") + path, root=root)
        assert reply.status == 200, (path, reply.text)
        assert reply.headers["content-type"].startswith(kind)


def test_mounted_at_gos_own_place_the_pages_are_right_below(session: Session) -> None:
    root = "/debug/bigmachine"
    assert "m1" in get(session, f"{root}/status", root=root).text
    assert "<!DOCTYPE html>" in get(session, f"{root}/", root=root).text


def test_the_state_of_one_machine(session: Session) -> None:
    told = get(session, "/debug/bigmachine/status", "machine=m2").text
    assert "(m2, " in told
    assert "(m1, " not in told


def test_a_place_without_its_slash_leads_to_it(session: Session) -> None:
    assert get(session, "/").headers["location"] == "/debug/bigmachine/"
    assert get(session, "/debug/bigmachine").headers["location"] == "/debug/bigmachine/"
    assert get(session, "/x/debug/bigmachine/pprof", "a=1", root="/x").headers["location"].endswith("/pprof/?a=1")


@pytest.mark.parametrize(
    ("path", "query", "status", "says"),
    [
        ("/debug/bigmachine/nothing", "", 404, "./status"),
        ("/nothing", "", 404, "./status"),
        ("/debug/bigmachine/static/../access.py", "", 404, "no file"),
        ("/debug/bigmachine/pprof/nothing", "", 404, "there is profile, heap, goroutine, mutex, gil"),
        ("/debug/bigmachine/pprof/block", "", 404, "nearest is mutex"),
        ("/debug/bigmachine/pprof/heap", "machine=m9", 404, "there is m1, m2"),
        ("/debug/bigmachine/pprof/heap", "wrong=1", 400, "there is seconds"),
        ("/debug/bigmachine/status", "machine=m9", 404, "there is m1, m2"),
        ("/debug/bigmachine/status", "wrong=1", 400, "no parameter 'wrong': there is machine"),
        ("/debug/bigmachine/vars", "wrong=1", 400, "no parameter 'wrong': there is none"),
        ("/debug/vars", "wrong=1", 400, "no parameter 'wrong': there is none"),
        ("/metrics", "wrong=1", 400, "no parameter 'wrong': there is none"),
        ("/debug/bigmachine/pprof/profile", "seconds=-1", 400, "above 0"),
        ("/debug/bigmachine/pprof/profile", "seconds=nan", 400, "above 0"),
        ("/debug/bigmachine/pprof/profile", "format=gif", 400, "there is folded, pprof"),
        ("/debug/bigmachine/pprof/heap", "debug=3", 400, "debug=3"),
        ("/debug/bigmachine/pprof/heap", "native=1", 400, "has no option 'native'"),
        ("/debug/bigmachine/pprof/heap", "mode=none", 400, "there is types, tracemalloc, memray"),
    ],
)
def test_what_there_is_not_is_answered_with_what_there_is(
    session: Session, path: str, query: str, status: int, says: str
) -> None:
    reply = get(session, path, query)
    assert (reply.status, reply.headers["content-type"]) == (status, "text/plain; charset=utf-8")
    assert says in reply.text


def test_who_is_refused_learns_why_and_nothing_else(session: Session) -> None:
    app = debug_app(session, token="secret")
    for given in ({}, {"query": "token=wrong"}, {"headers": {"host": "evil.example"}}):
        reply = asyncio.run(ask(app, "/debug/bigmachine/status", **given))
        assert reply.status in (403, 421)
        assert "m1" not in reply.text
        assert "secret" not in reply.text
    assert asyncio.run(ask(app, "/debug/bigmachine/status", "token=secret")).status == 200


def test_a_browser_is_sent_on_without_the_token_and_other_clients_are_answered(session: Session) -> None:
    app = debug_app(session, token="secret")
    reply = asyncio.run(ask(app, "/debug/bigmachine/", "token=secret&a=b", headers={"accept": "text/html,*/*"}))
    assert (reply.status, reply.headers["location"]) == (303, "/debug/bigmachine/?a=b")
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    name = cookie.partition(";")[0]
    assert asyncio.run(ask(app, "/debug/bigmachine/status", headers={"cookie": name})).status == 200
    assert asyncio.run(ask(app, "/metrics", "token=secret", headers={"accept": "*/*"})).status == 200


def test_pages_say_that_nothing_comes_from_elsewhere(session: Session) -> None:
    headers = get(session, "/debug/bigmachine/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_variables_are_in_gos_shape_and_valid_json(session: Session) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    told = json.loads(get(session, "/debug/vars").text, parse_constant=refuse)
    assert {"m1", "m2", "driver", "_sum"} <= set(told["machines"])
    assert told["machines"]["m1"]["machine.running"] == 1


def test_comments_in_a_header_are_bounded() -> None:
    few = ["missing: m1: <è>", "biased"]
    assert json.loads(shortened_comments(few)) == few
    many = [f"missing: m{n}: {'why ' * 30}" for n in range(200)]
    told = shortened_comments(many)
    assert len(told) <= 4000
    kept = json.loads(told)
    assert kept[:-1] == many[: len(kept) - 1]
    assert kept[-1] == f"and {200 - len(kept) + 1} more remarks"
    assert len(json.loads(shortened_comments(["x" * 5000]))) == 1


def test_a_head_request_has_no_body(session: Session) -> None:
    reply = get(session, "/debug/bigmachine/status", method="HEAD")
    assert (reply.status, reply.body) == (200, b"")


def test_long_pages_are_packed_for_who_can_unpack_them(session: Session) -> None:
    packed = get(session, "/debug/bigmachine/static/dashboard.js", headers={"accept-encoding": "gzip, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.body == get(session, "/debug/bigmachine/static/dashboard.js").body


def test_everything_together_is_small() -> None:
    import gzip

    from bigmachine.web.static import _files

    assert sum(len(gzip.compress(data)) for data in _files().values()) <= 300_000


def test_the_lifespan_protocol_is_answered(session: Session) -> None:
    async def live() -> list[str]:
        coming = iter(["lifespan.startup", "lifespan.shutdown"])
        said: list[str] = []

        async def receive() -> dict[str, object]:
            return {"type": next(coming)}

        async def send(message: object) -> None:
            said.append(message["type"])  # type: ignore[index]  # a message is a mapping

        await debug_app(session)({"type": "lifespan"}, receive, send)
        return said

    assert asyncio.run(live()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


# the stream


def watching() -> bool:
    return any(thread.name == "bigmachine-watch" for thread in threading.enumerate())


def is_traced(machine: Machine) -> bool:
    return machine._program.statistics._tap is not None


def test_a_viewer_is_told_everything_and_then_what_changed(session: Session) -> None:
    first = session.machines()[0]

    async def view() -> Reply:
        calls = 0

        def enough(body: bytes) -> bool:
            nonlocal calls
            if b"event: all" in body and not calls:
                calls = 1
                first.call(Work.add, 1)
                with pytest.raises(ValueError, match="on purpose"):
                    first.call(Work.fail)
            return body.count(b"event: change") >= 2

        return await ask(debug_app(session), "/debug/bigmachine/events", until=enough)

    reply = asyncio.run(view())
    assert reply.headers["content-type"] == "text/event-stream"
    (kind, everything), *rest = events(reply.body)
    assert kind == "all"
    assert {row["name"] for row in everything["rows"].values()} == {"m1", "m2"}
    assert everything["session"] == "paged on inprocess"
    names = everything["names"] + [name for _, change in rest for name in change.get("names", [])]
    calls = [call for _, change in rest for call in change.get("calls", [])]
    told = {(names[call[0]], names[call[1]], len(call) > 4) for call in calls}
    assert {(first.name, "Work.add", False), (first.name, "Work.fail", True)} <= told
    assert all("name" not in row for _, change in rest for row in change.get("rows", {}).values())


def test_nothing_is_collected_while_nobody_looks(session: Session) -> None:
    app = debug_app(session)
    seen: list[bool] = []

    def enough(body: bytes) -> bool:
        if b"event: all" in body:
            seen.append(watching() and all(map(is_traced, session.machines())))
            return True
        return False

    eventually(lambda: not watching(), "the watches of other tests have gone")
    asyncio.run(ask(app, "/debug/bigmachine/events", until=enough))
    assert seen == [True]
    eventually(lambda: not watching(), "the watch has gone")
    assert not any(map(is_traced, session.machines()))
    assert not session._display._listeners


def test_two_viewers_of_two_applications_see_the_same_calls(session: Session) -> None:
    machine = session.machines()[0]

    def enough(body: bytes) -> bool:
        machine.submit(Work.add, 1)
        return body.count(b"event: change") >= 3

    async def view() -> list[Reply]:
        apps = debug_app(session), debug_app(session, token="secret")
        asked = (ask(app, "/debug/bigmachine/events", "token=secret", until=enough) for app in apps)
        return await asyncio.gather(*asked)

    first, second = (events(reply.body) for reply in asyncio.run(view()))
    assert first[0][1]["rows"].keys() == second[0][1]["rows"].keys()
    told = [{tuple(call) for _, change in each for call in change.get("calls", [])} for each in (first, second)]
    assert told[0] & told[1]


def test_a_machine_that_stops_is_shown_with_its_cause() -> None:
    with bigmachine.start("inprocess", output="off") as session:
        machine, other = session.start(2, services=[Work()])
        for each in (machine, other):
            each.wait()

        async def view() -> Reply:
            is_killed = False

            def enough(body: bytes) -> bool:
                nonlocal is_killed
                if b"event: all" in body and not is_killed:
                    is_killed = True
                    session.system.kill(machine)  # type: ignore[union-attr]  # it is the one for tests
                return b'"STOPPED"' in body

            return await ask(debug_app(session), "/debug/bigmachine/events", until=enough)

        rows = [change.get("rows", {}).get(machine.machine_id, {}) for _, change in events(asyncio.run(view()).body)]
        assert rows[-1]["state"] == "STOPPED"
        assert rows[-1]["error"].startswith("(signal) by SIGKILL")


class Priced(InprocessSystem):
    """A system whose first host has a price, and whose others have none."""

    def cost(self) -> Receipt | None:
        return self.receipt

    receipt: Receipt | None = None


def test_what_a_machine_costs_is_told_where_it_has_a_price() -> None:
    system = Priced()
    with bigmachine.start(system, output="off") as session:
        first, second = session.start(2, services=[Work()])
        for each in (first, second):
            each.wait()
        agent = first.machine_id.rpartition("-")[0]
        now = time.time()
        system.receipt = Receipt((Use("i-1", "c5.large", "a", "spot", 3.6, now - 1000, agent_id=agent),), now)
        reply = asyncio.run(ask(debug_app(session), "/debug/bigmachine/events", until=lambda body: b"all" in body))
        _, told = events(reply.body)[0]
        same_host = second.machine_id.startswith(f"{agent}-")
        assert told["rows"][first.machine_id]["cost"] == (0.5 if same_host else 1.0)
        assert ("cost" in told["rows"][second.machine_id]) is same_host
        assert told["cost"] == [3.6, 1.0]


def test_a_system_that_cannot_say_what_it_costs_does_not_end_the_stream(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ConnectionError("no prices")

    monkeypatch.setattr(InprocessSystem, "cost", fail)
    reply = asyncio.run(ask(debug_app(session), "/debug/bigmachine/events", until=lambda body: b"change" in body))
    assert [name for name, _ in events(reply.body)][:2] == ["all", "change"]


def test_the_end_of_the_session_ends_the_stream_of_a_mounted_application() -> None:
    session = bigmachine.start("inprocess", output="off")
    session.start(services=[Work()])[0].wait()
    app = debug_app(session)

    async def view() -> Reply:
        def enough(body: bytes) -> bool:
            if b"event: all" in body and b"event: end" not in body:
                threading.Thread(target=session.shutdown).start()
            return False

        return await ask(app, "/debug/bigmachine/events", until=enough)

    assert events(asyncio.run(view()).body)[-1] == ("end", {})
    reply = asyncio.run(ask(app, "/debug/bigmachine/vars"))
    assert (reply.status, "was shut down" in reply.text) == (503, True)
