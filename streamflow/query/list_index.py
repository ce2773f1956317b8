"""What lists need in order to cost what they return: keys in order, made by the first list that asks.

Nothing of it is there while nobody lists, and agents and aggregates tell it nothing: it is kept true by what
each durable checkpoint has changed, and forgotten when nobody has asked for a while, or when partitions move.
It is made in slices; what checkpoints change meanwhile is done to it afterwards, in their order.

Kinds: `WindowKeys`, the keys of one large window; `KeyIds`, all keys of a partition and the ids of their
windows; `SessionStarts`, the sessions of a partition by where they begin, which their ids do not tell;
`top_rows.TopRows`, the first rows by a value; `sliding_count.SlidingCount`.
"""

from __future__ import annotations

import asyncio
import gc
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left, insort
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Protocol, TypeVar

from streamflow.clock import Clock
from streamflow.query.key_order import key_order
from streamflow.query.rows import PartitionMoved
from streamflow.query.slices import Slices
from streamflow.query.sorted_chunks import BLOCK, Entry, Sharded, SortedChunks, sorted_in_slices
from streamflow.windows import SlidingWindow, Window

KEPT_MS = 60_000.0
"""So long an index stays that no list asks for."""
WINDOWS_MAX = 64
TOPS_MAX = 16
SKIPPED = 20_000  # keys that are passed over between two looks at the clock


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

    def value(self, partition: int, start: int, key: Hashable) -> Any: ...

    def next_start(self, partition: int, start: int | None, *, descending: bool = False) -> int | None: ...

    def starts_of(self, partition: int, key: Hashable) -> list[int]: ...

    def groups(self, partition: int) -> Iterable[Any]:
        """All keys of sliding windows, some of which may have no window any more."""
        ...

    def shown(self, key: Hashable) -> Any: ...

    @property
    def kept_as_panes(self) -> bool:
        """Are these ids those of panes?"""
        ...

    def next_kept(self, partition: int, kept: int | None) -> int | None:
        """The next id that rows are kept by: that of a window, or of a pane that windows are made of."""
        ...

    def kept_keys(self, partition: int, kept: int) -> Iterable[Any]:
        """The keys of what is kept by an id of `next_kept`."""
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
        self._gone = 0  # rows that went meanwhile

    @property
    def is_made(self) -> bool:
        return self._waiting is None

    def use(self, now_ms: float) -> None:
        """It is asked now."""
        self.used_ms = now_ms

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
            self._gone += len(gone)

    def _window(self, start: int, slices: Slices) -> AsyncIterator[list[Any]]:
        """`_walk` over the keys of one window."""
        return self._walk(lambda: self.rows.keys(self.partition, start), slices)

    async def _walk(self, keys: Callable[[], Iterable[Any]], slices: Slices) -> AsyncIterator[list[Any]]:
        """Keys in blocks, while it is made. What went may be among them, and some may come twice.

        Not from a list of all of them: to make and to free one of a million is a stop of its own. A dict that
        has changed is entered anew, behind what was passed: what went before it has moved the rest forward.
        """
        passed = 0
        while True:
            heard, gone = self.heard, self._gone
            rest, skipped = iter(keys()), 0
            while skipped < passed and self.heard == heard:
                step = min(SKIPPED, passed - skipped)
                next(islice(rest, step - 1, step), None)
                skipped += step
                await self.rest(slices)
            while self.heard == heard and (some := self._block(rest)):
                passed += len(some)
                yield some
                await self.rest(slices)
            if self.heard == heard:
                return
            passed = max(0, passed - (self._gone - gone))

    def _block(self, keys: Iterator[Any]) -> list[Any]:
        try:
            return list(islice(keys, BLOCK))
        except RuntimeError as exc:  # of a standby nobody tells what changes
            raise PartitionMoved(f"the rows of partition {self.partition} change") from exc

    async def rest(self, slices: Slices) -> None:
        if slices.over():
            # What an index is made of is looked at while it is young and little: a hundred thousand new
            # tuples at once are a stop, a million that the collector still follows are one of 100 ms.
            gc.collect(0)
            await slices.rest()
            if self.partition not in self.rows.owned:
                raise PartitionMoved(f"partition {self.partition} has moved")

    @abstractmethod
    async def _make(self, slices: Slices) -> None: ...

    @abstractmethod
    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None: ...

    async def _ordered(self, keys: list[Hashable], slices: Slices) -> SortedChunks:
        """Keys in order; ``keys`` is empty afterwards."""
        entries: list[Entry] = []
        while keys:
            entries += map(self.entry, keys[-BLOCK:])
            del keys[-BLOCK:]  # to free all of them at the end would be a stop
            await self.rest(slices)
        return await sorted_in_slices(entries, slices)

    def _add(self, order: SortedChunks, there: Sharded[None], key: Hashable) -> None:
        mine = there.of(key)
        if key not in mine:
            mine[key] = None
            order.add(self.entry(key))

    def _remove(self, order: SortedChunks, there: Sharded[None], key: Hashable) -> None:
        mine = there.of(key)
        if key in mine:
            del mine[key]
            order.remove(self.entry(key))


class WindowKeys(RowsIndex):
    """The keys of one window, in order."""

    def __init__(self, rows: IndexedRows, partition: int, start: int) -> None:
        super().__init__(rows, partition)
        self.start = start
        self.order = SortedChunks()
        self._there: Sharded[None] = Sharded()

    async def _make(self, slices: Slices) -> None:
        entries: list[Entry] = []
        async for some in self._window(self.start, slices):
            for key in some:
                mine = self._there.of(key)
                if key not in mine:
                    mine[key] = None
                    entries.append(self.entry(key))
        self.order = await sorted_in_slices(entries, slices)

    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        if not self.rows.is_part(start, self.start):
            return
        for key in came:
            self._add(self.order, self._there, key)
        for key in gone:
            self._remove(self.order, self._there, key)


class KeyIds(RowsIndex):
    """All keys in order, and by which ids each has rows. Sliding windows are asked for theirs."""

    def __init__(self, rows: IndexedRows, partition: int) -> None:
        super().__init__(rows, partition)
        self.order = SortedChunks()
        self._there: Sharded[None] = Sharded()
        self._ids: Sharded[array[int]] = Sharded()
        self._is_sliding = isinstance(rows.window, SlidingWindow)

    def ids(self, key: Hashable) -> list[int]:
        if self._is_sliding:
            return self.rows.starts_of(self.partition, key)
        return self.rows.ids_made_of(list(self._ids.of(key).get(key, ())))

    async def _make(self, slices: Slices) -> None:
        keys: list[Hashable] = []
        if self._is_sliding:
            async for some in self._walk(lambda: self.rows.groups(self.partition), slices):
                keys += some
            keys = list(dict.fromkeys(keys)) if self._gone else keys
        start = None if self._is_sliding else self.rows.next_kept(self.partition, None)
        while start is not None:
            async for some in self._walk(partial(self.rows.kept_keys, self.partition, start), slices):
                for key in some:
                    ids = self._ids.of(key).get(key)
                    if ids is None:
                        self._ids.of(key)[key] = array("q", (start,))
                        keys.append(key)
                    elif ids[-1] != start:
                        ids.append(start)
            start = self.rows.next_kept(self.partition, start)
        for at in range(0, len(keys), BLOCK):
            for key in keys[at : at + BLOCK]:
                self._there.of(key)[key] = None
            await self.rest(slices)
        self.order = await self._ordered(keys, slices)

    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        for key in came:
            self._add(self.order, self._there, key)
            if not self._is_sliding:
                ids = self._ids.of(key).setdefault(key, array("q"))
                if not ids or start > ids[-1]:
                    ids.append(start)
                elif ids[bisect_left(ids, start)] != start:
                    insort(ids, start)
        for key in gone:
            if key in self._there and not self._left(start, key):
                self._remove(self.order, self._there, key)

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
        end = self.rows.next_start(self.partition, None)
        while end is not None:
            async for some in self._window(end, slices):
                for key in some:
                    mine = self._entries.of((end, key))
                    # It may have grown while others worked.
                    if (end, key) not in mine and self.rows.has(self.partition, end, key):
                        entry = mine[end, key] = self._entry(end, key)
                        entries.append(entry)
            end = self.rows.next_start(self.partition, end)
        self.order = await sorted_in_slices(entries, slices)

    def _entry(self, end: int, key: Hashable) -> Entry:
        *order, kept = self.entry(key)
        return (self.rows.begins(self.partition, end, key), *order, end, kept)

    def _change(self, start: int, came: Collection[Any], gone: Collection[Any]) -> None:
        for key in (*came, *gone):
            entry = self._entries.of((start, key)).pop((start, key), None)
            if entry is not None:
                self.order.remove(entry)
        for key in came:
            if self.rows.has(self.partition, start, key):
                entry = self._entries.of((start, key))[start, key] = self._entry(start, key)
                self.order.add(entry)


I = TypeVar("I", bound=RowsIndex)  # noqa: E741
IndexId = tuple[int, type[RowsIndex], Hashable]
"""(partition, kind, which of that kind)"""


class BoundedRows(RowsIndex):
    """An index that holds few rows: there may be several, but not any number."""


class ListIndex:
    """The indexes of one table."""

    _MOST: ClassVar[Sequence[tuple[type, int]]] = ((WindowKeys, WINDOWS_MAX), (BoundedRows, TOPS_MAX))

    def __init__(self, rows: IndexedRows, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock
        self._made: dict[IndexId, RowsIndex] = {}
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

    async def kept(self, which: Hashable, new: I, slices: Slices) -> I:
        """The index of another kind that is kept as ``which``; ``new`` is made where there is none yet.

        Raises PartitionMoved.
        """
        return await self._get((new.partition, type(new), which), new, slices)

    def drop(self, which: Hashable, index: RowsIndex) -> None:
        """It is of no use any more."""
        at = (index.partition, type(index), which)
        if self._made.get(at) is index:
            del self._made[at]

    async def once(self, new: I, slices: Slices) -> I:
        """Makes an index that is not kept. Raises PartitionMoved."""
        async with self._making:
            at = (new.partition, type(new), id(new))
            try:
                return await self._make(at, new, slices)
            finally:
                self._made.pop(at, None)

    def known_keys(self, partition: int) -> KeyIds | None:
        """`keys`, if somebody has asked for them before."""
        found = self._made.get((partition, KeyIds, 0))
        return found if isinstance(found, KeyIds) and found.is_made else None

    async def _get(self, at: IndexId, new: I, slices: Slices) -> I:
        found = self._made.get(at)
        if found is None or not found.is_made:
            async with self._making:
                found = self._made.get(at)
                if found is None:
                    found = await self._make(at, new, slices)
        assert isinstance(found, type(new))
        found.use(self._clock.monotonic_ms())
        return found

    async def _make(self, at: IndexId, new: I, slices: Slices) -> I:
        generation = self._generation
        self._forget_unused()
        self._made[at] = new
        new.use(self._clock.monotonic_ms())
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
        for kind, most in self._MOST:
            mine = sorted((at for at in kept if issubclass(at[1], kind)), key=lambda at: kept[at].used_ms)
            for at in mine[: max(0, len(mine) - most + 1)]:
                if kept[at].is_made:
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
