"""The dashboard in a browser: what is on it, that it moves, that flame graphs open, what it says of the dead."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bigmachine
from bigmachine import Session, System
from bigmachine.system.cost import Receipt, Use
from bigmachine.systems.local import LocalSystem

#: The browser: this program, if it is said, and then it has to work; else what is installed; else playwright's own.
WANTED = os.environ.get("BIGMACHINE_BROWSER", "")
if WANTED:
    import playwright.sync_api as playwright
else:
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright here")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
expect = playwright.expect


class Work:
    def add(self, n: int) -> int:
        return n + 1

    def spin(self) -> None:
        call = bigmachine.current_call()
        while not call.cancelled():
            sum(range(2000))

    def fail(self) -> None:
        raise ValueError("on purpose")

    def say(self, text: str) -> None:
        print(text, flush=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        expect.set_options(timeout=20_000)
        program = WANTED or next(filter(None, map(shutil.which, NAMES)), None)
        if program is None and not Path(started.chromium.executable_path).exists():
            pytest.skip("there is no Chromium here: install Debian's chromium, or run `playwright install chromium`")
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with bigmachine.start("local", output="off", name="seen") as session:
        for machine in session.start(3, services=[Work()]):
            machine.wait()
        yield session


class Problems:
    """What a page should not do: errors, and requests to the outside."""

    def __init__(self, page: Any, base: str) -> None:
        self.seen: list[str] = []
        page.on("pageerror", lambda error: self.seen.append(str(error)))
        page.on("console", lambda message: self.seen.extend([message.text] if message.type == "error" else []))
        page.on("request", lambda request: self._check(request.url, base))

    def _check(self, url: str, base: str) -> None:
        if not url.startswith((base, "blob:", "data:")):
            self.seen.append(url)


@pytest.fixture
def seen(browser: Any, session: Session) -> Iterator[tuple[Any, Problems]]:
    url = session.serve_debug(port=0)
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems = Problems(page, url.partition("/debug")[0])
    page.goto(url)
    expect(page.locator("#machines tbody tr")).to_have_count(3)
    yield page, problems
    context.close()


@contextlib.contextmanager
def watched(browser: Any, n: int, system: System | str = "local") -> Iterator[tuple[Session, Any]]:
    """Give a session with `n` machines that run, and its page."""
    context = browser.new_context()
    with bigmachine.start(system, output="off") as session:
        for machine in session.start(n, services=[Work()]):
            machine.wait()
        page = context.new_page()
        page.goto(session.serve_debug(port=0))
        expect(page.locator("#t-machines")).to_have_text(f"{n} running")
        yield session, page
    context.close()


def row(page: Any, name: str) -> Any:
    return page.locator("#machines tbody tr", has=page.get_by_role("rowheader", name=re.compile(rf"^{name}\b")))


def test_machines_calls_and_lines_are_shown_as_they_come(session: Session, seen: tuple[Any, Problems]) -> None:
    page, problems = seen
    first = session.machines()[0]
    assert "token" not in page.url
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator("#title")).to_have_text("seen on local")
    expect(page.locator("#t-machines")).to_have_text("3 running")
    expect(row(page, "m1")).to_contain_text("running")
    expect(row(page, "m1")).to_contain_text("MiB")
    first.call(Work.say, "a line to be seen")
    expect(row(page, "m1")).to_contain_text("a line to be seen")
    for _ in range(5):
        first.call(Work.add, 1)
    with pytest.raises(ValueError, match="on purpose"):
        first.call(Work.fail)
    page.get_by_role("tab", name="Calls").click()
    method = page.locator("#methods tbody tr", has=page.get_by_role("rowheader", name="Work.add"))
    expect(method.locator("td").first).to_have_text("5")
    failed = page.locator("#methods tbody tr", has=page.get_by_role("rowheader", name="Work.fail"))
    expect(failed.locator("td").nth(1)).to_have_text("1")
    page.get_by_role("tab", name="Start").click()
    expect(page.locator("#starts tbody tr")).to_have_count(3)
    assert problems.seen == []


def test_lines_and_machines_are_filtered(session: Session, seen: tuple[Any, Problems]) -> None:
    page, problems = seen
    for machine in session.machines():
        machine.call(Work.say, f"hello from {machine.name} <b>bold</b>")
    page.get_by_role("tab", name="Log").click()
    log = page.get_by_role("log")
    expect(log).to_contain_text("hello from m2")
    expect(log).to_contain_text("hello from m3")
    expect(log).to_contain_text("<b>bold</b>")  # as it is, and not as markup
    page.locator("#log-filter").fill("M2: HELLO FROM M2")
    expect(log.locator("div")).to_have_count(1)
    page.get_by_role("tab", name="Machines").click()
    page.locator("#machine-filter").fill("hello m3")
    expect(page.locator("#machines tbody tr:visible")).to_have_count(1)
    expect(page.locator("#machine-count")).to_have_text("1 of 3")
    page.locator("#machine-filter").fill("")
    page.get_by_role("button", name="machine", exact=True).click()
    expect(page.locator("#machines tbody tr").first).to_contain_text("m3")
    assert page.locator("#machines th[aria-sort]").get_attribute("aria-sort") == "descending"
    assert problems.seen == []


@pytest.mark.parametrize("button", ["Heap", "Stacks", "CPU profile of m2"])
def test_a_button_opens_a_flame_graph(session: Session, seen: tuple[Any, Problems], button: str) -> None:
    page, problems = seen
    call = session.machines()[1].submit(Work.spin)
    page.locator("#viewer-seconds").evaluate("field => { field.value = '1' }")
    page.get_by_role("button", name=button, exact=True).click()
    frame = page.frame_locator("#viewer-frame")
    expect(frame.get_by_text("Left Heavy")).to_be_visible()
    expect(frame.locator("canvas").first).to_be_visible()
    said = "by type, not by who allocated it (a census of the objects that there are)" if button == "Heap" else ""
    expect(page.locator("#viewer-said")).to_have_text(said)
    call.cancel()
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#viewer")).not_to_be_visible()
    assert problems.seen == []


def test_a_profile_without_anything_in_it_says_so(session: Session, seen: tuple[Any, Problems]) -> None:
    page, problems = seen
    page.locator("#viewer-seconds").evaluate("field => { field.value = '1' }")
    pid = session.machines()[0].call("Supervisor.getpid")
    os.kill(pid, signal.SIGSTOP)  # what stands still has no samples
    try:
        page.get_by_role("button", name="CPU profile of m1", exact=True).click()
        expect(page.locator("#viewer-said")).to_contain_text("nothing ran", timeout=6000)
    finally:
        os.kill(pid, signal.SIGCONT)
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).not_to_be_visible()
    assert problems.seen == []


def test_who_is_missing_from_a_profile_is_named_beside_it(browser: Any) -> None:
    with watched(browser, 3) as (session, page):
        machines = session.machines()
        page.locator("#viewer-seconds").evaluate("field => { field.value = '3' }")
        calls = [machine.submit(Work.spin) for machine in machines]
        pids = [machine.call("Supervisor.getpid") for machine in machines[1:]]
        page.get_by_role("button", name="CPU profile", exact=True).click()
        expect(page.locator("#viewer-said")).to_contain_text("sampling")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        expect(page.locator("#viewer-said")).to_have_text("missing: m2, m3: it stopped (signal)")
        expect(page.locator("#viewer-said")).to_have_class("warning")
        expect(page.frame_locator("#viewer-frame").get_by_text("Left Heavy")).to_be_visible()
        calls[0].cancel()


class Priced(LocalSystem):
    """Local machines, as if the first session's agent were on a host that costs something."""

    host = ""

    def cost(self) -> Receipt | None:
        uses = (Use("i-1", "c5.large", "a", "spot", 3.6, time.time() - 1000, agent_id=self.host),) if self.host else ()
        return Receipt(uses, time.time())


def test_what_machines_cost_is_shown_and_where_they_have_no_price_a_dash(browser: Any) -> None:
    system = Priced()
    with watched(browser, 2, system) as (session, page):
        machines = session.machines()
        costs = page.locator("#machines thead th").all_text_contents().index("cost")
        cell = row(page, "m2").locator(f":scope > *:nth-child({costs + 1})")
        expect(cell).to_have_text("\u2013")  # a dash
        system.host = machines[0].machine_id.rpartition("-")[0]
        expect(cell).to_have_text(re.compile(r"\$0\.5\d"))  # they share a host
        expect(page.locator("#t-cost")).to_have_text(re.compile(r"\$1\.0\d \(\$3\.60/h\)"))


def test_the_page_fits_a_telephone(browser: Any, session: Session) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto(session.serve_debug(port=0))
    expect(page.locator("#machines tbody tr")).to_have_count(3)
    for name in ("Machines", "Calls", "Log", "Start"):
        page.get_by_role("tab", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    context.close()


def test_the_page_is_worked_by_keys_alone(seen: tuple[Any, Problems]) -> None:
    page, problems = seen
    page.locator("#tab-machines").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#tab-calls")).to_be_focused()
    expect(page.locator("#panel-calls")).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator("#panel-start")).to_be_visible()
    expect(page.locator("#panel-calls")).not_to_be_visible()
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    expect(page.locator("#panel-machines")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#machine-filter")).to_be_focused()
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, [role]')].filter(e => !(e.ariaLabel || e.textContent.trim()"
        " || e.labels?.length || e.getAttribute('aria-labelledby') || e.closest('[hidden]')"
        " || e.role === 'status')).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert problems.seen == []


def test_a_machine_that_dies_is_shown_with_its_cause_and_so_is_the_end_of_the_session(browser: Any) -> None:
    with watched(browser, 2) as (session, page):
        machines = session.machines()
        os.kill(machines[1].call("Supervisor.getpid"), signal.SIGKILL)
        expect(row(page, "m2")).to_contain_text("stopped")
        expect(row(page, "m2")).to_contain_text("SIGKILL")
        expect(row(page, "m2").get_by_role("button")).to_have_count(0)
        expect(page.locator("#t-machines")).to_have_text("1 running")
        session.shutdown()
        expect(page.locator("#link")).to_have_text("the session has ended")
