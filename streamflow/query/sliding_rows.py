"""Rows of sliding and of hopping windows, which are not kept: each is made of the panes that are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable
from typing import Any, Protocol

from streamflow.query.counting import SlidingCount
from streamflow.query.reader import TableReaderBase
from streamflow.query.row_query import RowQuery
from streamflow.query.rows import PartitionMoved
from streamflow.query.slices import Slices
from streamflow.state.panes import SlidingRows
from streamflow.state.stores.base import MISSING, Rows

FEW_PANES = 500
"""The windows of so many are counted whenever somebody asks."""


class RowsOfPanes(Protocol):
    """What a reader asks of the windows that panes make; see `state.panes.SlidingRows`."""

    def starts(self, first: int | None = None) -> list[int]: ...

    def starts_of(self, key: Hashable, /) -> list[int]: ...

    def is_there(self, start: int, key: Hashable, /) -> bool: ...

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None: ...

    def all_groups(self) -> Iterable[Any]: ...

    def groups_at(self, start: int) -> Iterable[Any]: ...

    def states(self, start: int, key: Hashable, /) -> list[Any]: ...

    def touched_by(self, time_ms: int, key: Hashable, /) -> list[int]: ...


class PanedReader(TableReaderBase):
    """Of large tables how many windows their panes make is counted in slices, and known from then on."""

    _counted: dict[int, int] | None = None  # partition -> windows, as they were counted last

    @abstractmethod
    def panes_in(self, partition: int) -> int:
        """How many panes an owned partition has."""

    @abstractmethod
    def count_windows(self, partition: int) -> int:
        """How many windows they make; it takes its time."""

    @abstractmethod
    def count_some(
        self, partition: int, key: Hashable, from_ms: int | None, most: int
    ) -> tuple[int, int | None]: ...

    def rows_in(self, partition: int) -> int | None:
        return None if self.panes_in(partition) > FEW_PANES else self.count_windows(partition)

    def row_count(self) -> int:
        """As it was counted last, where there are many."""
        few = {partition: self.rows_in(partition) for partition in self.owned}
        known = self._counted or {}
        return sum(known.get(p, 0) if count is None else count for p, count in few.items())

    async def count_rows(self) -> int:
        slices, known = Slices(self.engine.clock), {}
        for partition in sorted(self.owned):
            try:
                if self.rows_in(partition) is None:
                    known[partition] = await self._counted_now(partition, slices)
            except (PartitionMoved, KeyError):
                continue  # it has moved meanwhile
        self._counted = known
        return self.row_count()

    async def _counted_now(self, partition: int, slices: Slices) -> int:
        count = await self.lists.kept("count", SlidingCount(self, partition), slices)
        return await count.now(slices)

    async def counted(self, partition: int, query: RowQuery) -> int:
        if query.is_plain and partition in self.owned and self.rows_in(partition) is None:
            return await self._counted_now(partition, Slices(self.engine.clock))
        return await super().counted(partition, query)


class RowsOfPanesBase(TableReaderBase):
    """Rows that are made of panes."""

    @abstractmethod
    def _sliding(self, partition: int) -> RowsOfPanes: ...

    @abstractmethod
    def _expired_to_ms(self, partition: int) -> int | None: ...

    @abstractmethod
    def _value_of(self, states: list[Any]) -> Any: ...

    def _first_kept(self, partition: int) -> int | None:
        to_ms = self._expired_to_ms(partition)
        return None if to_ms is None or self.window is None else self.window.first_kept_start(to_ms)

    def _is_kept(self, partition: int, start: int) -> bool:
        first = self._first_kept(partition)
        return first is None or start >= first

    def starts(self, partition: int) -> list[int]:
        return self._sliding(partition).starts(self._first_kept(partition))

    def starts_of(self, partition: int, key: Hashable) -> list[int]:
        try:
            starts = self._sliding(partition).starts_of(key)
        except TypeError:
            return []
        return [start for start in starts if self._is_kept(partition, start)]

    @property
    def counts_windows(self) -> bool:
        return False

    def has(self, partition: int, start: int, key: Hashable) -> bool:
        return self._is_kept(partition, start) and self._sliding(partition).is_there(start, key)

    def next_start(self, partition: int, start: int | None, *, descending: bool = False) -> int | None:
        return self._sliding(partition).next_start(start, descending=descending)

    def groups(self, partition: int) -> Iterable[Any]:
        return self._sliding(partition).all_groups()

    def kept_bounds(self, partition: int, state: str) -> tuple[int, int]:
        low, high = super().kept_bounds(partition, state)
        first = self._first_kept(partition)
        return low if first is None else max(low, first), high

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self._sliding(partition).groups_at(start)

    def value(self, partition: int, start: int, key: Hashable) -> Any:
        states = self._sliding(partition).states(start, key) if self._is_kept(partition, start) else []
        return self._value_of(states) if states else MISSING

    def changed(self, partition: int, rows: Rows) -> Rows:
        sliding = self._sliding(partition)
        found: Rows = {}
        for time_ms, of in rows.items():
            for key in of:
                for start in sliding.touched_by(time_ms, key):
                    found.setdefault(start, {})[key] = None
        return found


class SlidingReaderBase(PanedReader, RowsOfPanesBase):
    """Rows of sliding windows."""

    @abstractmethod
    def _sliding(self, partition: int) -> SlidingRows[Hashable]: ...

    def count_windows(self, partition: int) -> int:
        return self._sliding(partition).count(self._first_kept(partition))

    def count_some(
        self, partition: int, key: Hashable, from_ms: int | None, most: int
    ) -> tuple[int, int | None]:
        return self._sliding(partition).count_some(key, self._first_kept(partition), from_ms, most)
