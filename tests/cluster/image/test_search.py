"""Tests of bigmachine.image.search: each module that the driver has can be found by its name on a machine."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bigmachine.image.search import folders_outside, search_path


def loaded(name: str, file: str | None) -> tuple[str, ModuleType]:
    module = ModuleType(name)
    module.__file__ = file
    return name, module


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("plain", "/far/plain.py"),
        ("package", "/far/package/__init__.py"),
        ("package.deep.module", "/far/package/deep/module.py"),
        ("package.deep", "/far/package/deep/__init__.py"),
    ],
)
def test_a_module_from_elsewhere_brings_the_folder_that_its_name_starts_from(name: str, file: str) -> None:
    assert folders_outside(["/near"], [loaded(name, file)]) == ["/far"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("plain", "/near/plain.py"),
        ("builtin", None),
        ("other_name", "/far/plain.py"),
        ("in", "/far/plain.py"),
        ("relative", "relative.py"),
        ("extension", "/far/extension.so"),
        ("__main__", "/far/__main__.py"),
        ("__mp_main__", "/far/__mp_main__.py"),
    ],
)
def test_what_is_found_already_or_never_would_be_brings_nothing(name: str, file: str | None) -> None:
    assert folders_outside(["/near"], [loaded(name, file)]) == []


def test_an_entry_that_stands_for_no_module_brings_nothing() -> None:
    assert folders_outside([], [("blocked", None)]) == []


def test_a_folder_is_named_once() -> None:
    assert folders_outside([], [loaded("a", "/far/a.py"), loaded("b", "/far/b.py")]) == ["/far"]


def test_the_path_of_this_process_comes_first_and_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "lib", *sys.path])
    assert search_path()[:2] == [str(tmp_path), str(tmp_path / "lib")]
    assert all(map(os.path.isabs, search_path()))


def test_a_module_can_be_found_after_sys_path_was_put_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "module_of_a_plugin.py").touch()
    with monkeypatch.context() as context:
        context.syspath_prepend(tmp_path)
        importlib.import_module("module_of_a_plugin")
    try:
        assert str(tmp_path) not in sys.path
        assert str(tmp_path) in search_path()
    finally:
        del sys.modules["module_of_a_plugin"]
