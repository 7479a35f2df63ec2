"""Send what the program logs to the driver, as records: level, logger and place stay known there.

The handler that does it stands above the root logger (as its `parent`), where every record arrives that propagates:
`logging.basicConfig()` on a machine still finds a root logger without handlers. A record goes by one of two ways, so
nothing is shown twice: if a handler of the program writes it to standard output or error, its text goes with the
other output; otherwise the record is sent.

A handler that the root logger has when the program reaches `start` is also there in the driver, which ran the same
lines. Of these, the ones that write to standard output or error are silenced here, and the records are sent: the
driver's own print them, in the same format.

A record is in the kernel's hands before the call that logged it returns, so a machine that dies loses none; and when
the driver takes no more output, who logs waits like who prints.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import select
import sys
from typing import TYPE_CHECKING, Final

from bigmachine.agent.records import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bigmachine.agent.processes.control import BlockingChannel

#: What a pipe takes in one piece whoever else writes (POSIX: PIPE_BUF).
_FRAME: Final = getattr(select, "PIPE_BUF", 512)
#: What every record has; all else is what the program added with `extra`.
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
#: Of those, the ones that say something on another computer.
_SENT: Final = (
    *("name", "levelno", "levelname", "pathname", "lineno", "funcName", "created", "process", "thread", "threadName"),
    *("taskName", "stack_info"),
)
_PLAIN: Final = (str, int, float, bool, type(None))


class RecordSender(logging.Handler):
    """Writes records to a pipe of which the agent has the other end."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._pipe = os.fstat(fd)
        self._numbers = itertools.count()
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        if is_printed(record):
            return
        try:
            frames = encode(self._fields(record), os.getpid(), next(self._numbers), _FRAME)
            # A program that closes descriptors which are not its own may have got this number for a file of its own.
            if not os.path.samestat(os.fstat(self._fd), self._pipe):
                raise OSError
            for frame in frames:
                os.write(self._fd, frame)
        except OSError:
            if logging.lastResort is not None:
                logging.lastResort.handle(record)
        except Exception:  # noqa: BLE001 (arguments that do not fit the format, or cannot be shown: as in any handler)
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> Mapping[str, object]:
        fields: dict[str, object] = {key: record.__dict__.get(key) for key in _SENT}
        fields["msg"] = record.getMessage()
        exc_text = record.exc_text
        if record.exc_info and not exc_text:
            exc_text = self._formatter.formatException(record.exc_info)
        fields["exc_text"] = exc_text
        extra = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
        if extra:
            fields["extra"] = {
                str(key): value if isinstance(value, _PLAIN) else repr(value) for key, value in extra.items()
            }
        return fields


def send_records(channel: BlockingChannel) -> None:
    """Send what is logged from now on through a pipe, whose other end goes to the agent over `channel`.

    Raises:
        OSError: if the agent is gone, or there are no descriptors left.
    """
    read, write = os.pipe()
    try:
        channel.send({"k": "records"}, (read,))
    except OSError:
        os.close(write)
        raise
    finally:
        os.close(read)
    above = logging.Logger("above the root logger")  # noqa: LOG001 (getLogger would put it below the root)
    above.addHandler(RecordSender(write))
    logging.root.parent = above
    logging.basicConfig = _unless_implied(logging.basicConfig)


def _unless_implied(basic_config: Callable[..., None]) -> Callable[..., None]:
    """Make `logging.warning()` and its like not configure the root logger: they do so where nobody else has."""

    @functools.wraps(basic_config)
    def configure(**options: object) -> None:
        if options:
            basic_config(**options)

    return configure


def silence_copies() -> None:
    """Silence the root logger's handlers that write to standard output or error: the driver has the same."""
    for handler in logging.root.handlers:
        if _is_console(handler):
            handler.addFilter(_is_not_sent)


def take_levels(levels: Mapping[str, int]) -> None:
    """Give the loggers the driver's levels ("" is the root), but for those that have one of the program's own here."""
    for name, level in levels.items():
        logger = logging.getLogger(name)
        if logger.level == (logging.NOTSET if name else logging.WARNING):
            logger.setLevel(level)


def is_printed(record: logging.LogRecord) -> bool:
    """Whether a handler of the program writes this record to standard output or error."""
    return any(
        record.levelno >= handler.level and _is_not_sent not in handler.filters and _is_console(handler)
        for logger in _way_up(record)
        for handler in logger.handlers
    )


def _is_not_sent(record: logging.LogRecord) -> bool:
    """Filter a silenced handler, which may also belong to loggers whose records do not come to the root."""
    return all(logger is not logging.root for logger in _way_up(record))


def _way_up(record: logging.LogRecord) -> Iterator[logging.Logger]:
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        yield logger
        if logger is logging.root or not logger.propagate:
            return
        logger = logger.parent


def _is_console(handler: logging.Handler) -> bool:
    """Whether a handler is known to write to standard output or error: by its stream, or as rich's does."""
    stream = getattr(handler, "stream", None) or getattr(getattr(handler, "console", None), "file", None)
    return stream is not None and any(stream is own for own in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__))


__all__ = ["RecordSender", "is_printed", "send_records", "silence_copies", "take_levels"]
