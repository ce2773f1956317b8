"""Lists: the rows of one partition in the order that a query asks for, read one after the other.

A page costs what it returns, whatever the table holds, and nothing here holds the event loop for longer than
a slice. Rows are therefore not all of one checkpoint where a list takes longer than that: each is as new as
the position that was told before, or newer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Hashable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

from streamflow.query.key_order import is_hashable, key_order, key_text
from streamflow.query.list_index import IndexedRows, ListIndex, WindowKeys
from streamflow.query.merging import merged
from streamflow.query.row_query import KeyPattern, RowQuery
from streamflow.query.rows import PartitionMoved, Row
from streamflow.query.slices import Slices
from streamflow.query.sorted_chunks import TOP, Entry, SortedChunks
from streamflow.query.top_rows import first_by_value
from streamflow.state.stores.base import MISSING, NO_WINDOW
from streamflow.windows import SessionWindow, SlidingWindow, Window

SMALL = 500
"""A window of so many rows is put in order whenever it is read."""
ROWS_AT_ONCE = 32
FEW_ROWS = 1_000
FEW_WINDOWS = 500
"""What a query leaves of the windows is read as a whole, and then put in order, if it is no more."""

Bounds = tuple[Entry | None, Entry | None]


class ListedRows(IndexedRows, Protocol):
    """What a list reads of a table's reader, besides."""

    @property
    def lists(self) -> ListIndex: ...

    @property
    def counts_windows(self) -> bool:
        """Does `next_start` take no time that grows with the windows?"""
        ...

    def kept_bounds(self, partition: int, state: str) -> tuple[int, int]:
        """Ids of windows in this state lie at or behind the first, and before the second."""
        ...

    def row(self, partition: int, start: int, key: Hashable, value: object) -> Row: ...

    def stored(self, key: object) -> Any: ...


class Listing:
    """One query over one partition."""

    def __init__(self, reader: ListedRows, partition: int, query: RowQuery, slices: Slices) -> None:
        self._reader = reader
        self._partition = partition
        self._query = query
        self._slices = slices
        self._is_session = isinstance(reader.window, SessionWindow)

    async def rows(self) -> AsyncIterator[Row]:
        """In order, from behind the query's cursor on. Raises PartitionMoved."""
        self.check_owned()
        async for some in self._blocks():
            for row in some:
                yield row

    def _blocks(self) -> AsyncIterator[list[Row]]:
        reader, query = self._reader, self._query
        if query.keys is not None:
            return self._of_keys()
        if query.by is not None and query.limit is not None:
            bounds = None if reader.window is None else self.ids()
            return first_by_value(reader, self._partition, query, bounds, self._slices)
        if reader.window is None:
            return self._window(NO_WINDOW)
        low, high = self.ids()
        if low >= high:
            return nothing()
        whole = not self._query.by_window or self._is_session
        if whole and self._few(low, high):
            return self._gathered(low, high)
        if not self._query.by_window:
            return self._by_key()
        return self._sessions() if self._is_session else self._by_window()

    # -- what is read --------------------------------------------------------------------------

    def check_owned(self) -> None:
        if self._partition not in self._reader.owned:
            raise PartitionMoved(f"partition {self._partition} has moved")

    async def _rest(self) -> None:
        if self._slices.over():
            await self._slices.rest()
        self.check_owned()  # whoever takes the rows may have waited, too

    def _read(self, pairs: Collection[tuple[int, Any]]) -> list[Row]:
        """Those of these rows, by id and key, that the query wants; in one step."""
        reader, partition, wants = self._reader, self._partition, self._query.wants
        found = ((start, key, reader.value(partition, start, key)) for start, key in pairs)
        there = (each for each in found if each[2] is not MISSING)
        rows = (reader.row(partition, start, key, value) for start, key, value in there)
        return [row for row in rows if wants(row)]

    def ids(self) -> tuple[int, int]:
        """The ids of windows that the query may want: at or behind the first, before the second."""
        query, window = self._query, self._reader.window
        low, high = self._reader.kept_bounds(self._partition, query.state)
        if query.at_ms is not None and window is not None:
            low, high = ids_at(window, query.at_ms, low, high)
        if self._is_session:
            return low, high
        if query.start_ms is not None:
            low = max(low, query.start_ms)
        if query.end_ms is not None:
            high = min(high, query.end_ms)
        if query.after is not None and query.by is None and query.by_window:
            low, high = (
                (low, min(high, query.after[0] + 1)) if query.descending else (max(low, query.after[0]), high)
            )
        return low, high

    def _starts(self, low: int, high: int) -> Iterator[int]:
        """Ids within these bounds, in the query's order; others may work between them."""
        down = self._query.descending and self._query.by_window
        start = self._reader.next_start(self._partition, high if down else low - 1, descending=down)
        while start is not None and low <= start < high:
            yield start
            start = self._reader.next_start(self._partition, start, descending=down)

    # -- by window -----------------------------------------------------------------------------

    async def _by_window(self) -> AsyncIterator[list[Row]]:
        low, high = self.ids()
        for start in self._starts(low, high):
            async for rows in self._window(start):
                yield rows
            await self._rest()

    async def _window(self, start: int) -> AsyncIterator[list[Row]]:
        """The rows of one window, by their keys."""
        async for block in self._entries(await self._keys_of(start), self._key_bounds(start)):
            yield self._read([(start, entry[-1]) for entry in block])

    async def _keys_of(self, start: int) -> SortedChunks:
        keys = self._reader.keys(self._partition, start)
        if not isinstance(keys, Collection):
            keys = list(islice(keys, SMALL + 1))
        if len(keys) > SMALL and isinstance(self._reader.window, SlidingWindow):
            # What is committed names panes, not windows: so it is made for this list alone.
            made = WindowKeys(self._reader, self._partition, start)
            await made.make(self._slices)
            return made.order
        if len(keys) > SMALL:
            return (await self._reader.lists.window(self._partition, start, self._slices)).order
        shown = self._reader.shown
        prefix = self._query.prefix
        order = ((*key_order(shown(key)), key) for key in keys)
        if prefix is not None:
            order = ((*key_order(shown(key)), key) for key in keys if key_text(shown(key)).startswith(prefix))
        return SortedChunks([sorted(order)])

    async def _entries(self, order: SortedChunks, bounds: list[Bounds]) -> AsyncIterator[list[Entry]]:
        """Entries within the bounds, in the query's order; ``order`` may change meanwhile."""
        down = self._query.descending
        for low, high in reversed(bounds) if down else bounds:
            while block := order.block(low, high, ROWS_AT_ONCE, descending=down):
                yield block
                await self._rest()
                low, high = (low, block[-1]) if down else ((*block[-1], TOP), high)

    def _key_bounds(self, start: int | None = None) -> list[Bounds]:
        """Between which entries the keys lie that the query wants.

        ``start``: in that window, where the page before may have ended.
        """
        query, after = self._query, None
        if query.after is not None and query.by is None:
            if not query.by_window:
                after = query.after[:3]
            elif start is not None and query.after[0] == (start if self._reader.window is not None else 0):
                after = query.after[1:4]
        bounds: list[Bounds] = []
        within = query.within if query.limits is None else query.limits
        for low, high in prefix_bounds(query.prefix) if within is None else bounds_of(within):
            if query.key_from is not None:
                low = query.key_from if low is None or low < query.key_from else low
            if query.key_to is not None:
                high = _least(high, query.key_to)
            if after is not None and query.descending:
                high = _least(high, (*after, TOP))
            elif after is not None:
                low = after if low is None or low < after else low
            bounds.append((low, high))
        return bounds

    # -- some keys -----------------------------------------------------------------------------

    async def _of_keys(self) -> AsyncIterator[list[Row]]:
        """The rows of the keys that are asked for, of each by its windows, and all of them in order."""
        query = self._query
        assert query.keys is not None
        stored = [key for key in map(self._reader.stored, query.keys.values()) if is_hashable(key)]
        if query.by is not None and query.limit is not None:
            yield await self._best_of(stored, query.limit + 1)
            return
        one = replace(query, keys=None)
        listings = [
            KeyListing(self._reader, self._partition, one, self._slices, key).rows() for key in stored
        ]
        some: list[Row] = []
        async for row in merged(listings, query):
            some.append(row)
            if len(some) == ROWS_AT_ONCE:
                yield some
                some = []
        yield some

    async def _best_of(self, keys: Collection[Hashable], count: int) -> list[Row]:
        """The first rows of a list by value of all rows of some keys."""
        query = self._query
        plain = replace(query, keys=None, by=None, after=None, sort="window", limit=None)
        found: list[Row] = []
        for key in keys:
            listing = KeyListing(self._reader, self._partition, plain, self._slices, key)
            async for row in listing.rows():
                if query.wants(row):
                    found.append(row)
                if len(found) > FEW_ROWS + count:
                    found = query.best(found, count)
        return query.best(found, count)

    # -- by key --------------------------------------------------------------------------------

    async def _by_key(self) -> AsyncIterator[list[Row]]:
        keys = await self._reader.lists.keys(self._partition, self._slices)
        async for block in self._entries(keys.order, self._key_bounds()):
            for entry in block:
                async for rows in self._rows_of(entry, keys.ids(entry[-1])):
                    yield rows

    async def _rows_of(self, entry: Entry, every: list[int]) -> AsyncIterator[list[Row]]:
        """The rows of one key, by their windows."""
        query = self._query
        low, high = self.ids()
        behind = query.by is None and query.after is not None and not query.by_window
        if behind and query.after is not None and entry[:3] == query.after[:3] and not self._is_session:
            low, high = (
                (low, min(high, query.after[3] + 1)) if query.descending else (max(low, query.after[3]), high)
            )
        ids = [start for start in every if low <= start < high]
        if query.descending:
            ids.reverse()
        for at in range(0, len(ids), ROWS_AT_ONCE):
            yield self._read([(start, entry[-1]) for start in ids[at : at + ROWS_AT_ONCE]])
            await self._rest()

    # -- sessions ------------------------------------------------------------------------------

    async def _sessions(self) -> AsyncIterator[list[Row]]:
        query = self._query
        sessions = await self._reader.lists.sessions(self._partition, self._slices)
        low: Entry | None = None if query.start_ms is None else (query.start_ms,)
        high: Entry | None = None if query.end_ms is None else (query.end_ms,)
        if query.after is not None and query.descending:
            high = _least(high, (*query.after[:4], TOP))
        elif query.after is not None:
            after = query.after[:4]
            low = after if low is None or low < after else low
        async for block in self._entries(sessions.order, [(low, high)]):
            yield self._read([(entry[-2], entry[-1]) for entry in block])

    # -- few -----------------------------------------------------------------------------------

    def _few(self, low: int, high: int) -> bool:
        """Do the windows within these bounds hold few rows?"""
        if not self._reader.counts_windows:
            return False
        rows = 0
        for number, start in enumerate(self._starts(low, high)):
            keys = self._reader.keys(self._partition, start)
            rows += len(keys) if isinstance(keys, Collection) else FEW_ROWS
            if number >= FEW_WINDOWS or rows > FEW_ROWS:
                return False
        return True

    async def _gathered(self, low: int, high: int) -> AsyncIterator[list[Row]]:
        found: list[Row] = []
        for start in self._starts(low, high):
            keys = list(self._reader.keys(self._partition, start))
            for at in range(0, len(keys), ROWS_AT_ONCE):
                found += self._read([(start, key) for key in keys[at : at + ROWS_AT_ONCE]])
                await self._rest()
        yield self._query.best(found, self._query.limit and self._query.limit + 1)


class KeyListing(Listing):
    """The rows of one key in one partition."""

    def __init__(
        self, reader: ListedRows, partition: int, query: RowQuery, slices: Slices, key: Hashable
    ) -> None:
        super().__init__(reader, partition, query, slices)
        self._key = key

    def _blocks(self) -> AsyncIterator[list[Row]]:
        return self._of_key()

    async def _of_key(self) -> AsyncIterator[list[Row]]:
        if self._query.by is not None and self._query.limit is not None:
            yield await self._best_of([self._key], self._query.limit + 1)
            return
        entry = (*key_order(self._reader.shown(self._key)), self._key)
        if self._reader.window is None:
            yield self._read([(NO_WINDOW, self._key)])
            return
        low, high = self.ids()
        some = self._looked_for(low, high)
        if some is None:
            some = await ids_of_key(self._reader, self._partition, self._key, self._slices)
        async for rows in self._rows_of(entry, some):
            yield rows

    def _looked_for(self, low: int, high: int) -> list[int] | None:
        """The ids of its windows within these bounds, where there are few windows at all."""
        reader, partition, key = self._reader, self._partition, self._key
        if not reader.counts_windows:
            return None
        found: list[int] = []
        for number, start in enumerate(self._starts(low, high)):
            if number == FEW_WINDOWS:
                return None
            if reader.has(partition, start, key):
                found.append(start)
        return sorted(found)


def ids_at(window: Window, at_ms: int, low: int, high: int) -> tuple[int, int]:
    """Of these bounds of ids what is left of the windows that may hold a time."""
    if isinstance(window, SessionWindow):
        return max(low, at_ms + 1), high  # their ids are their ends
    return max(low, at_ms - window.size_ms + 1), min(high, at_ms + 1)


async def nothing() -> AsyncIterator[list[Row]]:
    yield []


async def ids_of_key(reader: ListedRows, partition: int, key: Hashable, slices: Slices) -> list[int]:
    """The ids of all windows of a key, in order. Raises PartitionMoved."""
    if isinstance(reader.window, SlidingWindow):
        return reader.starts_of(partition, key)
    return (await reader.lists.keys(partition, slices)).ids(key)


async def newest_ids(reader: ListedRows, partition: int, key: Hashable, slices: Slices) -> AsyncIterator[int]:
    """The ids of a key's windows, newest first: mostly the first look finds one. Raises PartitionMoved."""
    start: int | None = None
    known = reader.lists.known_keys(partition)
    if reader.counts_windows and known is None:
        for _ in range(FEW_WINDOWS):
            start = reader.next_start(partition, start, descending=True)
            if start is None:
                return
            if reader.has(partition, start, key):
                yield start
    ids = await ids_of_key(reader, partition, key, slices)
    for older in reversed(ids):
        if start is None or older < start:
            yield older


def prefix_bounds(prefix: str | None) -> list[Bounds]:
    """Between which entries all keys lie whose text begins so; others may lie there, too."""
    if not prefix:
        return [(None, None)]
    end = _after_prefix(prefix)
    # Numbers are in order by what they are, and not by their text.
    texts: list[Bounds] = [((kind, prefix), (kind, end) if end else (kind + 1,)) for kind in (3, 4)]
    return [(None, (3,)), *texts]


def bounds_of(patterns: Collection[KeyPattern]) -> list[Bounds]:
    """The same of several prefixes, or whole texts."""
    texts = sorted(pattern.text for pattern in patterns)
    if not texts or not texts[0]:
        return [(None, None)]
    bounds: list[Bounds] = [(None, (3,))]
    for kind in (3, 4):
        last: str | None = None
        for text in texts:
            if last is None or not text.startswith(last):  # else it lies within that one
                bounds.append(prefix_bounds(text)[kind - 2])
                last = text
    return bounds


def _after_prefix(prefix: str) -> str | None:
    """The least text behind all that begin so; ``None`` where there is none."""
    kept = prefix.rstrip("\U0010ffff")
    return kept[:-1] + chr(ord(kept[-1]) + 1) if kept else None


def _least(high: Entry | None, other: Entry) -> Entry:
    return other if high is None or other < high else high
