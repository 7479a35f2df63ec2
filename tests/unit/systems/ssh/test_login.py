from __future__ import annotations

import os
from pathlib import Path

import pytest

from bigmachine.systems.ssh.login import known_hosts


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def test_the_users_known_hosts_count_unless_the_configuration_names_others(home: Path) -> None:
    default, other = home / ".ssh/known_hosts2", home / "other"
    default.touch()
    other.touch()
    assert known_hosts(None, []) == [str(default)]
    assert known_hosts(["~/other", "~/missing"], []) == [str(other)]
    assert known_hosts(["~/other"], [str(default)]) == [str(other), str(default)]


@pytest.mark.parametrize("users", [[], ["/does/not/exist"]])
def test_where_no_file_is_left_no_host_is_known(home: Path, users: list[str]) -> None:
    """`UserKnownHostsFile none` is an empty list: asyncssh would take it to mean that every host is trusted."""
    (home / ".ssh/known_hosts").touch()
    assert known_hosts(users, []) == [os.devnull]
