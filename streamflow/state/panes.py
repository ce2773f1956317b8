"""Sliding windows, from the panes of 1 ms that they are made of.

Which sliding windows there are, the times of the events decide; what is in them, the panes of those
times. So only panes are kept, sent and restored, one for each key and time, and windows are put
together where somebody reads or closes them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from streamflow.state.partition import TablePartition
from streamflow.state.stores.base import DELETED
from streamflow.windows import SlidingWindow

Pane = Mapping[int | None, Any]
"""``after_ms`` -> state: see `streamflow.folds.PaneValues`."""
_IN_TIME = {None}
Lookup = Callable[[int, Any], Iterable[Pane]]
"""(time, group) -> the panes there are, one for each source"""


class Panes:
    """The times of each group's panes, in order."""

    __slots__ = ("_groups", "_order", "_times", "expired_to_ms")

    def __init__(self) -> None:
        self.expired_to_ms: int | None = None  # up to here it was told which windows expired
        self._groups: dict[int, dict[Any, None]] = {}  # time -> groups
        self._order: list[int] = []
        self._times: dict[Any, list[int]] = {}  # group -> times

    def add(self, time_ms: int, group: Any) -> None:
        groups = self._groups.get(time_ms)
        if groups is None:
            groups = self._groups[time_ms] = {}
            _insert(self._order, time_ms)
        if group not in groups:
            groups[group] = None
            _insert(self._times.setdefault(group, []), time_ms)

    def drop(self, time_ms: int, groups: Iterable[Any]) -> None:
        """Forgets panes of one time."""
        there = self._groups.get(time_ms)
        if there is None:
            return
        for group in groups:
            if group in there:
                del there[group]
                times = self._times[group]
                del times[bisect_left(times, time_ms)]
                if not times:
                    del self._times[group]
        if not there:
            del self._groups[time_ms]
            del self._order[bisect_left(self._order, time_ms)]

    def times_of(self, group: Any, first_ms: int, end_ms: int) -> list[int]:
        """The group's times within ``[first, end)``."""
        times = self._times.get(group, [])
        return times[bisect_left(times, first_ms) : bisect_left(times, end_ms)]

    def between(self, first_ms: int, end_ms: int) -> list[int]:
        """All times within ``[first, end)``."""
        return self._order[bisect_left(self._order, first_ms) : bisect_left(self._order, end_ms)]

    def groups_at(self, time_ms: int) -> Iterable[Any]:
        return self._groups.get(time_ms, ())

    def times(self) -> list[int]:
        return self._order

    def groups(self) -> Iterable[Any]:
        return self._times


class SlidingRows:
    """The windows that panes make. ``lookup`` says which panes there are: those of the index may be gone."""

    __slots__ = ("_lookup", "_panes", "_size_ms")

    def __init__(self, window: SlidingWindow, panes: Panes, lookup: Lookup) -> None:
        self._size_ms = window.size_ms
        self._panes = panes
        self._lookup = lookup

    def states(self, start: int, group: Any) -> list[Any]:
        """The states to be merged to the window's row; none where there is no such window."""
        return self.content(start, group) if self._exists(start, group) else []

    def content(self, start: int, group: Any) -> list[Any]:
        """The states of the events that would count in this window, whether it is one or not."""
        return list(self._states(start, group))

    def _states(self, start: int, group: Any) -> Iterator[Any]:
        end = start + self._size_ms
        for time_ms in self._panes.times_of(group, start, end):
            for pane in self._lookup(time_ms, group):
                for after_ms, state in pane.items():
                    if after_ms is None or end > after_ms:
                        yield state

    def is_there(self, start: int, group: Any) -> bool:
        """Is there such a window?"""
        return self._exists(start, group) and any(True for _ in self._states(start, group))

    def _exists(self, start: int, group: Any) -> bool:
        """Does it end with an event that came in time, or begin right after one?"""
        last = self._lookup(start + self._size_ms - 1, group)
        return any(None in pane for pane in last) or any(True for _ in self._lookup(start - 1, group))

    def starts(self) -> list[int]:
        """Starts of all windows there may be, oldest first."""
        times, size = self._panes.times(), self._size_ms
        return sorted({start for t in times for start in (t - size + 1, t + 1)})

    def count(self, first: int | None) -> int:
        """How many windows there are that begin at ``first`` or later; ``None``: all."""
        return sum(self._count(group, first) for group in self._panes.groups())

    def _count(self, group: Any, first: int | None) -> int:
        size = self._size_ms
        least = -(1 << 62) if first is None else first
        times = []
        for t in self._panes.times_of(group, least - 1, 1 << 62):
            panes = list(self._lookup(t, group))
            if any(pane.keys() != _IN_TIME for pane in panes):
                return sum(1 for start in self.starts_of(group) if start >= least)
            if panes:
                times.append(t)
        # Each time ends a window. One begins right after it where an event follows soon enough, unless
        # that is the one which ends with another.
        own = set(times)
        ending = len(times) - bisect_left(times, least + size - 1)
        return ending + sum(following <= t + size and t + size not in own for t, following in pairwise(times))

    def groups_at(self, start: int) -> list[Any]:
        """The groups that have this window."""
        candidates = dict.fromkeys(self._panes.groups_at(start + self._size_ms - 1))
        candidates |= dict.fromkeys(self._panes.groups_at(start - 1))
        return [group for group in candidates if self.is_there(start, group)]

    def starts_of(self, group: Any) -> list[int]:
        """Starts of the windows of one group, oldest first."""
        times = self._panes.times_of(group, -(1 << 62), 1 << 62)
        starts = sorted({start for t in times for start in (t - self._size_ms + 1, t + 1)})
        return [start for start in starts if self.is_there(start, group)]

    def touched_by(self, time_ms: int, group: Any) -> list[int]:
        """Starts of the windows that an event of this time may have changed."""
        size = self._size_ms
        times = self._panes.times_of(group, time_ms - size, time_ms + size)
        starts = {start for t in times for start in (t - size + 1, t + 1)}
        return sorted(s for s in starts if time_ms - size < s <= time_ms + 1 and self.is_there(s, group))

    def ending(self, first_ms: int | None, end_ms: int) -> Iterator[tuple[int, list[Any]]]:
        """(start, groups) of the windows whose end lies within ``[first, end)``, in order."""
        size = self._size_ms
        starts: set[int] = set()
        least = -(1 << 62) if first_ms is None else first_ms
        starts.update(t - size + 1 for t in self._panes.between(least - 1, end_ms - 1))
        starts.update(t + 1 for t in self._panes.between(least - 1 - size, end_ms - 1 - size))
        for start in sorted(starts):
            groups = self.groups_at(start)
            if groups:
                yield start, groups


def row_ids(part: TablePartition) -> Iterator[tuple[int, Any]]:
    """(window's id, key) of every row of all layers, each once: what indexes are made of."""
    hidden: set[tuple[int, Any]] = set()
    for layer in (part.changes, part.cut or {}):
        for start, rows in layer.items():
            for key, value in rows.items():
                if (start, key) not in hidden:
                    hidden.add((start, key))
                    if value is not DELETED:
                        yield start, key
    for start, key, _ in part.store.scan():
        if (start, key) not in hidden:
            yield start, key


def _insert(times: list[int], time_ms: int) -> None:
    if not times or time_ms > times[-1]:
        times.append(time_ms)
    else:
        insort(times, time_ms)
