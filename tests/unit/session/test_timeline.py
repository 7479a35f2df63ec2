"""Phases of machines as spans."""

from bigmachine.session.timeline import DOWN, REST, UP, Timeline, as_text, progress


def test_a_phase_ends_where_the_next_begins() -> None:
    timeline = Timeline()
    timeline.enter("m1", "reaching the agent", 10.0)
    timeline.enter("m1", "shipping", 10.5)
    timeline.sent("m1", 4096)
    timeline.enter("m2", "reaching the agent", 10.7)
    timeline.enter("m1", UP, 12.0)
    spans = {(span.machine, span.phase): span for span in timeline.spans()}
    assert spans["m1", "reaching the agent"].seconds == 0.5
    assert (spans["m1", "shipping"].seconds, spans["m1", "shipping"].sent) == (1.5, 4096)
    assert spans["m2", "reaching the agent"].seconds is None
    assert spans["m1", UP].seconds == 0
    text = as_text(timeline.spans())
    assert "4,096" in text
    assert text.index("shipping") > text.index("reaching")


def test_what_comes_twice_or_too_late_changes_nothing() -> None:
    timeline = Timeline()
    timeline.sent("m1", 5)
    timeline.enter("m1", "shipping", 1.0)
    timeline.enter("m1", DOWN, 2.0)
    timeline.enter("m1", "shipping", 3.0)
    timeline.sent("m1", 7)
    assert [(span.phase, span.ended, span.sent) for span in timeline.spans()] == [("shipping", 2.0, 0), (DOWN, 2.0, 0)]
    assert as_text([]) == "no machine was started"


def test_it_is_bounded() -> None:
    timeline = Timeline(most=10)
    for at in range(100):
        timeline.enter(f"m{at}", "shipping", float(at))
    assert len(timeline.spans()) == 10


def test_news_of_a_phase_that_comes_late_opens_nothing() -> None:
    timeline = Timeline()
    timeline.enter("m1", UP, 1.0)
    timeline.enter("m1", "importing", 2.0)
    assert all(span.ended is not None for span in timeline.spans())


def test_phases_are_counted_also_when_their_spans_are_forgotten() -> None:
    timeline = Timeline(most=4)
    for number in range(10):
        timeline.enter(f"m{number}", "launching", 1.0)
        timeline.enter(f"m{number}", "launching", 1.5)
        timeline.enter(f"m{number}", UP, 2.0)
    assert timeline.entered() == {"launching": 10, "running": 10}


def test_what_streams_in_after_the_start_has_a_span_beside_the_phases() -> None:
    timeline = Timeline()
    timeline.enter("m1", "shipping", 1.0)
    timeline.sent("m1", 100)
    assert timeline.rest("m1", 0, 2.0, is_over=False)
    timeline.enter("m1", "executing", 2.5)
    assert timeline.rest("m1", 7000, 3.0, is_over=False)
    timeline.enter("m1", UP, 4.0)
    assert timeline.rest("m1", 8000, 5.0, is_over=False)
    assert not timeline.rest("m1", 9000, 6.0, is_over=True)
    assert not timeline.rest("m1", 1, 7.0, is_over=False)  # it came late
    spans = {span.phase: (span.began, span.ended, span.sent) for span in timeline.spans()}
    assert spans == {
        "shipping": (1.0, 2.5, 100),
        REST: (2.0, 6.0, 9000),
        "executing": (2.5, 4.0, 0),
        UP: (4.0, 4.0, 0),
    }


def test_the_rest_ends_with_the_machine() -> None:
    timeline = Timeline()
    timeline.rest("m1", 5, 1.0, is_over=False)
    timeline.enter("m1", DOWN, 2.0)
    assert not timeline.rest("m1", 9, 3.0, is_over=False)
    assert [(span.phase, span.ended, span.sent) for span in timeline.spans()] == [(REST, 2.0, 5), (DOWN, 2.0, 0)]


def test_what_comes_for_a_machine_that_has_ended_opens_nothing() -> None:
    timeline = Timeline()
    timeline.enter("m1", DOWN, 2.0)
    assert not timeline.rest("m1", 9, 3.0, is_over=False)
    assert [span.phase for span in timeline.spans()] == [DOWN]


def test_what_is_sent_is_told_once_it_is_worth_it() -> None:
    assert progress("shipping", 49_999) == "shipping"
    assert progress("shipping", 50_000) == "shipping 0.1 MB"
    assert progress(REST, 12_340_000) == "shipping the rest 12.3 MB"
