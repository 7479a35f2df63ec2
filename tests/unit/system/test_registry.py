"""Systems by name: the library's own, a program's, and those of plug-ins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import bigmachine
from bigmachine import Launched, System, register_system
from bigmachine.errors import ProvisionError
from bigmachine.system import Ticket, create, names, registry
from bigmachine.systems.inprocess import InprocessSystem
from bigmachine.systems.local import LocalSystem


class Nowhere(System):
    """Takes an option."""

    name = "nowhere"

    def __init__(self, place: str = "here") -> None:
        self.place = place

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        raise ProvisionError(f"there is nothing {self.place}")

    def shutdown(self, timeout: float) -> None: ...


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Forget what a test registers."""
    before = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(before)


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The plug-ins that are installed, by name; to be changed."""
    installed: dict[str, str] = {"plugged": f"{__name__}:Nowhere"}

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        assert group == "bigmachine.systems"
        return [metadata.EntryPoint(name, value, group) for name, value in installed.items()]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    return installed


@pytest.mark.parametrize(("name", "cls"), [("local", LocalSystem), ("inprocess", InprocessSystem)])
def test_the_librarys_own_systems_are_there(name: str, cls: type[System]) -> None:
    system = create(name)
    assert type(system) is cls
    assert system.name == name


def test_options_are_arguments_of_the_factory() -> None:
    register_system("there", Nowhere)
    system = create("there", {"place": "elsewhere"})
    assert isinstance(system, Nowhere)
    assert system.place == "elsewhere"


def test_an_option_that_the_factory_does_not_take_is_named() -> None:
    with pytest.raises(ProvisionError, match=r"'inprocess' does not take these options: .*colour"):
        create("inprocess", {"colour": "blue"})


def test_a_registered_system_is_started_by_its_name() -> None:
    made: list[InprocessSystem] = []

    def factory() -> System:
        made.append(InprocessSystem())
        return made[-1]

    register_system("mine", factory)
    with bigmachine.start("mine") as session:
        assert session.system is made[0]
    assert "mine" in names()


@pytest.mark.parametrize("name", ["local", "inprocess", "twice"])
def test_a_name_is_taken_once(name: str) -> None:
    register_system("twice", Nowhere)
    with pytest.raises(ValueError, match=f"a system named '{name}' exists already"):
        register_system(name, Nowhere)


def test_a_factory_has_to_be_callable_and_a_name_to_be_one() -> None:
    with pytest.raises(TypeError, match="has to be callable"):
        register_system("odd", Nowhere())  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="needs a name"):
        register_system("", Nowhere)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("locla", "did you mean 'local'"),
        ("in-process", "did you mean 'inprocess'"),
        ("plugde", "did you mean 'plugged'"),
        ("mine", "did you mean 'mines'"),
        ("zzz", "there are ec2, inprocess, local, mines, plugged, ssh"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_or_with_all(
    name: str, hint: str, plug_ins: dict[str, str]
) -> None:
    register_system("mines", Nowhere)
    with pytest.raises(ProvisionError, match=f"no system is named '{name}'; {hint}"):
        create(name)


@pytest.mark.parametrize("name", ["kubernetes", "slurm"])
def test_a_system_that_is_still_to_come_says_so(name: str) -> None:
    with pytest.raises(ProvisionError, match=f"'{name}' is not built yet; this version has"):
        create(name)


def test_a_plug_in_is_found_by_its_entry_point(plug_ins: dict[str, str]) -> None:
    assert "plugged" in names()
    assert isinstance(create("plugged", {"place": "x"}), System)


def test_a_program_wins_over_a_plug_in_and_the_library_over_both(plug_ins: dict[str, str]) -> None:
    plug_ins["local"] = f"{__name__}:Nowhere"
    register_system("plugged", InprocessSystem)
    assert isinstance(create("plugged"), InprocessSystem)
    assert isinstance(create("local"), LocalSystem)


@pytest.mark.parametrize("value", ["no_such_module:System", f"{__name__}:NoSuchClass"])
def test_a_plug_in_that_cannot_be_loaded_is_named(plug_ins: dict[str, str], value: str) -> None:
    plug_ins["broken"] = value
    with pytest.raises(ProvisionError, match=f"the plug-in of system 'broken' .{value}. cannot be loaded"):
        create("broken")


@pytest.mark.parametrize("made", [None, 3, Nowhere])
def test_what_makes_no_system_is_named(made: Any) -> None:
    register_system("odd", lambda: made)
    with pytest.raises(ProvisionError, match=r"the factory of system 'odd' made .*, which is no bigmachine\.System"):
        create("odd")


def test_what_a_factory_raises_is_raised() -> None:
    def fail() -> System:
        raise ProvisionError("no credentials: set AWS_PROFILE")

    register_system("odd", fail)
    with pytest.raises(ProvisionError, match="no credentials"):
        create("odd")


def test_an_installed_distribution_brings_its_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with real files: what pip would have written."""
    (tmp_path / "cloudy.py").write_text(
        "from bigmachine.systems.inprocess import InprocessSystem\n"
        "class Cloudy(InprocessSystem):\n"
        "    name = 'cloudy'\n"
    )
    info = tmp_path / "cloudy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cloudy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bigmachine.systems]\ncloudy = cloudy:Cloudy\n")
    monkeypatch.syspath_prepend(tmp_path)
    with bigmachine.start("cloudy") as session:
        assert session.system is not None
        assert session.system.name == "cloudy"
