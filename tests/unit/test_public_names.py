"""The public interface, by name: what is promised is there, nothing else is, and importing it costs nothing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import bigmachine
from bigmachine import driver, errors

PUBLIC = [
    "AuthenticationError",
    "BigmachineError",
    "Call",
    "CallInfo",
    "DeadlineExceeded",
    "DeathCertificate",
    "Event",
    "Image",
    "ImageError",
    "InvalidCall",
    "Keepalive",
    "Launched",
    "Machine",
    "MachineStopped",
    "NetworkError",
    "OutputLine",
    "ProvisionError",
    "RemoteError",
    "Session",
    "State",
    "Stream",
    "System",
    "current_call",
    "deadline",
    "driver",
    "errors",
    "init",
    "is_driver",
    "register_system",
    "start",
    "vars",
]

ERRORS = {
    "RemoteError": bigmachine.BigmachineError,
    "InvalidCall": bigmachine.BigmachineError,
    "NetworkError": bigmachine.BigmachineError,
    "DeadlineExceeded": TimeoutError,
    "MachineStopped": bigmachine.BigmachineError,
    "ProvisionError": bigmachine.BigmachineError,
    "ImageError": bigmachine.BigmachineError,
    "AuthenticationError": bigmachine.BigmachineError,
}

SESSION = ["dial", "is_driver", "machines", "name", "shutdown", "start", "system"]
MACHINE = [
    *("address", "hostname", "maxprocs", "owned", "state", "wait", "error"),
    *("call", "submit", "retry_call", "service", "cancel", "shutdown"),
    *("mem_info", "disk_info", "load_info", "keepalive_reply_times", "next_keepalive"),
]


def test_the_public_names_are_these() -> None:
    assert bigmachine.__all__ == PUBLIC
    assert dir(bigmachine) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(bigmachine, name) is not None


def test_a_star_import_brings_all_of_them() -> None:
    names: dict[str, object] = {}
    exec("from bigmachine import *", names)
    assert set(PUBLIC) <= set(names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'bigmachine' has no attribute 'begin'"):
        bigmachine.begin  # type: ignore[attr-defined]  # noqa: B018 (looking it up is the test)


@pytest.mark.parametrize(("name", "base"), ERRORS.items())
def test_errors_are_in_their_tree_and_in_both_places(name: str, base: type[BaseException]) -> None:
    assert getattr(errors, name) is getattr(bigmachine, name)
    assert issubclass(getattr(errors, name), (base, bigmachine.BigmachineError))
    assert issubclass(getattr(errors, name), bigmachine.BigmachineError)


def test_states_only_grow() -> None:
    state = bigmachine.State
    assert list(state) == [state.UNSTARTED, state.STARTING, state.RUNNING, state.STOPPED]
    assert sorted(state) == list(state)


def test_sessions_and_machines_have_their_members() -> None:
    with bigmachine.start("inprocess") as session:
        (machine,) = session.start(services={"list": []})
        assert [name for name in SESSION if not hasattr(session, name)] == []
        assert [name for name in MACHINE if not hasattr(machine, name)] == []


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        (bigmachine.start, "(system, *, name, output, events)"),
        (bigmachine.init, "()"),
        (bigmachine.is_driver, "()"),
        (bigmachine.deadline, "(seconds)"),
        (bigmachine.current_call, "()"),
        (bigmachine.register_system, "(name, factory)"),
        (driver.start, "(args, *, name, output, events)"),
        (driver.add_flags, "(parser)"),
        (errors.is_remote, "(exc)"),
        (bigmachine.Session.start, "(self, n, *, services, environ, args, image)"),
        (bigmachine.Session.dial, "(self, address)"),
        (bigmachine.Session.shutdown, "(self, timeout)"),
        (bigmachine.Machine.wait, "(self, state, timeout)"),
        (bigmachine.Machine.call, "(self, method, /, *args, **kwargs)"),
        (bigmachine.Machine.submit, "(self, method, /, *args, **kwargs)"),
        (bigmachine.Machine.retry_call, "(self, method, /, *args, **kwargs)"),
        (bigmachine.Machine.service, "(self, cls, name)"),
        (bigmachine.Machine.shutdown, "(self, timeout)"),
    ],
)
def test_parameters_have_these_names(function: object, signature: str) -> None:
    assert callable(function)
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=p.empty, default=p.empty) for p in parameters]
    assert str(inspect.Signature(bare)) == signature


@pytest.mark.parametrize(
    ("program", "not_loaded"),
    [
        ("import bigmachine", {"asyncio", "cryptography", "uvloop", "ssl", "socket", "subprocess", "threading"}),
        ("import bigmachine; bigmachine.errors", {"asyncio", "cryptography", "uvloop", "ssl", "socket"}),
        ("import bigmachine; bigmachine.driver.add_flags", {"asyncio", "cryptography", "uvloop", "argparse"}),
        ("import bigmachine; bigmachine.start", {"asyncio", "cryptography", "uvloop"}),
        ("import bigmachine; bigmachine.Session, bigmachine.Machine", {"cryptography", "uvloop", "rich", "psutil"}),
    ],
)
def test_importing_loads_nothing_heavy(program: str, not_loaded: set[str]) -> None:
    source = str(Path(bigmachine.__file__).parents[1])
    look = f"import sys; sys.path.insert(0, {source!r}); {program}; print(*sorted({not_loaded!r} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-S", "-I", "-c", look], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ran.returncode, ran.stdout.split()) == (0, []), ran.stderr
