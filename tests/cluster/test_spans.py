"""Spans of calls for OpenTelemetry, from the driver over one machine to another."""

from __future__ import annotations

import json

import pytest

from tests.cluster.programs import RunProgram, WriteProgram

pytest.importorskip("opentelemetry.sdk.trace", reason="the OpenTelemetry SDK is not installed")

TRACED = """
import json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import bigmachine

KEPT = InMemorySpanExporter()

def told():
    return [
        {
            "name": span.name, "kind": span.kind.name, "id": span.context.span_id, "trace": span.context.trace_id,
            "parent": span.parent.span_id if span.parent else 0, "status": span.status.status_code.name,
        }
        for span in KEPT.get_finished_spans()
    ]

class Relay:
    def init(self, session):
        if "untraced" not in sys.argv:
            provider = TracerProvider()
            provider.add_span_processor(SimpleSpanProcessor(KEPT))
            trace.set_tracer_provider(provider)
    def pass_on(self, other):
        return other.call(Relay.add, 1, b=2)
    async def add(self, a, b):
        return a + b
    def fail(self):
        raise ValueError("on purpose")
    def told(self):
        return told()

if __name__ == "__main__":
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(KEPT))
    with bigmachine.start("local") as session:
        one, two = session.start(2, services=[Relay()])
        one.wait(), two.wait()
        assert one.call(Relay.add, 3, b=4) == 7  # nobody records yet
        assert not KEPT.get_finished_spans()
        trace.set_tracer_provider(provider)
        assert one.call(Relay.pass_on, two) == 3
        for wrong in (lambda: two.call(Relay.add, 1), lambda: two.call(Relay.fail)):
            try:
                wrong()
            except (bigmachine.InvalidCall, ValueError) as error:
                print(type(error).__name__)
        here = told()
        machines = [machine.submit("Relay.told").result() for machine in (one, two)]
    print(json.dumps([here, *machines]))
"""


def test_spans_hang_together_across_machines(run_program: RunProgram, write: WriteProgram) -> None:
    write("main.py", TRACED)
    *errors, last = run_program("main.py").out.splitlines()
    here, one, two = json.loads(last)
    assert errors == ["InvalidCall", "ValueError"]
    by_name = {(span["name"], span["kind"]): span for span in here}
    client = by_name["Relay.pass_on", "CLIENT"]
    (server,) = [span for span in one if span["kind"] == "SERVER" and span["name"] == "Relay.pass_on"]
    (onward,) = [span for span in one if span["kind"] == "CLIENT"]
    added = next(span for span in two if span["name"] == "Relay.add" and span["parent"] == onward["id"])
    assert (client["parent"], server["parent"], onward["parent"]) == (0, client["id"], server["id"])
    assert {span["trace"] for span in (client, server, onward, added)} == {client["trace"]}
    assert by_name["Relay.fail", "CLIENT"]["status"] == "ERROR"
    assert [span["status"] for span in two if span["name"] == "Relay.fail"] == ["ERROR"]


def test_a_machine_that_does_not_trace_serves_who_does(run_program: RunProgram, write: WriteProgram) -> None:
    write("main.py", TRACED)
    *errors, last = run_program("main.py", "untraced").out.splitlines()
    here, one, two = json.loads(last)
    assert errors == ["InvalidCall", "ValueError"]
    assert len(here) == 3
    assert (one, two) == ([], [])
