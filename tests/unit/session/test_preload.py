"""What is imported beforehand: what came from files, but neither the main nor what every machine has anyway."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType

import pytest

from bigmachine.agent import Preload
from bigmachine.session.preload import WORTHWHILE, chosen


def module(name: str, file: str, spec_name: str = "") -> ModuleType:
    made = ModuleType(name)
    made.__file__ = file
    made.__spec__ = ModuleSpec(spec_name or name, SourceFileLoader(spec_name or name, file), origin=file)
    return made


def modules(*more: ModuleType, count: int = WORTHWHILE) -> dict[str, object]:
    enough = [module(f"own{number}", f"/app/own{number}.py") for number in range(count)]
    return {each.__name__: each for each in (*enough, *more)}


def names(found: Preload) -> set[str]:
    return {name for name in (*found.installed, *found.project) if not name.startswith("own")}


def test_installed_packages_are_told_from_the_programs_own() -> None:
    found = chosen(modules(module("lib", "/env/lib/python3.11/site-packages/lib.py"), count=WORTHWHILE - 1))
    assert found == Preload(("lib",), tuple(f"own{number}" for number in range(WORTHWHILE - 1)))


def test_few_modules_are_not_worth_it() -> None:
    assert chosen(modules(count=WORTHWHILE - 1)) == Preload()


def test_the_main_is_left_out_under_all_its_names() -> None:
    main = module("__main__", "/app/main.py", "package.main")
    twice = module("main_again", "/app/main.py")
    assert names(chosen(modules(main, twice, module("package.main", "/app/other.py")))) == set()


@pytest.mark.parametrize("name", ["json", "bigmachine.rpc", "cryptography.x509", "pytest", "_pytest.main"])
def test_what_machines_have_or_do_not_need_is_left_out(name: str) -> None:
    assert names(chosen(modules(module(name, f"/app/{name}.py")))) == set()


def test_what_the_importers_would_not_find_is_left_out() -> None:
    renamed = module("alias", "/app/real.py", "real")
    assert names(chosen(modules(renamed, ModuleType("made_by_hand")))) == set()


def test_a_snapshot_of_this_process_can_be_taken() -> None:
    assert "json" not in chosen(dict(sys.modules)).project
