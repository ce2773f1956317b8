"""The first rows by a value: the best of each partition in a bounded list, however many rows there are.

All rows are looked at once, in slices. Where a list wants nothing but the order, its rows are kept for the
next one, and follow what checkpoints change: whatever stands before the first row that was left out is there.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Collection, Hashable
from dataclasses import replace
from typing import Any, Protocol

from streamflow.query.key_order import key_order
from streamflow.query.list_index import BoundedRows, IndexedRows, ListIndex
from streamflow.query.merging import Reversed
from streamflow.query.row_query import Order, RowQuery
from streamflow.query.rows import Row
from streamflow.query.slices import Slices
from streamflow.query.sorted_chunks import TOP, Entry, SortedChunks, sorted_in_slices
from streamflow.query.value_paths import value_order
from streamflow.state.stores.base import MISSING, NO_WINDOW
from streamflow.windows import SlidingWindow

KEPT_ROWS = 2_500
"""Of each partition, and two pages at least: some may go."""


class TopListedRows(IndexedRows, Protocol):
    """What it reads of a table's reader."""

    @property
    def lists(self) -> ListIndex: ...

    def row(self, partition: int, start: int, key: Hashable, value: object) -> Row: ...


class TopRows(BoundedRows):
    """The first ``most`` rows of a partition that a list by value wants.

    Entries are a row's order in the list, and then its window's id and its kept key. INVARIANT: every row
    that stands before ``_left_out`` is there (``None``: all are).
    """

    def __init__(
        self,
        rows: TopListedRows,
        partition: int,
        query: RowQuery,
        bounds: tuple[int, int] | None,
        most: int,
    ) -> None:
        super().__init__(rows, partition)
        assert query.by is not None
        self._reader = rows
        self._query, self._by, self._down = query, query.by, query.descending
        self._most = most
        self._bounds = bounds  # ids of windows, where only some are wanted
        self._order = SortedChunks()
        self._entries: dict[tuple[int, Hashable], Entry] = {}
        self._left_out: Entry | None = None
        self._heap: list[Any] | None = []  # while it is made: entries, the worst of them first
        self._all = query.is_plain

    async def _make(self, slices: Slices) -> None:
        await self._look_at_all(slices)
        self._heap = None
        self._order = await sorted_in_slices(list(self._entries.values()), slices)

    async def _look_at_all(self, slices: Slices) -> None:
        if self.rows.window is None:
            await self._take(NO_WINDOW, slices)
            return
        low, high = self._bounds or (None, None)
        start = self.rows.next_start(self.partition, None if low is None else low - 1)
        while start is not None and (high is None or start < high):
            await self._take(start, slices)
            await self.rest(slices)
            start = self.rows.next_start(self.partition, start)

    async def _take(self, start: int, slices: Slices) -> None:
        async for some in self._window(start, slices):
            for key in some:
                if (start, key) not in self._entries:
                    self._consider(start, key)

    def _consider(self, start: int, key: Hashable) -> None:
        """Takes the row, if it is there, is wanted, and stands before what was left out."""
        # HOT PATH: of millions of rows most end at the first comparison.
        value = self.rows.value(self.partition, start, key)
        if value is MISSING:
            return
        first = value_order(self._by, value, descending=self._down)
        left_out = self._left_out
        if left_out is not None and (first < left_out[:3] if self._down else first > left_out[:3]):
            return
        row = self._reader.row(self.partition, start, key, value)
        if not (self._all or self._query.wants(row)):
            return
        entry = (*self._query.order_with(row, first), start, *key_order(self.rows.shown(key)), key)
        if left_out is not None and (entry[:9] < left_out[:9] if self._down else entry[:9] > left_out[:9]):
            return
        self._entries[start, key] = entry
        worst = self._put(entry)
        if worst is not None:
            del self._entries[worst[9], worst[-1]]
            self._left_out = worst

    def _put(self, entry: Entry) -> Entry | None:
        """Puts it among the others; returns the one that is too many."""
        heap, is_full = self._heap, len(self._entries) > self._most
        if heap is None:
            self._order.add(entry)
            if not is_full:
                return None
            worst = self._order.block(None, None, 1, descending=not self._down)[0]
            self._order.remove(worst)
            return worst
        held: Any = entry if self._down else Reversed(entry)
        if not is_full:
            heapq.heappush(heap, held)
            return None
        left = heapq.heappushpop(heap, held)
        found: Entry = left if self._down else left.order
        return found

    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        for key in (*gone, *came):
            entry = self._entries.pop((start, key), None)
            if entry is not None:
                self._order.remove(entry)
        for key in came:
            self._consider(start, key)

    def behind(self, after: Order | None, count: int) -> list[Entry] | None:
        """``count`` entries behind this order, or all there are; ``None`` where some may be missing."""
        low, high = (None, after) if self._down else (None if after is None else (*after, TOP), None)
        found = self._order.block(low, high, count, descending=self._down)
        return found if len(found) == count or self._left_out is None else None


async def first_by_value(
    reader: TopListedRows, partition: int, query: RowQuery, bounds: tuple[int, int] | None, slices: Slices
) -> AsyncIterator[list[Row]]:
    """The rows of a list by value, up to one more than its limit, in order. Raises PartitionMoved."""
    assert query.limit is not None
    entries = await _entries(reader, partition, query, bounds, slices)
    for at in range(0, len(entries), 32):
        found: list[Row] = []
        for entry in entries[at : at + 32]:
            value = reader.value(partition, entry[9], entry[-1])
            if value is not MISSING:
                found.append(reader.row(partition, entry[9], entry[-1], value))
        yield [row for row in found if query.wants(row)]
        if slices.over():
            await slices.rest()


async def _entries(
    reader: TopListedRows, partition: int, query: RowQuery, bounds: tuple[int, int] | None, slices: Slices
) -> list[Entry]:
    assert query.limit is not None
    count, first_page = query.limit + 1, replace(query, after=None)
    # What is committed names the panes of sliding and of many hopping windows: so theirs is not kept.
    if first_page.is_plain and not (reader.kept_as_panes or isinstance(reader.window, SlidingWindow)):
        which, most = (query.by, query.descending), max(KEPT_ROWS, 2 * count)
        for _ in range(2):
            top = await reader.lists.kept(which, TopRows(reader, partition, first_page, None, most), slices)
            found = top.behind(query.after, count)
            if found is not None:
                return found
            if query.after is not None:
                break
            reader.lists.drop(which, top)  # so many have gone: it is made anew
    once = TopRows(reader, partition, query, bounds, count)
    await reader.lists.once(once, slices)
    return once.behind(None, count) or []
