"""A machine's state only grows, by a rule that is written out here once more."""

from __future__ import annotations

import itertools

import pytest

from bigmachine.machine import Phase, State
from bigmachine.machine.life import IllegalTransition, Life

#: The whole rule: what a state may become. Everything else is illegal, but that after STOPPED nothing happens.
MAY_BECOME = {
    ("UNSTARTED", "STARTING"),
    ("UNSTARTED", "STOPPED"),
    ("STARTING", "RUNNING"),
    ("STARTING", "STOPPED"),
    ("RUNNING", "STOPPED"),
}
WAY_TO = {
    State.UNSTARTED: [],
    State.STARTING: [State.STARTING],
    State.RUNNING: [State.STARTING, State.RUNNING],
    State.STOPPED: [State.STOPPED],
}


def life_in(state: State) -> Life:
    life = Life("m1")
    for step in WAY_TO[state]:
        life.enter(step, 0.0)
    return life


@pytest.mark.parametrize(("old", "new"), list(itertools.product(State, State)))
def test_a_state_becomes_only_what_the_rule_lists(old: State, new: State) -> None:
    life = life_in(old)
    if (old.name, new.name) in MAY_BECOME:
        assert life.enter(new, 1.0) is True
        assert life.state is new
    elif old is State.STOPPED:
        assert life.enter(new, 1.0) is False
        assert life.state is State.STOPPED
    else:
        with pytest.raises(IllegalTransition):
            life.enter(new, 1.0)
        assert life.state is old


def test_states_are_ordered_as_the_contract_says() -> None:
    assert State.UNSTARTED < State.STARTING < State.RUNNING < State.STOPPED


def test_the_first_cause_of_a_stop_is_kept() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    life = life_in(State.RUNNING)
    assert life.enter(State.STOPPED, 1.0, first)
    assert not life.enter(State.STOPPED, 2.0, second)
    assert life.error is first


def test_an_illegal_change_tells_the_machines_story() -> None:
    life = Life("m7")
    life.enter(State.STARTING, 10.0)
    life.reach(Phase.IMPORTING, 10.25)
    life.enter(State.RUNNING, 10.5)
    with pytest.raises(IllegalTransition) as caught:
        life.enter(State.STARTING, 11.0)
    text = str(caught.value)
    assert "m7: RUNNING cannot become STARTING" in text
    assert "STARTING at 0.000 s, importing at 0.250 s, RUNNING at 0.500 s" in text


def test_a_phase_only_grows() -> None:
    life = life_in(State.STARTING)
    assert life.reach(Phase.EXECUTING, 1.0)
    assert not life.reach(Phase.REACHING, 2.0)
    assert not life.reach(Phase.EXECUTING, 3.0)
    assert life.phase is Phase.EXECUTING


@pytest.mark.parametrize("state", [State.UNSTARTED, State.RUNNING, State.STOPPED])
def test_only_a_starting_machine_has_phases(state: State) -> None:
    life = life_in(state)
    assert not life.reach(Phase.IMPORTING, 1.0)
    assert life.phase is Phase.LAUNCHING


def test_the_phases_come_in_this_order() -> None:
    assert [phase.value for phase in Phase] == [
        "launching",
        "reaching the agent",
        "shipping",
        "assembling",
        "executing",
        "importing",
        "initialising services",
    ]


def test_a_life_without_events_says_so() -> None:
    assert Life("m1").tell() == "nothing happened yet"


def test_the_story_is_bounded() -> None:
    life = life_in(State.STARTING)
    for _ in range(100):
        life.story.append((0.0, "something"))
    assert len(life.story) == 32


def test_a_state_is_written_by_its_name() -> None:
    assert f"{State.RUNNING} {State.STOPPED!s} {State.STARTING:>9}" == "RUNNING STOPPED  STARTING"
