"""A host takes in nothing but what the image's names say; the error says the stage and the host, and nothing runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.labs.ssh.lab import Lab


@pytest.fixture
def evil(lab: Lab) -> Path:
    """The program that sends it, in a folder with something that the host has not."""
    folder = lab.home / f"evil-{os.urandom(3).hex()}"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("")
    (folder / "new.bin").write_bytes(os.urandom(100_000))
    (folder / "evil.py").write_text((lab.programs / "evil.py").read_text())
    return folder / "evil.py"


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("damaged", "transfer: a frame of .* was damaged on its way"),
        ("other", "unpack: .* is not what its listing says"),
        ("bomb", "unpack: a pack cannot be read: it unpacks to .* bytes"),
        ("up", "listing: the path 'site/../../evil' does not lie inside its layer"),
        ("absolute", "listing: the path '/tmp/evil' does not lie inside its layer"),
        ("link", "listing: the link 'site/evil' leads out of its layer"),
    ],
)
def test_what_is_not_the_program_is_refused_by_the_host(lab: Lab, evil: Path, word: str, why: str) -> None:
    images = "ls -d ~/.cache/bigmachine/v1/images/*/ /tmp/evil ~/.cache/bigmachine/evil 2>/dev/null; true"
    before = lab.on(1, images, user="lab")
    outcome = lab.run(evil, word, hosts="lab@{1}")
    assert "FAILED" in outcome.out, outcome.out + outcome.err
    assert re.search(why, outcome.out), outcome.out + outcome.err
    assert lab.name(1) in outcome.out or lab.address(1) in outcome.out
    assert lab.on(1, images, user="lab") == before
