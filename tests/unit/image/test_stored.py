"""What a store knows of a layer, without its long list of files and with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bigmachine.image.manifest import File, Kind, Layer
from bigmachine.image.store.stored import Stored, listing_of

PATHS = (
    "site/pkg/__init__.py",
    "site/pkg/data/x.txt",
    "site/single.py",
    "site/hook.pth",
    "site/pkg-1.0.dist-info/entry_points.txt",
    "site/pkg/x-info/entry_points.txt",
    "bin/tool",
    "data/share/x",
)


def stored(kind: Kind, folder: Path) -> Stored:
    layer = Layer("0" * 64, kind, "pkg", files=tuple(File(path, "a" * 64, 3) for path in PATHS))
    listing = folder / "listing.json"
    listing.write_text(listing_of(layer))
    assert listing.read_text().startswith('{"size": 24,')
    return Stored(layer, folder, listing)


def test_folders_of_site_packages_stand_for_what_is_below_them(tmp_path: Path) -> None:
    found = stored("dist", tmp_path)
    assert found.tops == {"pkg", "pkg-1.0.dist-info"}
    assert [file.path for file in found.others] == ["site/single.py", "site/hook.pth", "bin/tool", "data/share/x"]
    assert found.entry_points == ("site/pkg-1.0.dist-info/entry_points.txt",)
    assert [file.path for file in found.files] == list(PATHS)


def test_a_trees_folders_mean_nothing(tmp_path: Path) -> None:
    found = stored("tree", tmp_path)
    assert (found.tops, found.others, found.entry_points, found.recorded) == (frozenset(), (), (), ())
    assert [file.path for file in found.files] == list(PATHS)


def test_a_listing_that_was_cut_off_is_seen(tmp_path: Path) -> None:
    found = stored("dist", tmp_path)
    listing = tmp_path / "listing.json"
    listing.write_text(listing.read_text()[:20])
    with pytest.raises(ValueError, match=r"Unterminated|Expecting|delimiter"):
        Stored(found.layer, tmp_path, listing)
