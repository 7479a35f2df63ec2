"""What decides on which system a program runs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bigmachine import config
from bigmachine.config import ConfigError, Kind, Settings, Source, load, resolve
from bigmachine.errors import BigmachineError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment that says nothing."""
    for variable in list(os.environ):
        if variable.startswith("BIGMACHINE_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestResolve:
    def test_nothing_said_means_local_machines(self) -> None:
        assert resolve([]) == Settings("local", {}, "the default")

    def test_the_first_source_to_speak_of_a_thing_wins(self) -> None:
        settings = resolve([Source("a", {"system": "ec2"}), Source("b", {"system": "ssh", "ec2type": "c5.large"})])
        assert (settings.system, settings.options["type"]) == ("ec2", "c5.large")

    def test_the_system_remembers_who_chose_it(self) -> None:
        assert resolve([Source("a", {}), Source("b", {"system": "ssh"})]).chosen_by == "b"

    def test_a_system_gets_its_own_options_only(self) -> None:
        said = Source("a", {"system": "ssh", "hosts": ["x"], "ec2type": "c5.large"})
        assert resolve([said]).options == {"hosts": ["x"]}

    def test_ec2_has_the_defaults_of_the_go_original(self) -> None:
        assert resolve([Source("a", {"system": "ec2"})]).options == {"type": "m3.medium", "ondemand": False}

    def test_false_is_something_said(self) -> None:
        said = [Source("a", {"system": "ec2", "ec2ondemand": False}), Source("b", {"ec2ondemand": True})]
        assert resolve(said).options["ondemand"] is False

    def test_a_relative_path_is_relative_to_the_folder_of_its_file(self) -> None:
        paths = {"x": "/etc/app/x", "/abs": "/abs", "~/x": "~/x"}
        for path, expected in paths.items():
            said = Source("a", {"system": "ssh", "ssh-config": path}, folder="/etc/app")
            assert resolve([said]).options == {"config": expected}

    @pytest.mark.parametrize(
        ("key", "value", "allowed"),
        [
            ("system", 7, "a string"),
            ("system", "", "a string"),
            ("ec2type", ["c5.large"], "a string"),
            ("ec2ondemand", "yes", "true or false"),
            ("ec2ondemand", 1, "true or false"),
            ("hosts", "a,b", "a list of strings"),
            ("hosts", ["a", 1], "a list of strings"),
            ("hosts", ["a", ""], "a list of strings"),
            ("ssh-config", True, "the path of a file"),
        ],
    )
    def test_a_value_of_the_wrong_type_is_refused_even_if_it_does_not_count(
        self, key: str, value: object, allowed: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            resolve([Source("flag", {"system": "local"}), Source("/x/pyproject.toml", {key: value})])
        assert all(part in str(caught.value) for part in ("/x/pyproject.toml", key, repr(value), allowed))

    def test_an_unknown_key_is_refused_with_what_was_meant_and_what_is_allowed(self) -> None:
        with pytest.raises(ConfigError) as caught:
            resolve([Source("/x/pyproject.toml", {"ec2typ": "c5.large"})])
        assert all(part in str(caught.value) for part in ("/x/pyproject.toml", "'ec2typ'", "'ec2type'", "ssh-config"))

    def test_the_table_of_a_plug_in_reaches_its_factory_as_it_stands(self) -> None:
        table = {"zone": "b", "nodes": 3, "labels": {"a": [1]}}
        assert resolve([Source("a", {"system": "mycloud", "mycloud": table})]).options == table

    def test_the_table_of_an_installed_plug_in_may_stand_by(self) -> None:
        said = Source("a", {"system": "ec2", "mycloud": {"zone": "b"}})
        assert "zone" not in resolve([said], systems=["mycloud"]).options

    def test_a_table_that_no_plug_in_reads_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no setting 'ec3'"):
            resolve([Source("a", {"system": "ec2", "ec3": {"type": "c5.large"}})], systems=["mycloud", "ec2"])

    def test_a_system_of_ours_has_a_table_of_its_own_too(self) -> None:
        table = {"type": "c5.large", "ondemand": True, "tags": {"team": "x"}, "files": [{"path": "/x"}]}
        assert resolve([Source("a", {"system": "ec2", "ec2": table})]).options == table
        said = [Source("a", {"system": "ssh", "ssh": {"hosts": ["x"], "config": "c"}, "ec2": table}, folder="/f")]
        assert resolve(said).options == {"hosts": ["x"], "config": "/f/c"}

    def test_what_a_table_says_counts_like_the_key_of_the_same_option(self) -> None:
        sources = [
            Source("flag", {"ec2type": "m5.large"}),
            Source("file", {"system": "ec2", "ec2": {"type": "c5.large"}}),
        ]
        assert resolve(sources).options["type"] == "m5.large"
        assert resolve(sources[::-1]).options["type"] == "c5.large"

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"ec2": {"typ": "c5.large"}}, r"no setting 'ec2.typ' \(did you mean 'ec2.type'\?\).*ec2.units"),
            ({"ec2": {"ondemand": "yes"}}, "ec2.ondemand = 'yes' is not allowed: it must be true or false"),
            ({"ec2": {"type": "a"}, "ec2type": "a"}, "ec2type and ec2.type are the same"),
            ({"ec2": "m5.large"}, "no setting 'ec2'"),
        ],
    )
    def test_a_table_of_ours_is_checked(self, values: dict[str, object], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            resolve([Source("a", {"system": "local", **values})])

    def test_its_error_is_caught_as_ours_and_as_a_value_error(self) -> None:
        assert issubclass(ConfigError, BigmachineError)
        assert issubclass(ConfigError, ValueError)


class TestOutput:
    @pytest.mark.parametrize(
        ("text", "choice"),
        [
            ("stream", ("stream", "", False)),
            ("stream,drop", ("stream", "", True)),
            ("off", ("off", "", False)),
            ("files:logs", ("files", "logs", False)),
            ("files:a,b:c,drop", ("files", "a,b:c", True)),
        ],
    )
    def test_where_it_goes_and_whether_lines_are_dropped(self, text: str, choice: tuple[str, str, bool]) -> None:
        assert config.output_choice(text) == choice
        assert resolve([Source("a", {"output": text})]).output == text

    @pytest.mark.parametrize("text", ["", "files", "files:", "Stream", "stream:x", "drop", ",drop", "off,drop,drop", 7])
    def test_anything_else_is_refused(self, text: object) -> None:
        with pytest.raises(ConfigError, match=r"a: output = .* is not allowed: it must be stream, off or files:FOLDER"):
            resolve([Source("a", {"output": text})])

    def test_folders_and_files_are_relative_to_the_file_that_names_them(self, folder: Path) -> None:
        (folder / "pyproject.toml").write_text('[tool.bigmachine]\noutput = "files:logs,drop"\nevents = "e.jsonl"\n')
        assert load().output == f"files:{folder}/logs,drop"
        assert load().events == f"{folder}/e.jsonl"
        flags = {"output": "files:logs", "events": "e.jsonl"}
        assert (load(flags=flags).output, load(flags=flags).events) == ("files:logs", "e.jsonl")


class TestText:
    @pytest.mark.parametrize("text", ["1", "true", "True", "YES", " on "])
    def test_true(self, text: str) -> None:
        assert config.from_text(Kind.SWITCH, text) is True

    @pytest.mark.parametrize("text", ["0", "false", "No", "off"])
    def test_false(self, text: str) -> None:
        assert config.from_text(Kind.SWITCH, text) is False

    @pytest.mark.parametrize("text", ["", "2", "maybe"])
    def test_neither(self, text: str) -> None:
        with pytest.raises(ValueError, match="neither true nor false"):
            config.from_text(Kind.SWITCH, text)

    def test_a_list_is_separated_by_commas_and_blanks_do_not_count(self) -> None:
        assert config.from_text(Kind.LIST, "a, b:22 ,,c") == ["a", "b:22", "c"]


class TestLoad:
    def test_argument_before_flag_before_environment_before_file(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every subset of the four places is tried: the first of those that speak must win."""
        for speaking in itertools.product([False, True], repeat=4):
            argument, flag, environment, file = speaking
            monkeypatch.delenv("BIGMACHINE_SYSTEM", raising=False)
            if environment:
                monkeypatch.setenv("BIGMACHINE_SYSTEM", "environment")
            (folder / "bigmachine.toml").write_text('system = "file"\n' if file else "")
            found = load("argument" if argument else None, {"system": "flag" if flag else None}).system
            order = zip(("argument", "flag", "environment", "file", "local"), (*speaking, True), strict=True)
            assert found == next(name for name, speaks in order if speaks)

    def test_every_option_can_be_set_by_its_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BIGMACHINE_SYSTEM", "ec2")
        monkeypatch.setenv("BIGMACHINE_EC2TYPE", "c5.18xlarge")
        monkeypatch.setenv("BIGMACHINE_EC2ONDEMAND", "1")
        assert load() == Settings(
            "ec2", {"type": "c5.18xlarge", "ondemand": True}, "environment variable BIGMACHINE_SYSTEM"
        )
        monkeypatch.setenv("BIGMACHINE_SYSTEM", "ssh")
        monkeypatch.setenv("BIGMACHINE_HOSTS", "a,b")
        monkeypatch.setenv("BIGMACHINE_SSH_CONFIG", "my.conf")
        assert load().options == {"hosts": ["a", "b"], "config": "my.conf"}

    def test_an_empty_variable_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BIGMACHINE_SYSTEM", "")
        assert load().system == "local"

    def test_a_bad_variable_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BIGMACHINE_EC2ONDEMAND", "perhaps")
        with pytest.raises(ConfigError, match="BIGMACHINE_EC2ONDEMAND: 'perhaps' is neither true nor false"):
            load()

    def test_variables_that_are_no_settings_are_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BIGMACHINE_MODE", "driver")
        assert load().system == "local"

    def test_a_file_is_found_from_below(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "pyproject.toml").write_text('[tool.bigmachine]\nsystem = "ssh"\nssh-config = "my.conf"\n')
        (folder / "a/b").mkdir(parents=True)
        monkeypatch.chdir(folder / "a/b")
        assert load() == Settings("ssh", {"config": f"{folder}/my.conf"}, f"{folder}/pyproject.toml [tool.bigmachine]")

    def test_the_nearest_file_that_speaks_of_bigmachine_counts_alone(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "bigmachine.toml").write_text('system = "far"\n')
        (folder / "a/b").mkdir(parents=True)
        (folder / "a/pyproject.toml").write_text("[tool.bigmachine]\nec2ondemand = true\n")
        (folder / "a/b/pyproject.toml").write_text("[project]\nname = 'uses-bigmachine'\n")
        monkeypatch.chdir(folder / "a/b")
        assert load().system == "local"
        assert load("ec2").options["ondemand"] is True

    def test_in_one_folder_the_file_of_its_own_goes_first(self, folder: Path) -> None:
        (folder / "bigmachine.toml").write_text('system = "own"\n')
        (folder / "pyproject.toml").write_text('[tool.bigmachine]\nsystem = "shared"\n')
        assert load().system == "own"

    def test_a_broken_file_that_does_not_speak_of_us_is_not_our_business(self, folder: Path) -> None:
        (folder / "pyproject.toml").write_text("[project\n")
        assert load().system == "local"

    def test_a_folder_of_that_name_is_no_file(self, folder: Path) -> None:
        (folder / "bigmachine.toml").mkdir()
        assert load().system == "local"

    @pytest.mark.parametrize("data", [b"system = \n", b"system = '\xff'\n"])
    def test_a_malformed_file_is_named(self, folder: Path, data: bytes) -> None:
        (folder / "bigmachine.toml").write_bytes(data)
        with pytest.raises(ConfigError, match=f"{folder}/bigmachine.toml is not valid TOML"):
            load()

    def test_what_is_no_table_is_named(self, folder: Path) -> None:
        (folder / "pyproject.toml").write_text("[tool]\nbigmachine = 1\n")
        with pytest.raises(ConfigError, match=f"{folder}/pyproject.toml.*must be a table"):
            load()

    def test_an_unknown_key_in_a_file_is_named_with_its_file(self, folder: Path) -> None:
        (folder / "pyproject.toml").write_text("[tool.bigmachine]\nsytem = 'ec2'\n")
        with pytest.raises(ConfigError, match=r"pyproject.toml \[tool.bigmachine\]: there is no setting 'sytem'"):
            load()

    def test_an_unreadable_file_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # A loop of links instead of a mode, which would not keep root out; isfile must not hide it.
        (folder / "bigmachine.toml").symlink_to("bigmachine.toml")
        monkeypatch.setattr(os.path, "isfile", lambda path: str(path).endswith("bigmachine.toml"))
        with pytest.raises(ConfigError, match=r"bigmachine\.toml cannot be read"):
            load()

    def test_a_file_of_another_user_in_a_public_folder_is_refused(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "bigmachine.toml").write_text('system = "ssh"\nhosts = ["evil"]\n')
        if os.getuid() == 0:
            os.chown(folder / "bigmachine.toml", 4712, -1)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        assert load().system == "ssh"
        folder.chmod(0o1777)
        with pytest.raises(ConfigError, match=r"belongs to another user"):
            load()

    def test_a_working_directory_that_is_gone_has_no_file(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gone = folder / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        assert load().system == "local"


def test_importing_it_loads_neither_argparse_nor_tomllib() -> None:
    program = "import sys, bigmachine.config; sys.exit(len({'argparse', 'tomllib', 'pathlib'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-S", "-c", program], env={"PYTHONPATH": _source()}, check=False).returncode
        == 0
    )


def _source() -> str:
    return str(Path(config.__file__).parents[1])


class TestWhatIsParsed:
    """Parsing takes longer than all else about settings, and most files have none of ours."""

    @pytest.mark.parametrize(
        "text",
        [
            "[tool.bigmachine]\nsystem = 'ssh'",
            "[ tool . bigmachine ]\nsystem = 'ssh'",
            "[tool.'bigmachine']\nsystem = 'ssh'",
            '["tool"."bigmachine"]\nsystem = "ssh"',
            "[tool]\nbigmachine = {system = 'ssh'}",
            "[tool]\nbigmachine.system = 'ssh'",
            "tool.bigmachine.system = 'ssh'",
            "tool = {bigmachine = {system = 'ssh'}}",
            "tool\t=\t{ other = 1, bigmachine.system = 'ssh' }",
        ],
    )
    def test_however_toml_spells_our_table_it_is_found(self, folder: Path, text: str) -> None:
        (folder / "pyproject.toml").write_text(text)
        assert load().system == "ssh"

    def test_a_file_that_only_names_us_is_not_parsed(self, folder: Path) -> None:
        (folder / "pyproject.toml").write_text("[project]\ndependencies = ['bigmachine']\n[tool.ruff]\n= nonsense")
        assert load().system == "local"


def test_a_variable_that_is_nearly_an_options_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BIGMACHINE_EC2BUGDET", "5")
    monkeypatch.setenv("BIGMACHINE_BREAKPOINT_WAIT", "60")
    config.load()
    assert caplog.messages == [
        "the environment variable BIGMACHINE_EC2BUGDET means nothing: is BIGMACHINE_EC2BUDGET meant?"
    ]
