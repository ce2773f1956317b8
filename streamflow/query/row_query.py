"""Which rows a list asks for, and their order: the same on every worker."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from streamflow.query.rows import Row

LIMIT_DEFAULT: Final = 100
WINDOW_SORTS: Final = ("window", "-window")
SORTS: Final = (*WINDOW_SORTS, "key", "-key")
STATES: Final = ("open", "closed", "all")

_ordered = msgspec.json.Encoder(enc_hook=str, order="deterministic")

Order = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class RowQuery:
    """What one list asks for. ``after`` is the order of the last row of the page before.

    ``start_ms`` and ``end_ms`` bound the windows' starts: at or after, and before. ``partitions``
    ``None``: all of the table.
    """

    prefix: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    state: str = "all"
    sort: str = "window"
    limit: int | None = LIMIT_DEFAULT  # None: all of them
    after: Order | None = None
    partitions: frozenset[int] | None = None
    fingerprint: str = ""
    allows: Callable[[object], bool] | None = None  # of a key, by the rights of who asks; None: every key

    @property
    def descending(self) -> bool:
        return self.sort.startswith("-")

    @property
    def by_window(self) -> bool:
        return self.sort.endswith("window")

    def order(self, row: Row) -> Order:
        """Total over all rows of a table: no two have the same."""
        key = key_order(row.key)
        if self.by_window:
            return (row.start_ms or 0, *key, row.partition, row.end_ms or 0)
        return (*key, row.start_ms or 0, row.partition, row.end_ms or 0)

    def wants(self, row: Row) -> bool:
        if not state_matches(self.state, row):
            return False
        if row.start_ms is not None and not self.wants_window(row.start_ms):
            return False
        if self.allows is not None and not self.allows(row.key):
            return False
        if self.prefix is not None and not key_text(row.key).startswith(self.prefix):
            return False
        if self.after is None:
            return True
        order = self.order(row)
        return order < self.after if self.descending else order > self.after

    def wants_window(self, start_ms: int) -> bool:
        if self.start_ms is not None and start_ms < self.start_ms:
            return False
        return self.end_ms is None or start_ms < self.end_ms

    def best(self, rows: Iterable[Row], count: int | None) -> list[Row]:
        """The first ``count`` of ``rows`` in this query's order; ``None``: all of them."""
        if count is None:
            return sorted(rows, key=self.order, reverse=self.descending)
        pick: Callable[..., list[Row]] = heapq.nlargest if self.descending else heapq.nsmallest
        return pick(count, rows, key=self.order)


def state_matches(state: str, row: Row) -> bool:
    """``open`` takes rows without a window too: they never close. ``closed`` takes revised ones."""
    if state == "all":
        return True
    is_open = row.state is None or row.state == "open"
    return is_open == (state == "open")


def key_text(key: object) -> str:
    return key if isinstance(key, str) else canonical(key).decode()


def key_order(key: object) -> tuple[int, Any, str]:
    """Keys of one type in their own order, types in a fixed one; 1 and 1.0 differ."""
    if key is None:
        return (0, 0, "")
    if isinstance(key, bool):
        return (1, int(key), "")
    if isinstance(key, int | float):
        return (2, key, repr(key))
    if isinstance(key, str):
        return (3, key, "")
    return (4, key_text(key), "")


def canonical(value: object) -> bytes:
    """The same bytes for equal values, whatever the order of their members."""
    return _ordered.encode(value)
