"""What lists need in order to cost what they return: keys in order, made by the first list that asks.

Nothing of it is there while nobody lists, and agents and aggregates tell it nothing: it is kept true by what
each durable checkpoint has changed, and forgotten when nobody has asked for a while, or when partitions move.
It is made in slices; what checkpoints change meanwhile is done to it afterwards, in their order.

Kinds: `WindowKeys`, the keys of one large window; `KeyIds`, all keys of a partition and the ids of their
windows; `SessionStarts`, the sessions of a partition by where they begin, which their ids do not tell.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Collection, Hashable, Iterable
from itertools import islice
from typing import Any, Protocol, TypeVar

from streamflow.clock import Clock
from streamflow.query.row_query import key_order
from streamflow.query.rows import PartitionMoved
from streamflow.query.slices import Slices
from streamflow.query.sorted_chunks import BLOCK, Entry, Sharded, SortedChunks, sorted_in_slices
from streamflow.windows import SlidingWindow, Window

KEPT_MS = 60_000.0
"""So long an index stays that no list asks for."""
WINDOWS_MAX = 64
WALKS_MAX = 20


class IndexedRows(Protocol):
    """What an index reads of a table's reader: ids, keys and rows as they are kept."""

    @property
    def window(self) -> Window | None: ...

    @property
    def owned(self) -> frozenset[int]: ...

    def starts(self, partition: int) -> list[int]: ...

    def keys(self, partition: int, start: int) -> Iterable[Any]: ...

    def has(self, partition: int, start: int, key: Hashable) -> bool: ...

    def begins(self, partition: int, start: int, key: Hashable) -> int: ...

    def starts_of(self, partition: int, key: Hashable) -> list[int]: ...

    def groups(self, partition: int) -> Iterable[Any]:
        """All keys of sliding windows, some of which may have no window any more."""
        ...

    def shown(self, key: Hashable) -> Any: ...

    def kept_ids(self, partition: int) -> list[int]:
        """The ids that rows are kept by: those of windows, or of the panes that windows are made of."""
        ...

    def kept_keys(self, partition: int, kept: int) -> Iterable[Any]:
        """The keys of what is kept by an id of `kept_ids`."""
        ...

    def ids_made_of(self, kept: list[int]) -> list[int]:
        """The ids of the windows that a key may have by what it has kept, in order."""
        ...

    def is_part(self, kept: int, start: int) -> bool:
        """May what is kept by this id make a row of this window?"""
        ...


class RowsIndex(ABC):
    """One index over rows of one partition."""

    def __init__(self, rows: IndexedRows, partition: int) -> None:
        self.rows = rows
        self.partition = partition
        self.used_ms = 0.0
        self._waiting: list[tuple[int, Collection[Any], Collection[Any]]] | None = []  # while it is made

    @property
    def is_made(self) -> bool:
        return self._waiting is None

    @property
    def heard(self) -> int:
        """How many changes wait until it is made."""
        return len(self._waiting or ())

    def entry(self, key: Hashable) -> Entry:
        return (*key_order(self.rows.shown(key)), key)

    async def make(self, slices: Slices) -> None:
        """From here on it hears of every change. Raises PartitionMoved."""
        await self._make(slices)
        waiting, self._waiting = self._waiting, None
        for start, came, gone in waiting or ():
            self._change(start, came, gone)

    def change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        """Rows of one window's id are there (they may have been), and are gone."""
        if self._waiting is None:
            self._change(start, came, gone)
        else:
            self._waiting.append((start, came, gone))

    async def rest(self, slices: Slices) -> None:
        if slices.over():
            await slices.rest()
            if self.partition not in self.rows.owned:
                raise PartitionMoved(f"partition {self.partition} has moved")

    @abstractmethod
    async def _make(self, slices: Slices) -> None: ...

    @abstractmethod
    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None: ...

    async def _ordered(self, keys: Iterable[Any], slices: Slices) -> tuple[SortedChunks, Sharded[Entry]]:
        """Keys in order, and the entry of each. ``keys`` must not change meanwhile."""
        entries: list[Entry] = []
        by_key: Sharded[Entry] = Sharded()
        rest = iter(keys)
        while some := list(islice(rest, BLOCK)):
            for key in some:
                entry = by_key.of(key)[key] = self.entry(key)
                entries.append(entry)
            await self.rest(slices)
        return await sorted_in_slices(entries, slices), by_key

    def _add(self, order: SortedChunks, entries: Sharded[Entry], key: Hashable) -> None:
        mine = entries.of(key)
        if key not in mine:
            entry = mine[key] = self.entry(key)
            order.add(entry)

    def _remove(self, order: SortedChunks, entries: Sharded[Entry], key: Hashable) -> None:
        entry = entries.of(key).pop(key, None)
        if entry is not None:
            order.remove(entry)


class WindowKeys(RowsIndex):
    """The keys of one window, in order."""

    def __init__(self, rows: IndexedRows, partition: int, start: int) -> None:
        super().__init__(rows, partition)
        self.start = start
        self.order = SortedChunks()
        self._entries: Sharded[Entry] = Sharded()

    async def _make(self, slices: Slices) -> None:
        entries: list[Entry] = []
        for number in range(WALKS_MAX):
            keys = self.rows.keys(self.partition, self.start)
            if await self._walk(list(keys) if number == WALKS_MAX - 1 else keys, entries, slices):
                break
        self.order = await sorted_in_slices(entries, slices)

    async def _walk(self, keys: Iterable[Any], entries: list[Entry], slices: Slices) -> bool:
        """Takes those that are not there yet. False: a checkpoint may have changed them under way.

        Not from a list of all of them: to make and to free one of a million is a stop of its own.
        """
        heard, rest = self.heard, iter(keys)
        while some := list(islice(rest, BLOCK)):
            for key in some:
                mine = self._entries.of(key)
                if key not in mine:
                    entry = mine[key] = self.entry(key)
                    entries.append(entry)
            await self.rest(slices)
            if self.heard != heard and not isinstance(keys, list):
                return False
        return True

    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        if not self.rows.is_part(start, self.start):
            return
        for key in came:
            self._add(self.order, self._entries, key)
        for key in gone:
            self._remove(self.order, self._entries, key)


class KeyIds(RowsIndex):
    """All keys in order, and by which ids each has rows. Sliding windows are asked for theirs."""

    def __init__(self, rows: IndexedRows, partition: int) -> None:
        super().__init__(rows, partition)
        self.order = SortedChunks()
        self._entries: Sharded[Entry] = Sharded()
        self._ids: Sharded[list[int]] = Sharded()
        self._is_sliding = isinstance(rows.window, SlidingWindow)

    def ids(self, key: Hashable) -> list[int]:
        if self._is_sliding:
            return self.rows.starts_of(self.partition, key)
        return self.rows.ids_made_of(self._ids.of(key).get(key, []))

    async def _make(self, slices: Slices) -> None:
        if self._is_sliding:
            keys = list(self.rows.groups(self.partition))
        else:
            keys = []
            for start in self.rows.kept_ids(self.partition):
                rest = iter(list(self.rows.kept_keys(self.partition, start)))
                while some := list(islice(rest, BLOCK)):
                    for key in some:
                        mine = self._ids.of(key)
                        if key in mine:
                            mine[key].append(start)
                        else:
                            mine[key] = [start]
                            keys.append(key)
                    await self.rest(slices)
        self.order, self._entries = await self._ordered(keys, slices)

    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        for key in came:
            self._add(self.order, self._entries, key)
            if not self._is_sliding:
                ids = self._ids.of(key).setdefault(key, [])
                if not ids or start > ids[-1]:
                    ids.append(start)
                elif ids[bisect_left(ids, start)] != start:
                    insort(ids, start)
        for key in gone:
            if key in self._entries and not self._left(start, key):
                self._remove(self.order, self._entries, key)

    def _left(self, start: int, key: Hashable) -> bool:
        """Takes the id from the key; has it others?"""
        if self._is_sliding:
            return bool(self.rows.starts_of(self.partition, key))
        ids = self._ids.of(key)[key]
        at = bisect_left(ids, start)
        if at < len(ids) and ids[at] == start:
            del ids[at]
        if not ids:
            del self._ids.of(key)[key]
        return bool(ids)


class SessionStarts(RowsIndex):
    """Sessions as (start, key's order, end, key), in order."""

    def __init__(self, rows: IndexedRows, partition: int) -> None:
        super().__init__(rows, partition)
        self.order = SortedChunks()
        self._entries: Sharded[Entry] = Sharded()

    async def _make(self, slices: Slices) -> None:
        entries: list[Entry] = []
        for end in self.rows.starts(self.partition):
            for key in list(self.rows.keys(self.partition, end)):
                if self.rows.has(self.partition, end, key):  # it may have grown while others worked
                    entry = self._entries.of((end, key))[end, key] = self._entry(end, key)
                    entries.append(entry)
            await self.rest(slices)
        self.order = await sorted_in_slices(entries, slices)

    def _entry(self, end: int, key: Hashable) -> Entry:
        *order, kept = self.entry(key)
        return (self.rows.begins(self.partition, end, key), *order, end, kept)

    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        for key in (*came, *gone):
            self._remove(self.order, self._entries, (start, key))
        for key in came:
            if self.rows.has(self.partition, start, key):
                entry = self._entries.of((start, key))[start, key] = self._entry(start, key)
                self.order.add(entry)


I = TypeVar("I", bound=RowsIndex)  # noqa: E741


class ListIndex:
    """The indexes of one table."""

    def __init__(self, rows: IndexedRows, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock
        self._made: dict[tuple[int, type[RowsIndex], int], RowsIndex] = {}
        self._making = asyncio.Lock()  # one at a time: slices of several would be one long one
        self._generation = 0

    @property
    def active(self) -> bool:
        """Must it be told of changes?"""
        return bool(self._made)

    async def window(self, partition: int, start: int, slices: Slices) -> WindowKeys:
        """The keys of one window. Raises PartitionMoved."""
        at = (partition, WindowKeys, start)
        return await self._get(at, WindowKeys(self._rows, partition, start), slices)

    async def keys(self, partition: int, slices: Slices) -> KeyIds:
        """The keys of a partition. Raises PartitionMoved."""
        return await self._get((partition, KeyIds, 0), KeyIds(self._rows, partition), slices)

    async def sessions(self, partition: int, slices: Slices) -> SessionStarts:
        """The sessions of a partition. Raises PartitionMoved."""
        return await self._get((partition, SessionStarts, 0), SessionStarts(self._rows, partition), slices)

    def known_keys(self, partition: int) -> KeyIds | None:
        """`keys`, if somebody has asked for them before."""
        found = self._made.get((partition, KeyIds, 0))
        return found if isinstance(found, KeyIds) and found.is_made else None

    async def _get(self, at: tuple[int, type[RowsIndex], int], new: I, slices: Slices) -> I:
        found = self._made.get(at)
        if found is None or not found.is_made:
            async with self._making:
                found = self._made.get(at)
                if found is None:
                    found = await self._make(at, new, slices)
        assert isinstance(found, type(new))
        found.used_ms = self._clock.monotonic_ms()
        return found

    async def _make(self, at: tuple[int, type[RowsIndex], int], new: I, slices: Slices) -> I:
        generation = self._generation
        self._forget_unused()
        self._made[at] = new
        new.used_ms = self._clock.monotonic_ms()
        try:
            await new.make(slices)
        except BaseException:
            if self._made.get(at) is new:
                del self._made[at]
            raise
        if generation != self._generation:
            raise PartitionMoved(f"partition {at[0]} has moved")
        return new

    def _forget_unused(self) -> None:
        least_ms = self._clock.monotonic_ms() - KEPT_MS
        kept = {at: each for at, each in self._made.items() if each.used_ms > least_ms}
        windows = [at for at in kept if at[1] is WindowKeys]
        for at in sorted(windows, key=lambda at: kept[at].used_ms)[: max(0, len(windows) - WINDOWS_MAX + 1)]:
            del kept[at]
        self._made = kept

    def change(self, partition: int, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        """A durable checkpoint has written these rows of a window's id, and taken those away."""
        for (of, _, _), each in self._made.items():
            if of == partition:
                each.change(start, came, gone)

    def checked(self) -> None:
        """Told with each checkpoint: what nobody asks for any more is forgotten."""
        if self._made:
            self._forget_unused()

    def forget(self) -> None:
        """Rows went, or came back."""
        self._made = {}
        self._generation += 1
