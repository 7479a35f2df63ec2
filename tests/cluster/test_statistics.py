"""What calls cost is counted on either side, by method."""

from __future__ import annotations

import pytest

import bigmachine
from bigmachine import Session


class Counted:
    """Calls of a known number and size."""

    def echo(self, data: bytes) -> bytes:
        return data

    def fail(self) -> None:
        raise ValueError("as it should")


@pytest.mark.parametrize("system", ["local", "inprocess"])
def test_both_sides_count_the_same_calls(system: str) -> None:
    with bigmachine.start(system) as session:
        (machine,) = session.start(services=[Counted()])
        _call(session, 50)
        here = machine.call_statistics()
        there = machine.call("Supervisor.expvars")["calls"]
    for side in (here, there):
        assert (side["Counted.echo"].calls, side["Counted.echo"].errors) == (50, 0)
        assert (side["Counted.fail"].calls, side["Counted.fail"].errors) == (3, 3)
        assert sum(side["Counted.echo"].histogram) == 50
        assert side["Counted.echo"].longest <= side["Counted.echo"].total
        # A thousand bytes each way, and what a frame has beside them.
        assert 50 * 1000 <= side["Counted.echo"].bytes_in <= 50 * 1200
        assert 50 * 1000 <= side["Counted.echo"].bytes_out <= 50 * 1200
    assert here["Counted.echo"].total >= there["Counted.echo"].total


def _call(session: Session, number: int) -> None:
    (machine,) = session.machines()
    for _ in range(number):
        machine.call(Counted.echo, b"x" * 1000)
    for _ in range(3):
        with pytest.raises(ValueError, match="as it should"):
            machine.call(Counted.fail)
