"""What errors of the network are in the library's own terms, and what a loss is to those whose calls it carried."""

from __future__ import annotations

import ssl

from bigmachine.errors import AuthenticationError, BigmachineError, InvalidCall, MachineStopped, NetworkError


class PeerGone(NetworkError):
    """The peer's host says that nobody, or somebody else, is at its port: it has ended, and is not out of reach."""


class PeerFull(NetworkError):
    """The peer has no file descriptor free for a connection; it says so in the handshake (see `turning_away`)."""


class OutcomeGone(NetworkError):
    """A call that was sent again was begun before, and its outcome cannot be had any more: repeating does not help."""

    temporary = False


def as_network_error(exc: BaseException, where: str) -> BigmachineError:
    """Translate what the network stack raised."""
    if isinstance(exc, BigmachineError):
        return exc
    if isinstance(exc, ssl.SSLCertVerificationError):
        return AuthenticationError(f"{where} could not prove who it is: {getattr(exc, 'verify_message', '') or exc}")
    # An SSLError that was not made by `ssl` itself has neither attribute.
    if isinstance(exc, ssl.SSLError) and "ALERT" in (reason := str(getattr(exc, "reason", "") or exc)).upper():
        if "INTERNAL_ERROR" in reason.upper().replace(" ", "_"):
            return PeerFull(
                f"{where} has no file descriptor free and takes no connection until it has: close files there that are "
                "not needed, or raise its limit (`ulimit -n`)"
            )
        return AuthenticationError(f"{where} refused this side's certificate: {reason}")
    if isinstance(exc, TimeoutError):
        return NetworkError(f"{where} did not answer in time: is its host up, and the port open to here?")
    if isinstance(exc, ConnectionRefusedError):
        return PeerGone(f"{where} refused the connection: nothing listens there any more")
    return NetworkError(f"the connection to {where} failed: {type(exc).__name__}: {exc}")


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
    if error is None:
        return NetworkError(f"the connection to {name} was closed by the other side")
    return as_network_error(error, name)


def not_rebuilt(exc: BaseException, method: str) -> InvalidCall:
    """Say that a result cannot be unpickled on this side."""
    error = InvalidCall(f"the result of {method} could not be rebuilt here: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error
