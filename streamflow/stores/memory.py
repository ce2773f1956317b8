"""Rows in memory: a dict of windows, so that a whole window goes at once when it expires."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from streamflow.stores.base import DELETED, MISSING, Rows


class MemoryStore:
    """See `streamflow.stores.base.Store`."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: Rows = {}

    def get(self, start: int, key: Any) -> Any:
        rows = self._rows.get(start)
        return MISSING if rows is None else rows.get(key, MISSING)

    def apply(self, changes: Mapping[int, Mapping[Any, Any]]) -> None:
        for start, changed in changes.items():
            rows = self._rows.setdefault(start, {})
            rows.update(changed)
            for key in [key for key, value in changed.items() if value is DELETED]:
                del rows[key]
            if not rows:
                del self._rows[start]

    def drop_window(self, start: int) -> None:
        self._rows.pop(start, None)

    def starts(self) -> list[int]:
        return sorted(self._rows)

    def first_start(self) -> int | None:
        return min(self._rows, default=None)

    def window(self, start: int) -> Mapping[Any, Any]:
        return self._rows.get(start, {})

    def scan(self) -> Iterator[tuple[int, Any, Any]]:
        for start in self.starts():
            for key, value in self._rows[start].items():
                yield start, key, value

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))
