"""What machines log, in the driver's own logging: under the same logger, at the same level."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import PurePath
from typing import cast

#: The fields that a record takes over as they are.
_TAKEN = ("levelname", "funcName", "created", "process", "thread", "threadName", "taskName", "exc_text", "stack_info")


def logger_for(fields: Mapping[str, object]) -> logging.Logger | None:
    """Give the logger of a machine's record; None if no handler is there for it: nobody has configured logging."""
    logger = logging.getLogger(str(fields.get("name", "root")))
    return logger if logger.hasHandlers() else None


def log(logger: logging.Logger, machine: str, fields: Mapping[str, object]) -> None:
    """Give a machine's record to the driver's logger."""
    record = make(machine, fields)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def make(machine: str, fields: Mapping[str, object]) -> logging.LogRecord:
    """Make the record. Its text begins with the machine's name, which `machine` and `processName` have, too."""
    number = fields.get("levelno")
    level = number if isinstance(number, int) else logging.WARNING
    path, line = str(fields.get("pathname", "")), fields.get("lineno")
    # The program's own kind, if it has one: its formatters may ask for what only that has.
    record = logging.getLogRecordFactory()(
        str(fields.get("name", "root")),
        level,
        path,
        line if isinstance(line, int) else 0,
        f"{machine}: {fields.get('msg', '')}",
        (),
        None,
    )
    extra = fields.get("extra")
    if isinstance(extra, dict):
        record.__dict__.update(cast("dict[str, object]", extra))
    record.__dict__.update({key: fields[key] for key in _TAKEN if key in fields})
    record.filename, record.module = PurePath(path).name, PurePath(path).stem
    record.msecs = (record.created - int(record.created)) * 1000
    record.processName = record.__dict__["machine"] = machine
    return record
