"""What a machine is made from travels whole, and says when it cannot be a fork."""

from __future__ import annotations

import base64
import pickle
from dataclasses import replace

import pytest

from bigmachine.agent import Bootstrap, Clocks, LaunchSpec
from bigmachine.agent.launch import reason_to_spawn
from bigmachine.image import Entry
from bigmachine.trust import Identity, Role

IDENTITY = Identity("0123abcd", Role.MACHINE, "h1-m1", b"certificate", b"secret key", b"authority")
SPEC = LaunchSpec(
    machine_id="h1-m1",
    name="m1",
    identity=IDENTITY,
    argv=["app.py", "-n", "3"],
    environ={"PATH": "/bin", "SECRET": "hush"},
    cwd="/",
    entry=Entry("script", path="/app.py"),
    sys_path=["/lib"],
)


def test_a_spec_survives_the_control_socket() -> None:
    assert LaunchSpec.from_text(SPEC.to_text()) == SPEC


@pytest.mark.parametrize("text", ["", "!!!", "AAAA", base64.b64encode(pickle.dumps("x")).decode()])
def test_what_is_no_spec_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="LaunchSpec"):
        LaunchSpec.from_text(text)


def test_neither_key_nor_environment_are_in_the_repr() -> None:
    assert "secret key" not in repr(SPEC)
    assert "hush" not in repr(SPEC)


def test_the_same_environment_can_be_forked() -> None:
    assert reason_to_spawn(SPEC, ["python"], SPEC.environ) is None


def test_variables_that_are_read_at_any_time_do_not_matter() -> None:
    assert reason_to_spawn(SPEC, ["python"], {"PATH": "/usr/bin", "EDITOR": "vi"}) is None


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "LD_PRELOAD", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS"])
def test_variables_that_are_read_at_start_need_a_process_of_its_own(name: str) -> None:
    assert name in str(reason_to_spawn(replace(SPEC, environ={**SPEC.environ, name: "1"}), ["python"], SPEC.environ))
    assert name in str(reason_to_spawn(SPEC, ["python"], {**SPEC.environ, name: "1"}))


def test_another_interpreter_needs_a_process_of_its_own() -> None:
    assert reason_to_spawn(replace(SPEC, interpreter=["python"]), ["python"], SPEC.environ) is None
    assert "python -O" in str(reason_to_spawn(replace(SPEC, interpreter=["python", "-O"]), ["python"], SPEC.environ))


def test_a_bootstrap_survives_the_pipe_and_takes_no_byte_of_what_follows() -> None:
    import os

    orders = Bootstrap(IDENTITY, Clocks(1, 2, 3), ("127.0.0.1", 0), ["python", "-X", "dev"], ["/lib"], False, 17)
    read, write = os.pipe()
    os.write(write, orders.to_json() + b"tether")
    assert Bootstrap.read(read) == orders
    assert os.read(read, 100) == b"tether"
    os.close(write)
    assert Bootstrap.read(read) is None
    os.close(read)


def test_something_else_on_standard_input_is_refused() -> None:
    import os

    read, write = os.pipe()
    os.write(write, b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ValueError, match="standard input"):
        Bootstrap.read(read)
    os.close(write)
    os.close(read)
