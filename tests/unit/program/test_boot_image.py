"""A machine runs in the image that it was told of, or not at all."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from bigmachine.agent import LaunchSpec
from bigmachine.errors import ImageError
from bigmachine.image.entry import no_entry
from bigmachine.image.manifest import MARK
from bigmachine.program.boot import check_image
from bigmachine.trust import Authority, Role

IDENTITY = Authority("0123abcd").issue(Role.MACHINE, "h1-m1")
HERE = LaunchSpec("h1-m1", "m1", IDENTITY, [""], {}, "/", no_entry("nothing"), [])
THERE = dataclasses.replace(HERE, root="/somewhere", digest="d" * 64)


def test_where_the_program_was_not_brought_there_is_nothing_to_check() -> None:
    check_image(HERE)


def test_its_own_image_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / MARK).write_text(json.dumps({"digest": "d" * 64, "layers": []}))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    check_image(THERE)


@pytest.mark.parametrize(
    ("mark", "why"),
    [(None, "no image"), ("{", "no image"), ("[]", "no image"), ('{"digest": "e"}', "is the image e, and")],
)
def test_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str | None, why: str) -> None:
    if mark is not None:
        (tmp_path / MARK).write_text(mark)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(ImageError, match=why):
        check_image(THERE)
