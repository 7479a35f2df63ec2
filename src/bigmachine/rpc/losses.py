"""What the loss of a connection is to those whose calls it carried."""

from __future__ import annotations

from bigmachine.errors import AuthenticationError, BigmachineError, MachineStopped, NetworkError


def fresh(error: BaseException) -> BaseException:
    """Make an exception that one caller may raise: raised by several, their tracebacks would run together."""
    if not isinstance(error, MachineStopped | NetworkError | AuthenticationError):
        return error
    copy = type(error)(*error.args)
    copy.__cause__ = error.__cause__
    return copy


def translate_loss(error: Exception | None, name: str) -> BigmachineError:
    """Say what the end of a connection means in the library's own terms."""
    if isinstance(error, BigmachineError):
        return error
    from bigmachine.rpc.net import as_network_error

    if error is None:
        return NetworkError(f"the connection to {name} was closed by the other side")
    return as_network_error(error, name)
