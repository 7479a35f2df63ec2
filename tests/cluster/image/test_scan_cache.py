"""What a scan remembers: private, believed only while it is whole and old enough, and never needed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bigmachine.image.scan import cache as scan_cache
from bigmachine.image.scan.cache import ScanCache, cache_directory
from tests.cluster.image.installed import Environment, layer, write


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A cache directory in which something is remembered of a file."""
    write(tmp_path, {"watched": "1"})
    put(tmp_path)
    return tmp_path


def put(folder: Path, what: str = "found") -> None:
    cache = ScanCache(folder / "cache", "root")
    cache._now += 10_000_000_000  # as if this were ten seconds later, when the file is old enough to be relied on
    cache.put("unit", ("key",), [str(folder / "watched")], what)
    cache.save()


def holds(folder: Path) -> object:
    found = ScanCache(folder / "cache", "root").holds("unit", ("key",))
    return None if found is None else found[1]


def test_what_is_unchanged_holds(cached: Path) -> None:
    assert holds(cached) == "found"
    assert ScanCache(cached / "cache", "root").holds("unit", ("other key",)) is None
    assert ScanCache(cached / "cache", "other root").holds("unit", ("key",)) is None


def test_what_was_written_replaced_or_removed_does_not_hold(cached: Path) -> None:
    watched = cached / "watched"
    before = watched.stat()
    watched.write_text("2")
    os.utime(watched, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time: only `ctime` tells
    assert holds(cached) is None
    put(cached)
    assert holds(cached) == "found"
    watched.unlink()
    assert holds(cached) is None


def test_what_is_too_young_is_not_relied_on(tmp_path: Path) -> None:
    write(tmp_path, {"watched": "1"})
    cache = ScanCache(tmp_path / "cache", "root")
    cache.put("unit", ("key",), [str(tmp_path / "watched")], "found")
    cache.save()
    assert holds(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other version"])
def test_a_damaged_cache_is_not_believed_and_made_anew(cached: Path, damage: str) -> None:
    (file,) = (cached / "cache/scan").iterdir()
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[:-3],
            "flipped": content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
            "empty": b"",
            "other version": content.replace(b"bigmachine-scan", b"bigmachine-scam"),
        }[damage]
    )
    assert holds(cached) is None
    put(cached, "again")
    assert holds(cached) == "again"


def test_a_damaged_cache_changes_nothing_of_a_scan(tmp_path: Path) -> None:
    env = Environment(tmp_path)
    env.install("pkg", {"pkg.py": ""})
    write(env.site, {"stray.py": ""})
    before = env.scan().manifest
    for file in (tmp_path / "cache/scan").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert env.scan().manifest == before


def test_a_cache_that_others_can_write_is_not_believed(cached: Path) -> None:
    (file,) = (cached / "cache/scan").iterdir()
    file.chmod(0o666)
    assert holds(cached) is None


def test_the_cache_is_for_the_users_eyes_only(cached: Path) -> None:
    for path in (cached / "cache", cached / "cache/scan"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (file,) = (cached / "cache/scan").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_a_place_to_remember_a_scan_takes_longer_and_nothing_else(tmp_path: Path) -> None:
    env = Environment(tmp_path)
    env.install("pkg", {"pkg.py": ""})
    (tmp_path / "cache").write_text("in the way")
    assert layer(env.scan(), "pkg").files


def test_units_that_nobody_asked_for_are_forgotten(cached: Path) -> None:
    cache = ScanCache(cached / "cache", "root")
    cache.forget_unused()
    cache.save()
    assert holds(cached) is None


def test_what_nobody_used_for_two_months_is_removed(cached: Path) -> None:
    (file,) = (cached / "cache/scan").iterdir()
    write(cached / "cache", {"pyc/old": "", "pyc/new": "", "foreign/old/lib/x": "", "other/old": ""})
    for path in (file, cached / "cache/pyc/old", cached / "cache/foreign/old", cached / "cache/other/old"):
        os.utime(path, (0, 0))
    other = ScanCache(cached / "cache", "other root")
    other.put("unit", (), [], "x")
    other.save()
    assert not file.exists()
    left = {str(path.relative_to(cached / "cache")) for path in (cached / "cache").rglob("*")}
    assert {"pyc/new", "other/old"} <= left
    assert not left & {"pyc/old", "foreign/old"}


def test_a_cache_in_use_is_kept(cached: Path) -> None:
    (file,) = (cached / "cache/scan").iterdir()
    os.utime(file, (0, 0))
    assert holds(cached) == "found"
    assert file.stat().st_mtime > 0


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "bigmachine"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification says to ignore
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_directory() == Path("/home/me/.cache/bigmachine")


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        scan_cache.write_atomically(tmp_path / "x", b"1")
    assert not list(tmp_path.iterdir())
