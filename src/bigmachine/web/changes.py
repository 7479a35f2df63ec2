"""What a viewer has to be told: only what changed since the last time. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from bigmachine.session.seeing.rows import Row


class Rows:
    """The rows of a table as viewers have them, by key."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def change(self, rows: Mapping[str, Row]) -> dict[str, Row | None]:
        """Take the rows as they are now; give the fields that changed, and None for a row that is gone."""
        changed: dict[str, Row | None] = dict.fromkeys(self.rows.keys() - rows.keys())
        for key, row in rows.items():
            before = self.rows.get(key)
            if before is None:
                changed[key] = row
            elif fields := {name: value for name, value in row.items() if before.get(name) != value}:
                changed[key] = fields
        self.rows = dict(rows)
        return changed


class Names:
    """Numbers in place of names that are said again and again."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}
        self._told = 0

    def of(self, name: str) -> int:
        """Give the number of a name."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self.all)
            self.all.append(name)
        return number

    def fresh(self) -> list[str]:
        """Give the names that have come since the last time."""
        fresh, self._told = self.all[self._told :], len(self.all)
        return fresh


def event(name: str, told: Mapping[str, object]) -> bytes:
    """Write a server-sent event; empty parts are left out."""
    parts = {key: value for key, value in told.items() if value not in ({}, [], None)}
    data = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return f"event: {name}\ndata: {data}\n\n".encode("utf-8", "replace")
