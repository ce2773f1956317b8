"""How many rows a query wants, and how many windows sliding panes make, without a list of them."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Any, Protocol

from streamflow.query.list_index import IndexedRows, RowsIndex
from streamflow.query.listing import ListedRows, Listing
from streamflow.query.row_query import RowQuery
from streamflow.query.slices import Slices
from streamflow.query.sorted_chunks import Sharded
from streamflow.state.stores.base import MISSING, NO_WINDOW
from streamflow.windows import SessionWindow

PANES_AT_ONCE = 100


class CountedRows(ListedRows, Protocol):
    """What is read of a table's reader."""

    def rows_in(self, partition: int) -> int | None: ...


async def counted(reader: CountedRows, partition: int, query: RowQuery, slices: Slices) -> int:
    """How many rows of an owned partition the query wants, its limit aside. Raises PartitionMoved.

    Of a table that changes meanwhile, rows that come or go under way may be counted or not.
    """
    listing = Listing(reader, partition, query, slices)
    listing.check_owned()
    known = reader.rows_in(partition) if query.is_plain else None
    if known is not None:
        return known
    count = Count(reader, partition, query, (0, 1) if reader.window is None else listing.ids())
    await reader.lists.once(count, slices)
    return count.count


class Count(RowsIndex):
    """Looks at the rows of a partition once; nothing is kept."""

    def __init__(self, reader: CountedRows, partition: int, query: RowQuery, bounds: tuple[int, int]) -> None:
        super().__init__(reader, partition)
        self.count = 0
        self._reader = reader
        self._query = query
        self._bounds = bounds
        # Where the bounds of ids say it all, a window's size is enough.
        self._by_ids = reader.counts_windows and not (
            query.wants_some_keys or query.tests or query.after or isinstance(reader.window, SessionWindow)
        )

    async def _make(self, slices: Slices) -> None:
        if self.rows.window is None:
            await self._take(NO_WINDOW, slices)
            return
        low, high = self._bounds
        start = self.rows.next_start(self.partition, low - 1)
        while start is not None and start < high:
            await self._take(start, slices)
            await self.rest(slices)
            start = self.rows.next_start(self.partition, start)

    async def _take(self, start: int, slices: Slices) -> None:
        keys = self.rows.keys(self.partition, start)
        if self._by_ids and isinstance(keys, Collection):
            self.count += len(keys)
            return
        query, shown = self._query, self.rows.shown
        async for some in self._window(start, slices):
            for key in some:
                if not query.wants_key(shown(key)):
                    continue
                value = self.rows.value(self.partition, start, key)
                if value is not MISSING:
                    self.count += query.wants(self._reader.row(self.partition, start, key, value))

    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        """It counts what it came by."""


class PanedRows(IndexedRows, Protocol):
    """What is read of a reader of sliding windows."""

    def count_some(
        self, partition: int, key: Hashable, from_ms: int | None, most: int
    ) -> tuple[int, int | None]:
        """How many windows of a key ``most`` of its panes from here on make, and where to go on."""
        ...


class SlidingCount(RowsIndex):
    """How many windows the panes of each key make, and in all. What changed is counted when it is asked."""

    def __init__(self, rows: PanedRows, partition: int) -> None:
        super().__init__(rows, partition)
        self.total = 0
        self._panes = rows
        self._of: Sharded[int] = Sharded()
        self._stale: Sharded[None] = Sharded()

    async def _make(self, slices: Slices) -> None:
        async for some in self._walk(lambda: self.rows.groups(self.partition), slices):
            for key in some:
                await self._count(key, slices)

    async def _count(self, key: Hashable, slices: Slices) -> None:
        count, at = 0, None
        while True:
            more, at = self._panes.count_some(self.partition, key, at, PANES_AT_ONCE)
            count += more
            await self.rest(slices)
            if at is None:
                break
        of = self._of.of(key)
        self.total += count - of.pop(key, 0)
        if count:
            of[key] = count

    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        # It is told in the step of a checkpoint: nothing is counted here.
        for key in (*came, *gone):
            self._stale.of(key)[key] = None

    async def now(self, slices: Slices) -> int:
        """The count, with all that has changed. Raises PartitionMoved."""
        for shard in self._stale.shards():
            while shard:
                key = next(iter(shard))
                del shard[key]
                await self._count(key, slices)
            await self.rest(slices)
        return self.total
