"""A call that is wrong gets its named error at once, and nobody else notices."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bigmachine import InvalidCall, Machine, MachineStopped, NetworkError, RemoteError, State
from bigmachine.errors import RemoteTraceback, is_remote
from bigmachine.testing import inject_faults
from tests.cluster.fault_services import (
    AsyncInit,
    KilledInit,
    LeavingAsyncInit,
    LeavingInit,
    LibraryInit,
    PlainInit,
    SlowInit,
    Stubborn,
    Target,
)
from tests.cluster.processes import LIMIT, Cluster, cluster_in, machine_pid

#: "At once", on a busy computer: half of what anything that hangs is given.
AT_ONCE = LIMIT / 2


def harm_of(fault: Callable[[], object], cluster: Cluster) -> BaseException:
    """Return what `fault` raises, which must be soon, disturb no other call and leave nothing behind."""
    with cluster.unharmed():
        begin = time.monotonic()
        with pytest.raises(Exception) as caught:  # noqa: PT011 (the caller looks at it)
            fault()
        assert time.monotonic() - begin < AT_ONCE
    return caught.value


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_in(tmp_path_factory.mktemp("scratch")) as cluster:
        yield cluster


@pytest.fixture
def only_here(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A class whose module no machine can import."""
    module = types.ModuleType("only_in_this_driver")
    exec("class Only:\n    def method(self): ...", module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__dict__["Only"]


@pytest.mark.parametrize(
    ("method", "arguments", "words"),
    [
        ("Target.echo", (), "do not fit Target.echo: missing a required argument: 'value'"),
        ("Target.add", (1, 2, 3), "do not fit Target.add: too many positional arguments"),
        ("Target.ech", (1,), "'Target' (Target) has no public method 'ech'; did you mean 'echo'?"),
        ("Target.zzz", (), "there is add, "),
        ("Target.held", (), "has no public method 'held'"),
        ("Target.__init__", (), "has no public method '__init__'"),
        ("Targe.echo", (1,), "no service 'Targe' on this machine; did you mean 'Target'?"),
        ("Unknown.echo", (1,), "no service 'Unknown' on this machine; there is Supervisor, Target"),
        ("Target", (), "it has to be 'Service.method'"),
        (SlowInit.ready, (), "no service of class SlowInit on this machine"),
        (len, ([],), "names no method"),
        ("Supervisor.nothing", (), "has no public method 'nothing'"),
        ("Supervisor.set_args", (), "missing a required argument: 'args'"),
    ],
)
def test_a_call_that_does_not_fit_says_how(cluster: Cluster, method: Any, arguments: Any, words: str) -> None:
    error = harm_of(lambda: cluster.machine.call(method, *arguments), cluster)
    assert type(error) is InvalidCall
    assert words in str(error)
    assert not is_remote(error)


def test_a_bad_argument_is_the_methods_own_error(cluster: Cluster) -> None:
    error = harm_of(lambda: cluster.machine.call("Target.add", "one"), cluster)
    assert type(error) is TypeError
    assert is_remote(error)


@pytest.mark.parametrize("way", ["call", "submit", "retry_call"])
def test_an_argument_that_cannot_travel_is_named(cluster: Cluster, way: str) -> None:
    def fault() -> None:
        result = getattr(cluster.machine, way)(Target.echo, [threading.Lock()])
        if way == "submit":
            result.result(LIMIT)

    error = harm_of(fault, cluster)
    assert type(error) is InvalidCall
    assert "an argument of Target.echo cannot be pickled: TypeError: cannot pickle '_thread.lock'" in str(error)


def test_an_argument_that_cannot_be_rebuilt_is_named(cluster: Cluster) -> None:
    error = harm_of(lambda: cluster.machine.call(Target.echo, Stubborn()), cluster)
    assert type(error) is InvalidCall
    assert "could not be rebuilt on the machine: ValueError: it does not want to be rebuilt" in str(error)


def test_an_argument_of_a_module_that_the_machine_lacks_is_named(cluster: Cluster, only_here: Any) -> None:
    error = harm_of(lambda: cluster.machine.call(Target.echo, only_here()), cluster)
    assert type(error) is InvalidCall
    assert "No module named 'only_in_this_driver'; is the module on the machine, too?" in str(error)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Target.lock, "the result of Target.lock cannot be pickled: TypeError: cannot pickle '_thread.lock'"),
        (Target.stranger, "the result of Target.stranger could not be rebuilt here: "),
    ],
)
def test_a_result_that_cannot_travel_is_named(cluster: Cluster, method: Any, words: str) -> None:
    error = harm_of(lambda: cluster.machine.call(method), cluster)
    assert type(error) is InvalidCall
    assert words in str(error)


def test_an_exception_that_cannot_travel_arrives_in_words(cluster: Cluster) -> None:
    error = harm_of(lambda: cluster.machine.call(Target.raise_unpicklable), cluster)
    assert type(error) is RemoteError
    assert error.type_name == "tests.cluster.fault_services.Unpicklable"
    assert "in raise_unpicklable" in error.traceback_text
    assert is_remote(error)


@pytest.mark.parametrize("method", [Target.leave, Target.leave_async])
def test_sys_exit_in_a_method_ends_the_call_and_not_the_machine(cluster: Cluster, method: Any) -> None:
    pid = machine_pid(cluster.machine)
    error = harm_of(lambda: cluster.machine.call(method, 3), cluster)
    assert type(error) is RemoteError
    assert (error.type_name, error.message) == ("SystemExit", "3")
    assert (cluster.machine.state, machine_pid(cluster.machine)) == (State.RUNNING, pid)


def test_a_keyboard_interrupt_in_a_method_ends_the_call_and_not_the_machine(cluster: Cluster) -> None:
    error = harm_of(lambda: cluster.machine.call(Target.interrupt), cluster)
    assert type(error) is RemoteError
    assert error.type_name == "KeyboardInterrupt"


def test_a_stream_that_a_repetition_cannot_have_again_says_what_broke_it_and_what_to_do(cluster: Cluster) -> None:
    (machine,) = cluster.session.start(1, services=[Target()])
    machine.wait(State.RUNNING, LIMIT)
    errors = []
    with inject_faults(machine, seed=10, cut=0.5):
        for _ in range(20):
            try:
                machine.retry_call("Target.count").close()
            except NetworkError as error:
                errors.append(error)
    machine.shutdown()
    assert errors
    for gone in errors:
        assert not gone.temporary
        assert f"Target.count on {machine.name} began a stream for an earlier attempt" in str(gone)
        assert "Make a new call" in str(gone)
        assert isinstance(gone.__cause__, NetworkError)
        assert gone.__cause__.temporary


def failed(cluster: Cluster, service: object) -> MachineStopped:
    """Return why a machine with this service did not come up; both it and all of its processes are gone."""

    def fault() -> None:
        (machine,) = cluster.session.start(1, services={"service": service})
        pending = machine.submit("service.ready")
        with pytest.raises(MachineStopped) as waited:
            machine.wait(State.RUNNING, LIMIT)
        with pytest.raises(MachineStopped) as called:
            pending.result(LIMIT)
        assert waited.value.certificate == called.value.certificate
        assert machine not in cluster.session.machines()
        raise waited.value

    error = harm_of(fault, cluster)
    assert isinstance(error, MachineStopped)
    return error


@pytest.mark.parametrize(
    ("service", "cause"),
    [
        (PlainInit(), LookupError("no data on this machine")),
        (AsyncInit(), LookupError("no data on this machine")),
        (LibraryInit(), InvalidCall("the configuration names no table")),
        (LeavingInit(), RemoteError("SystemExit", "nothing to do here")),
        (LeavingAsyncInit(), RemoteError("SystemExit", "3")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_init_that_raises_stops_the_machine_with_that_error(
    cluster: Cluster, service: object, cause: Exception
) -> None:
    error = failed(cluster, service)
    assert error.certificate.cause == "init_failed"
    assert "the init of service 'service' raised" in error.certificate.detail
    assert type(error.__cause__) is type(cause)
    assert str(error.__cause__).startswith(str(cause).partition(" (")[0])
    assert isinstance(error.__cause__.__cause__, RemoteTraceback)
    assert "in init" in error.__cause__.__cause__.text


def test_an_init_that_dies_is_certified_with_its_last_words(cluster: Cluster) -> None:
    certificate = failed(cluster, KilledInit()).certificate
    assert (certificate.cause, certificate.signal) == ("signal", 9)
    assert certificate.last_lines == ("about to go",)


def test_a_service_whose_class_the_machine_lacks_is_named(cluster: Cluster, only_here: Any) -> None:
    error = failed(cluster, only_here())
    assert error.certificate.cause == "boot_failed"
    assert "No module named 'only_in_this_driver'" in str(error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"services": {"service": threading.Lock()}}, "service 'service' cannot be pickled: TypeError: cannot pickle"),
        ({"services": {"service": Target}}, "service 'service' is a class"),
        ({"services": {"a:b": Target()}}, "'a:b' cannot name a service"),
        ({"services": {"Supervisor": Target()}}, "choose another name"),
        ({"services": [Target(), Target()]}, "two services are of class Target"),
        ({"services": {}}, "no services"),
        ({"services": [Target()], "n": 0}, "at least 1"),
        ({"services": [Target()], "environ": {"A": 3}}, "environ has 'A': 3"),
        ({"services": [Target()], "args": [3]}, "args=[3]"),
    ],
)
def test_a_start_that_cannot_be_is_refused_before_there_is_a_machine(
    cluster: Cluster, arguments: Any, words: str
) -> None:
    error = harm_of(lambda: cluster.session.start(**arguments), cluster)
    assert type(error) is InvalidCall
    assert words in str(error)


def test_a_machine_can_be_asked_from_its_first_moment_on(cluster: Cluster) -> None:
    with cluster.unharmed():
        for ask in (machine_pid, Machine.mem_info, Machine.load_info):
            (machine,) = cluster.session.start(1, services=[Target()])
            assert ask(machine)
            machine.shutdown()


def test_asking_ends_with_the_machine(cluster: Cluster) -> None:
    with cluster.unharmed():
        (machine,) = cluster.session.start(1, services=[Target()])
        call = machine.submit("Supervisor.cpu_profile", 60.0)
        assert machine.call("Supervisor.ping", 1) == 1
        machine.submit(Target.die, 3)
        error = call.exception(LIMIT)
        assert isinstance(error, MachineStopped)
        assert error.certificate.exit_status == 3


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:1", "127.0.0.1/h1-m1", "127.0.0.1:x/h1-m1"])
def test_what_is_no_address_is_not_dialled(cluster: Cluster, address: str) -> None:
    error = harm_of(lambda: cluster.session.dial(address), cluster)
    assert type(error) is InvalidCall
    assert "is no machine's address" in str(error)
