"""The contract: clocks that make sense, one session a System, hooks that may be left out."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Iterator, Sequence

import pytest

from bigmachine import Keepalive, Launched, System
from bigmachine.errors import InvalidCall, ProvisionError
from bigmachine.system import Ticket, agent_id_of, lines


@dataclasses.dataclass
class Named:
    """What has a machine's id."""

    machine_id: str


class Smallest(System):
    """As little as a System can be."""

    name = "smallest"

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        raise ProvisionError("nothing to give")

    def shutdown(self, timeout: float) -> None: ...


def test_the_default_clocks_are_those_of_the_table() -> None:
    assert dataclasses.asdict(Keepalive()) == {
        "interval": 5.0,
        "timeout": 30.0,
        "lease": 60.0,
        "hang": 10.0,
        "first_contact": 120.0,
        "max_life": None,
    }


@pytest.mark.parametrize("clock", ["interval", "timeout", "lease", "hang", "first_contact", "max_life"])
@pytest.mark.parametrize("value", [0, -1.0, math.nan])
def test_a_clock_has_to_be_above_zero(clock: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"Keepalive\({clock}=.*above 0"):
        Keepalive(**{clock: value})


@pytest.mark.parametrize(("interval", "lease"), [(10, 10), (11, 10)])
def test_a_lease_outlasts_the_interval_in_which_it_is_renewed(interval: float, lease: float) -> None:
    with pytest.raises(ValueError, match="a lease has to outlast the interval"):
        Keepalive(interval=interval, lease=lease)


def test_clocks_are_values() -> None:
    clocks = Keepalive(lease=7.5)
    assert pickle.loads(pickle.dumps(clocks)) == clocks
    with pytest.raises(dataclasses.FrozenInstanceError):
        clocks.lease = 8.0  # type: ignore[misc]  # on purpose


def test_a_system_needs_no_more_than_launch_and_shutdown() -> None:
    system = Smallest()
    assert system.cost() is None
    machine = Named("h1-m1")
    for ask in (lambda: system.read(machine, "/x"), lambda: system.tail(machine)):
        with pytest.raises(InvalidCall, match="the system 'smallest'"):
            ask()
    system.prepare()
    system.release(Launched("a1"))
    assert system.keepalive == Keepalive()


def test_what_lacks_these_is_no_system() -> None:
    class NoShutdown(System):
        def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
            return []

    with pytest.raises(TypeError, match="shutdown"):
        NoShutdown()  # type: ignore[abstract]  # on purpose


def test_a_system_is_claimed_by_one_session() -> None:
    system, other = Smallest(), Smallest()
    system.claim()
    other.claim()
    with pytest.raises(ProvisionError, match="'smallest' system has a session already"):
        system.claim()


def test_a_place_does_not_show_how_it_is_reached() -> None:
    assert "dialer" not in repr(Launched("a1", "10.0.0.1", 80, "host", 4))


def test_a_log_that_comes_in_pieces_is_cut_into_lines() -> None:
    assert list(lines([b"a\nb", b"c\n", b"\xff\n\nlast"])) == ["a", "bc", "\ufffd", "", "last"]
    closed = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"a\nb\n"
        finally:
            closed.append(True)

    cut = lines(pieces())
    assert next(iter(cut)) == "a"
    cut.close()  # type: ignore[attr-defined]  # a generator
    assert closed


def test_a_machine_tells_its_agent() -> None:
    assert agent_id_of(Named("h0a1b2c-m17")) == "h0a1b2c"
