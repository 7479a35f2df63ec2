"""Calls: frames on authenticated connections, the threads and tasks that run methods, streams, deadlines.

From the bytes up: `wire` (frames, pure) and `codec` (values), `reactor` (the event loop), `connection` (one
transport), `lanes` (the connections of a link), `link` (calling; `near` for other loops) and `server` (being called),
`net` (TCP and TLS), `memory` (within a process). In rooms of their own: `streams`; `waiting`, the connections of
threads that wait for their calls, at both ends; `http`, the same methods for curl and other languages.

Importing this package loads nothing until a name is asked for: a driver calls, and needs none of what serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigmachine.lazy import lazily

if TYPE_CHECKING:
    from bigmachine.rpc.calls import Call
    from bigmachine.rpc.codec import Codec
    from bigmachine.rpc.connector import Dialer
    from bigmachine.rpc.context import CallInfo, current_call, deadline
    from bigmachine.rpc.link import Link, Tamper
    from bigmachine.rpc.losses import OutcomeGone
    from bigmachine.rpc.names import name_of
    from bigmachine.rpc.net import PeerFull, PeerGone, TlsDialer, serve_socket, serve_waiting
    from bigmachine.rpc.pool import DEFAULT_THREADS
    from bigmachine.rpc.reactor import Reactor, new_event_loop
    from bigmachine.rpc.server import Server
    from bigmachine.rpc.services import ServiceTable
    from bigmachine.rpc.statistics import MethodSnapshot
    from bigmachine.rpc.streams.readers import ByteStream, Stream
    from bigmachine.rpc.transports import warm_up
    from bigmachine.rpc.turning_away import turn_away
    from bigmachine.rpc.wire import DEFAULT_LIMIT

_HOME = {
    "ByteStream": "streams.readers",
    "Call": "calls",
    "CallInfo": "context",
    "Codec": "codec",
    "DEFAULT_LIMIT": "wire",
    "DEFAULT_THREADS": "pool",
    "Dialer": "connector",
    "Link": "link",
    "MethodSnapshot": "statistics",
    "OutcomeGone": "losses",
    "PeerFull": "net",
    "PeerGone": "net",
    "Reactor": "reactor",
    "Server": "server",
    "ServiceTable": "services",
    "Stream": "streams.readers",
    "Tamper": "link",
    "TlsDialer": "net",
    "current_call": "context",
    "deadline": "context",
    "name_of": "names",
    "new_event_loop": "reactor",
    "serve_socket": "net",
    "serve_waiting": "net",
    "turn_away": "turning_away",
    "warm_up": "transports",
}

__getattr__ = lazily(__name__, _HOME)

__all__ = [
    "DEFAULT_LIMIT",
    "DEFAULT_THREADS",
    "ByteStream",
    "Call",
    "CallInfo",
    "Codec",
    "Dialer",
    "Link",
    "MethodSnapshot",
    "OutcomeGone",
    "PeerFull",
    "PeerGone",
    "Reactor",
    "Server",
    "ServiceTable",
    "Stream",
    "Tamper",
    "TlsDialer",
    "current_call",
    "deadline",
    "name_of",
    "new_event_loop",
    "serve_socket",
    "serve_waiting",
    "turn_away",
    "warm_up",
]
