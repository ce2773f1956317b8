"""Rows of sliding and of hopping windows, which are not kept: each is made of the panes that are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable
from typing import Any, Protocol

from streamflow.query.reader import TableReaderBase
from streamflow.state.stores.base import MISSING, Rows


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


class SlidingReaderBase(TableReaderBase):
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
