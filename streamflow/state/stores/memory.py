"""Rows in memory: a dict of windows, so that a whole window goes at once when it expires."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from streamflow.state.stores.base import DELETED, MISSING, Rows


class MemoryStore:
    """See `stores.base.Store`."""

    __slots__ = ("_rows", "offset")

    def __init__(self) -> None:
        self._rows: Rows = {}
        self.offset = 0

    def get(self, start: int, key: Hashable) -> Any:
        rows = self._rows.get(start)
        return MISSING if rows is None else rows.get(key, MISSING)

    def apply(
        self,
        changes: Mapping[int, Mapping[Any, Any]],
        offset: int | None = None,
        drops: Iterable[int] = (),
    ) -> None:
        for start, changed in changes.items():
            rows = self._rows.setdefault(start, {})
            rows.update(changed)
            for key in [key for key, value in changed.items() if value is DELETED]:
                del rows[key]
            if not rows:
                del self._rows[start]
        for start in drops:
            self._rows.pop(start, None)
        if offset is not None:
            self.offset = offset

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

    def clear(self) -> None:
        self._rows = {}
        self.offset = 0

    def touch(self) -> None:
        """What is in memory is as old as its process: whoever keeps it knows since when."""

    def close(self) -> None:
        self._rows = {}

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))
