"""A process exits as the interpreter would."""

from __future__ import annotations

import pytest

from bigmachine.errors import InvalidCall
from bigmachine.program import current, is_driver, serve
from bigmachine.program.main import exit_status


@pytest.mark.parametrize(("code", "status"), [(None, 0), (0, 0), (3, 3), (True, 1), (256, 0), (-1, 255)])
def test_sys_exit_means_what_it_means_to_the_interpreter(code: object, status: int) -> None:
    assert exit_status(SystemExit(code)) == status


def test_a_text_is_printed_and_means_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(SystemExit("no input")) == 1
    assert capsys.readouterr().err == "no input\n"


def test_a_process_that_no_agent_started_is_a_driver_and_does_not_serve() -> None:
    assert is_driver()
    assert current() is None
    with pytest.raises(InvalidCall, match=r"bigmachine\.start"):
        serve(lambda machine, server: None)
