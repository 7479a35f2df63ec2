"""`bigmachine doctor`: what it finds, and what it makes of it."""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path

import pytest

from bigmachine.cli import health
from bigmachine.cli.doctor import findings
from bigmachine.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys and credentials."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "SSH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_what_is_needed_is_there_and_everything_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    told = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert {told[name]["state"] for name in ("Python", "OpenSSL", "packages")} == {"ok"}
    assert {"uvloop", "aiofastnet", "ptrace", "cgroups", "/dev/shm", "open files", "cache", "AWS", "SSH"} <= set(told)
    assert {"clock", "leftovers"} <= set(told)
    assert "could not be looked at" not in str(told)


def test_whoever_lacks_something_is_told_what_that_costs_and_what_to_do() -> None:
    for finding in findings():
        if finding.state != "ok":
            assert finding.costs, finding
            assert finding.remedy, finding


def test_what_nothing_works_without_makes_it_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ssl, "HAS_TLSv1_3", False)
    assert main(["doctor"]) == 1
    assert "FAILED OpenSSL" in capsys.readouterr().out


def test_a_check_that_fails_itself_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> health.Finding:
        raise ZeroDivisionError

    monkeypatch.setattr("bigmachine.cli.doctor.CHECKS", (fail, health.python))
    assert [finding.state for finding in findings()] == ["note", "ok"]


def test_keys_and_credentials_are_found_and_not_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.ssh().state == "note"
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id_ed25519").write_text("secret")
    (home / ".ssh" / "id_ed25519.pub").write_text("public")
    assert health.ssh().text == "id_ed25519"
    assert health.aws().state == "note"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
    found = health.aws()
    assert found.state == "ok"
    assert "ecret" not in found.text.replace("credentials", "").lower()


def test_a_cache_that_cannot_be_written_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.cache().state == "ok"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written" in health.cache().text


def test_size_counts_a_file_with_two_names_once(home: Path) -> None:
    (home / "one").write_bytes(bytes(100_000))
    before = health._size(home)
    (home / "two").hardlink_to(home / "one")
    assert health._size(home) == before >= 100_000
