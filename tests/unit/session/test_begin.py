"""Where a program becomes a driver: the choice of the system, and what a driver is."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

import bigmachine
import bigmachine.session
from bigmachine.agent.spawned import SpawnedAgent
from bigmachine.errors import BigmachineError, ProvisionError


def test_the_public_names_are_these() -> None:
    assert bigmachine.session.__all__ == ["Session", "init", "is_driver", "open_session", "start"]
    assert all(hasattr(bigmachine.session, name) for name in bigmachine.session.__all__)
    assert not hasattr(bigmachine.session, "other")


def test_a_program_is_a_driver_and_init_returns_at_once() -> None:
    assert bigmachine.is_driver() is True
    bigmachine.init()


def test_without_a_system_the_configured_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGMACHINE_SYSTEM", "inprocess")
    with bigmachine.start(name="configured") as session:
        assert session.system is not None
        assert (session.system.name, session.name) == ("inprocess", "configured")


def test_a_name_wins_over_the_configured_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BIGMACHINE_SYSTEM", "nowhere")
    with bigmachine.start("inprocess") as session:
        assert session.system is not None
        assert session.system.name == "inprocess"
    with pytest.raises(ProvisionError, match="no system is named 'nowhere'"):
        bigmachine.start()


@pytest.mark.parametrize("is_on", [True, False])
def test_a_start_leaves_garbage_collection_as_it_was(is_on: bool) -> None:
    """Also one that fails."""
    was_on = gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        with bigmachine.start("inprocess"):
            assert gc.isenabled() is is_on
        with pytest.raises(ProvisionError):
            bigmachine.start("nowhere")
        assert gc.isenabled() is is_on
    finally:
        (gc.enable if was_on else gc.disable)()


def test_what_a_start_imports_is_old_at_once() -> None:
    code = (
        "import gc, sys, bigmachine\n"
        "session = bigmachine.start('inprocess')\n"
        "print(len(gc.get_objects(generation=0)) < 1000, len(gc.get_objects(generation=2)) > 10000)\n"
        "session.shutdown()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "True True\n"


def test_a_start_leaves_frozen_what_somebody_has_frozen() -> None:
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with bigmachine.start("inprocess"):
            assert gc.get_freeze_count() > count / 2  # some of it has gone by itself
    finally:
        gc.unfreeze()


def test_a_local_agent_is_started_before_nearly_everything_is_imported() -> None:
    """The driver's own imports take longer than all it does before, and go on beside the agent's."""
    code = (
        "import subprocess, sys, bigmachine\n"
        "def popen(*_, **__):\n"
        "    print(*sorted({'asyncio', 'ssl', 'inspect', 'bigmachine.errors', 'bigmachine.rpc'} & {*sys.modules}))\n"
        "    raise SystemExit\n"
        "subprocess.Popen = popen\n"
        "bigmachine.start('local')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"


def test_an_agent_that_is_on_its_way_is_ended_if_the_settings_are_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended: list[int] = []
    end = SpawnedAgent.end

    def end_and_note(agent: SpawnedAgent, timeout: float) -> None:
        end(agent, timeout)
        ended.append(agent._process.returncode)

    monkeypatch.setattr(SpawnedAgent, "end", end_and_note)
    (tmp_path / "pyproject.toml").write_text("[tool.bigmachine]\nthreads = 'many'\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BigmachineError, match="threads"):
        bigmachine.start("local")
    assert ended == [0]
