"""Sliding windows, from the panes of 1 ms that they are made of.

Which sliding windows there are, the times of the events decide; what is in them, the panes of those
times. So only panes are kept, sent and restored, one for each key and time, and windows are put
together where somebody reads or closes them. That is so for agents' tables, for the partial side of
aggregates and for the final stage alike.

A pane is that of pane-based sliding windows: Li, Maier, Tufte, Papadimos and Tucker, "No Pane, No Gain:
Efficient Evaluation of Sliding-Window Aggregates over Data Streams", SIGMOD Record 34(1), 2005. It is not
the pane of Beam, which is one of the results that a window gives, early, on time or late.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import islice, pairwise
from typing import Any, Generic, TypeVar

from streamflow.state.partition import TablePartition
from streamflow.state.stores.base import MISSING
from streamflow.state.two_stacks import Merging, TwoStacks
from streamflow.windows import SlidingWindow

Pane = Mapping[int | None, Any]
"""``after_ms`` -> state of the events that came at it.

Such events count in windows that end after ``after_ms`` only, the others were closed when they came;
``None`` is for those that came within the grace, which count in every window that holds them.
"""
_IN_TIME = {None}
_FIRST_MS, _END_MS = -(1 << 62), 1 << 62
K = TypeVar("K", bound=Hashable)
Lookup = Callable[[int, K], Iterable[Pane]]
"""(time, group) -> the panes there are, one for each source"""


def first_end_of(time_ms: int, after_ms: int | None) -> int:
    """Where the first window may end that an event counts in which came at ``after_ms``."""
    return time_ms + 1 if after_ms is None else max(time_ms, after_ms) + 1


class PaneIndex(Generic[K]):
    """The times of each group's panes, in order. A `RowIndex`; the id of a pane is its time."""

    __slots__ = ("_expired_to_ms", "_groups", "_order", "_times")

    def __init__(self) -> None:
        self._expired_to_ms: int | None = None  # up to here it was told which windows expired
        self._groups: dict[int, dict[K, None]] = {}  # time -> groups
        self._order: list[int] = []
        self._times: dict[K, list[int]] = {}  # group -> times

    def add(self, start: int, key: K) -> None:
        groups = self._groups.get(start)
        if groups is None:
            groups = self._groups[start] = {}
            _insert(self._order, start)
        if key not in groups:
            groups[key] = None
            _insert(self._times.setdefault(key, []), start)

    def drop(self, start: int, keys: Iterable[K]) -> None:
        there = self._groups.get(start)
        if there is None:
            return
        for key in keys:
            if key in there:
                del there[key]
                times = self._times[key]
                del times[bisect_left(times, start)]
                if not times:
                    del self._times[key]
        if not there:
            del self._groups[start]
            del self._order[bisect_left(self._order, start)]

    def expire_to(self, watermark_ms: int) -> int | None:
        """Notes up to where it was told which windows expired; returns up to where that was before."""
        before_ms, self._expired_to_ms = self._expired_to_ms, watermark_ms
        return before_ms

    def times_of(self, group: K, first_ms: int, end_ms: int) -> list[int]:
        """The group's times within ``[first, end)``."""
        times = self._times.get(group, [])
        return times[bisect_left(times, first_ms) : bisect_left(times, end_ms)]

    def each_of(self, group: K, first_ms: int, end_ms: int) -> Iterator[int]:
        """`times_of`, one by one: for who may need the first of them only."""
        times = self._times.get(group, ())
        for at in range(bisect_left(times, first_ms), len(times)):
            if times[at] >= end_ms:
                return
            yield times[at]

    def between(self, first_ms: int, end_ms: int) -> list[int]:
        """All times within ``[first, end)``."""
        return self._order[bisect_left(self._order, first_ms) : bisect_left(self._order, end_ms)]

    def before(self, end_ms: int) -> list[int]:
        """All times before this one."""
        return self._order[: bisect_left(self._order, end_ms)]

    def groups_at(self, time_ms: int) -> Iterable[K]:
        return self._groups.get(time_ms, ())

    def times(self) -> list[int]:
        return self._order

    def groups(self) -> Iterable[K]:
        return self._times


class SlidingRows(Generic[K]):
    """The windows that panes make. ``lookup`` says which panes there are: those of the index may be gone."""

    __slots__ = ("_lookup", "_panes", "_size_ms", "_window")

    def __init__(self, window: SlidingWindow, panes: PaneIndex[K], lookup: Lookup[K]) -> None:
        self._window = window
        self._size_ms = window.size_ms
        self._panes = panes
        self._lookup = lookup

    def states(self, start: int, group: K) -> list[Any]:
        """The states to be merged to the window's row; none where there is no such window."""
        return self.content(start, group) if self._exists(start, group) else []

    def content(self, start: int, group: K) -> list[Any]:
        """The states of the events that would count in this window, whether it is one or not."""
        return list(self._states(start, group))

    def _states(self, start: int, group: K) -> Iterator[Any]:
        end = start + self._size_ms
        for time_ms in self._panes.each_of(group, start, end):
            for pane in self._lookup(time_ms, group):
                for after_ms, state in pane.items():
                    if after_ms is None or end > after_ms:
                        yield state

    def is_there(self, start: int, group: K) -> bool:
        """Is there such a window?"""
        return self._exists(start, group) and any(True for _ in self._states(start, group))

    def _exists(self, start: int, group: K) -> bool:
        """Does it end with an event that came in time, or begin right after one?"""
        last = self._lookup(start + self._size_ms - 1, group)
        return any(None in pane for pane in last) or any(True for _ in self._lookup(start - 1, group))

    def starts(self, first: int | None = None) -> list[int]:
        """Starts of all windows there may be from ``first`` on, oldest first; ``None``: of all."""
        times, size = self._panes.times(), self._size_ms
        starts = sorted({start for t in times for start in (t - size + 1, t + 1)})
        return starts if first is None else starts[bisect_left(starts, first) :]

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None:
        """The next of `starts` behind this one, or before it; ``None``: the first, or the last."""
        times, size = self._panes.times(), self._size_ms
        found: list[int] = []
        # One window ends with each time, and one begins right after it.
        for shift in (1 - size, 1):
            if descending:
                at = (len(times) if start is None else bisect_left(times, start - shift)) - 1
            else:
                at = 0 if start is None else bisect_right(times, start - shift)
            if 0 <= at < len(times):
                found.append(times[at] + shift)
        return (max if descending else min)(found, default=None)

    def count(self, first: int | None) -> int:
        """How many windows there are that begin at ``first`` or later; ``None``: all."""
        return sum(self._count(group, first) for group in self._panes.groups())

    def _count(self, group: K, first: int | None) -> int:
        size = self._size_ms
        least = _FIRST_MS if first is None else first
        times = []
        for t in self._panes.times_of(group, least - 1, _END_MS):
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

    def count_some(
        self, group: K, first: int | None, from_ms: int | None, most: int
    ) -> tuple[int, int | None]:
        """Of `count` what the first ``most`` panes of a group from ``from_ms`` on make, and where to go on.

        A window counts with the pane that it ends with, if that came in time, else with the one before it.
        """
        least = _FIRST_MS if first is None else first
        begin = least - 1 if from_ms is None else from_ms
        times = list(islice(self._panes.each_of(group, begin, _END_MS), most + 1))
        count = 0
        for t in times[:most]:
            if self._is_in_time(t, group):
                count += t - self._size_ms + 1 >= least
            elif not any(True for _ in self._lookup(t, group)):
                continue
            if t + 1 >= least and not self._is_in_time(t + self._size_ms, group):
                count += any(True for _ in self._states(t + 1, group))
        return count, times[most] if len(times) > most else None

    def _is_in_time(self, time_ms: int, group: K) -> bool:
        """Does a window end with this time?"""
        return any(None in pane for pane in self._lookup(time_ms, group))

    def all_groups(self) -> Iterable[K]:
        """Every group that has a window, or had one."""
        return self._panes.groups()

    def groups_at(self, start: int) -> list[K]:
        """The groups that have this window."""
        candidates = dict.fromkeys(self._panes.groups_at(start + self._size_ms - 1))
        candidates |= dict.fromkeys(self._panes.groups_at(start - 1))
        return [group for group in candidates if self.is_there(start, group)]

    def starts_of(self, group: K) -> list[int]:
        """Starts of the windows of one group, oldest first."""
        times = self._panes.times_of(group, _FIRST_MS, _END_MS)
        starts = sorted({start for t in times for start in (t - self._size_ms + 1, t + 1)})
        return [start for start in starts if self.is_there(start, group)]

    def touched_by(self, time_ms: int, group: K) -> list[int]:
        """Starts of the windows that an event of this time may have changed."""
        size = self._size_ms
        times = self._panes.times_of(group, time_ms - size, time_ms + size)
        starts = {start for t in times for start in (t - size + 1, t + 1)}
        return sorted(s for s in starts if time_ms - size < s <= time_ms + 1 and self.is_there(s, group))

    def closing(self, before_ms: int | None, watermark_ms: int) -> Iterator[tuple[int, list[K]]]:
        """(start, groups) of the windows that a watermark closes and ``before_ms`` did not, in order."""
        return self._passed(self._window.grace_ms, before_ms, watermark_ms)

    def expiring(self, before_ms: int | None, watermark_ms: int) -> Iterator[tuple[int, list[K]]]:
        """(start, groups) of the windows that it expires and ``before_ms`` did not, in order."""
        return self._passed(self._window.grace_ms + self._window.retain_ms, before_ms, watermark_ms)

    def _passed(
        self, behind_ms: int, before_ms: int | None, watermark_ms: int
    ) -> Iterator[tuple[int, list[K]]]:
        """The windows whose end the watermark has left so far behind, but had not at ``before_ms``."""
        first_ms = None if before_ms is None else before_ms - behind_ms + 1
        return self._ending(first_ms, watermark_ms - behind_ms + 1)

    def _ending(self, first_ms: int | None, end_ms: int) -> Iterator[tuple[int, list[K]]]:
        """(start, groups) of the windows whose end lies within ``[first, end)``, in order."""
        size = self._size_ms
        least = _FIRST_MS if first_ms is None else first_ms
        found: dict[int, dict[K, None]] = {}
        for t in self._panes.between(least - 1, end_ms - 1):
            for group in self._panes.groups_at(t):
                if any(None in pane for pane in self._lookup(t, group)):
                    found.setdefault(t - size + 1, {})[group] = None
        for t in self._panes.between(least - 1 - size, end_ms - 1 - size):
            for group in self._panes.groups_at(t):
                if any(True for _ in self._lookup(t, group)) and any(
                    True for _ in self._states(t + 1, group)
                ):
                    found.setdefault(t + 1, {})[group] = None
        for start in sorted(found):
            yield start, list(found[start])

    def merged(
        self, windows: Iterable[tuple[int, Iterable[K]]], merging: Merging
    ) -> Iterator[tuple[int, dict[K, Any]]]:
        """(start, group -> merged state) of windows that there are, given as (start, groups) in order."""
        rows: dict[int, dict[K, Any]] = {}
        starts: dict[K, list[int]] = {}
        for start, groups in windows:
            rows[start] = {}
            for group in groups:
                rows[start][group] = None  # in their order
                starts.setdefault(group, []).append(start)
        for group, own in starts.items():
            for start, state in self._merged_of(group, own, merging):
                rows[start][group] = state
        yield from rows.items()

    def _merged_of(self, group: K, starts: list[int], merging: Merging) -> Iterator[tuple[int, Any]]:
        """(start, merged state) of these windows of one group, oldest first."""
        size = self._size_ms
        panes = [
            (t, pane)
            for t in self._panes.times_of(group, starts[0], starts[-1] + size)
            for pane in self._lookup(t, group)
        ]
        if merging.approximate or any(pane.keys() != _IN_TIME for _, pane in panes):
            # A row closes as it is read where the way of merging shows. What came late not all windows have.
            for start in starts:
                yield start, merging.merge_all(list(self._states(start, group)))
            return
        queue, at = TwoStacks(merging), 0
        for start in starts:
            while at < len(panes) and panes[at][0] < start + size:
                queue.push(panes[at][0], panes[at][1][None])
                at += 1
            queue.drop_before(start)
            yield start, queue.merged()


def sliding_rows(
    window: SlidingWindow, part: TablePartition, *, durable: bool = False
) -> SlidingRows[Hashable]:
    """The windows that the panes of a table partition make; ``durable``: of checkpointed panes only."""
    get = part.store.get if durable else part.get

    def lookup(time_ms: int, key: Hashable) -> Iterable[Pane]:
        pane = get(time_ms, key)
        return () if pane is MISSING else (pane,)

    return SlidingRows(window, part.indexed(PaneIndex), lookup)


def rows_gone(window: SlidingWindow, part: TablePartition) -> dict[int, list[Hashable]]:
    """Start -> keys of the windows that have expired since it was asked last; their panes may stay."""
    if part.expired_to_ms is None:
        return {}
    before_ms = part.indexed(PaneIndex).expire_to(part.expired_to_ms)
    if before_ms == part.expired_to_ms:
        return {}
    return dict(sliding_rows(window, part, durable=True).expiring(before_ms, part.expired_to_ms))


def _insert(times: list[int], time_ms: int) -> None:
    if not times or time_ms > times[-1]:
        times.append(time_ms)
    else:
        insort(times, time_ms)
