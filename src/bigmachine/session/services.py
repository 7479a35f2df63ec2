"""What `Session.start` takes as services: names and objects, checked before a machine is paid for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bigmachine.errors import InvalidCall
from bigmachine.rpc import Codec, ServiceTable
from bigmachine.rpc.packed import Packed


def named(services: Mapping[str, object] | Iterable[object]) -> dict[str, object]:
    """Return services by name; from an iterable each is named after its class.

    Raises: InvalidCall if there is none, or two of an iterable's would have one name.
    """
    given: object = services  # whatever it says: not every caller has a type checker
    if isinstance(given, Mapping):
        result = dict(given)
    elif isinstance(given, Iterable) and not isinstance(given, str | bytes):
        result = {}
        for service in given:
            name = type(service).__name__
            if name in result:
                raise InvalidCall(f"two services are of class {name}: give them names, as in {{'a': ..., 'b': ...}}")
            result[name] = service
    else:
        raise InvalidCall(f"services have to be a mapping from names to objects, or several objects; not {given!r}")
    if not result:
        raise InvalidCall("no services provided: a machine without one has nothing to call")
    return result


def packed(services: Mapping[str, object], codec: Codec) -> dict[str, Packed]:
    """Make sure that every service can be called and travel; return them ready to.

    They are pickled here, once for all machines and in the caller's thread: on the event loop, once a machine, a large
    service would stop the keepalives of the machines that run already.

    Raises: InvalidCall, naming the service.
    """
    table, result = ServiceTable(), {}
    for name, service in services.items():
        if not isinstance(name, str):
            raise InvalidCall(f"a service's name has to be a string, not {name!r}")
        if name == "Supervisor":
            raise InvalidCall("'Supervisor' is every machine's own service: choose another name")
        if isinstance(service, type):
            raise InvalidCall(f"service {name!r} is a class: give an instance of it, {service.__name__}()")
        table.register(name, service)
        try:
            result[name] = Packed.pack(service, codec)
        except Exception as exc:
            raise InvalidCall(f"service {name!r} cannot be pickled: {type(exc).__name__}: {exc}") from exc
    return result
