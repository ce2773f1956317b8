"""Rows in memory: a dict of windows, so that a whole window goes at once when it expires."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

from streamflow.state.starts import SortedStarts
from streamflow.state.stores.base import DELETED, MISSING, Rows


class MemoryStore:
    """See `stores.base.Store`."""

    __slots__ = ("_count", "_rows", "_starts", "offset")

    def __init__(self) -> None:
        self._rows: Rows = {}
        self._starts = SortedStarts()
        self._count = 0
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
        came: list[int] = []
        gone: list[int] = []
        for start, changed in changes.items():
            rows = self._rows.get(start)
            if rows is None:
                rows = self._rows[start] = {}
                came.append(start)
            before = len(rows)
            rows.update(changed)
            for key in [key for key, value in changed.items() if value is DELETED]:
                del rows[key]
            self._count += len(rows) - before
            if not rows:
                del self._rows[start]
                gone.append(start)
        for start in drops:
            dropped = self._rows.pop(start, None)
            if dropped is not None:
                self._count -= len(dropped)
                gone.append(start)
        self._starts.add(came)
        self._starts.drop(gone)
        if offset is not None:
            self.offset = offset

    def starts(self) -> list[int]:
        return list(self._starts)

    def first_start(self) -> int | None:
        return self._starts.first()

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None:
        return self._starts.after(start, descending=descending)

    def window(self, start: int) -> Mapping[Any, Any]:
        return self._rows.get(start, {})

    def scan(self) -> Iterator[tuple[int, Any, Any]]:
        for start in self.starts():
            for key, value in self._rows[start].items():
                yield start, key, value

    def clear(self) -> None:
        self.close()
        self.offset = 0

    def touch(self) -> None:
        """What is in memory is as old as its process: whoever keeps it knows since when."""

    def close(self) -> None:
        self._rows, self._starts, self._count = {}, SortedStarts(), 0

    def __len__(self) -> int:
        return self._count
