"""Which rows a list asks for, and their order: the same on every worker."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from streamflow.query.key_order import KeyOrder, canonical, key_order, key_text
from streamflow.query.rows import Row
from streamflow.query.value_paths import ValuePath, ValueTest, value_order

__all__ = ["RowQuery", "canonical", "key_order", "key_text", "state_matches"]

LIMIT_DEFAULT: Final = 100
WINDOW_SORTS: Final = ("window", "-window")
SORTS: Final = (*WINDOW_SORTS, "key", "-key")
STATES: Final = ("open", "closed", "all")

Order = tuple[Any, ...]


class KeyPattern(NamedTuple):
    """The text of a key, or what it begins with."""

    text: str
    is_prefix: bool

    def matches(self, text: str) -> bool:
        return text.startswith(self.text) if self.is_prefix else text == self.text


@dataclass(frozen=True, slots=True)
class RowQuery:
    """What one list asks for. ``after`` is the order of the last row of the page before.

    ``start_ms`` and ``end_ms`` bound the windows' starts: at or after, and before; ``at_ms`` is a time within
    them. ``key_from`` and ``key_to`` are bounds in the order of keys: at or behind, and before. ``keys``: one
    of these alone, by their canonical JSON. ``within``: only keys of which one of these holds. ``tests`` hold
    of the value, all of them. ``partitions`` ``None``: all of the table. ``by``: with ``sort`` "value" or
    "-value", what is sorted by.
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
    key_from: KeyOrder | None = None
    key_to: KeyOrder | None = None
    keys: Mapping[bytes, Any] | None = None
    within: frozenset[KeyPattern] | None = None
    limits: frozenset[KeyPattern] | None = None  # by the rights of who asks; None: every key
    at_ms: int | None = None
    tests: tuple[ValueTest, ...] = ()
    by: ValuePath | None = None

    @property
    def descending(self) -> bool:
        return self.sort.startswith("-")

    @property
    def by_window(self) -> bool:
        return self.sort.endswith("window")

    @property
    def is_plain(self) -> bool:
        """Does it want every row of its partitions?"""
        return self.wants_every_value and not (
            self.wants_some_keys
            or self.start_ms is not None
            or self.end_ms is not None
            or self.at_ms is not None
            or self.state != "all"
            or self.after is not None
        )

    @property
    def wants_some_keys(self) -> bool:
        """Is a row wanted for its key?"""
        filters = (self.key_from, self.key_to, self.keys, self.within, self.limits)
        return bool(self.prefix) or any(each is not None for each in filters)

    @property
    def wants_every_value(self) -> bool:
        """Is a row wanted whatever its value is?"""
        return not self.tests and (self.by is None or self.after is None)

    def value_order(self, row: Row) -> KeyOrder | None:
        """What stands first in the order of a list by value."""
        return None if self.by is None else value_order(self.by, row.value, descending=self.descending)

    def order(self, row: Row) -> Order:
        """Total over all rows of a table: no two have the same."""
        return self.order_with(row, self.value_order(row))

    def order_with(self, row: Row, value: KeyOrder | None) -> Order:
        """The order of a row of which only that of its value is known."""
        key = key_order(row.key)
        if value is not None:
            return (*value, *key, row.start_ms or 0, row.partition, row.end_ms or 0)
        if self.by_window:
            return (row.start_ms or 0, *key, row.partition, row.end_ms or 0)
        return (*key, row.start_ms or 0, row.partition, row.end_ms or 0)

    def wants(self, row: Row) -> bool:
        if not (self.wants_window_of(row) and self.wants_key(row.key) and self.wants_value(row.value)):
            return False
        if self.after is None:
            return True
        order = self.order(row)
        return order < self.after if self.descending else order > self.after

    def wants_value(self, value: object) -> bool:
        return not self.tests or all(test.holds(value) for test in self.tests)

    def wants_window_of(self, row: Row) -> bool:
        """By its state and its time."""
        if not state_matches(self.state, row):
            return False
        if row.start_ms is None or row.end_ms is None:
            return True
        if self.at_ms is not None and not row.start_ms <= self.at_ms < row.end_ms:
            return False
        return self.wants_window(row.start_ms)

    def wants_window(self, start_ms: int) -> bool:
        if self.start_ms is not None and start_ms < self.start_ms:
            return False
        return self.end_ms is None or start_ms < self.end_ms

    def wants_key(self, key: object) -> bool:
        if self.prefix is not None or self.within is not None or self.limits is not None:
            text = key_text(key)
            if self.prefix is not None and not text.startswith(self.prefix):
                return False
            for patterns in (self.within, self.limits):
                if patterns is not None and not any(pattern.matches(text) for pattern in patterns):
                    return False
        if self.key_from is not None or self.key_to is not None:
            order = key_order(key)
            if self.key_from is not None and order < self.key_from:
                return False
            if self.key_to is not None and order >= self.key_to:
                return False
        return self.keys is None or canonical(key) in self.keys

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
