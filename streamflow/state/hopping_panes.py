"""Hopping windows, from the panes that they are made of.

No window's border cuts a pane (see `windows.hopping`), so an event is written once, to the pane of its time,
and not to each of the windows that hold it; rows are put together where somebody reads, closes or is told of
them. What is kept of a pane is mostly the state of its events as it is: all of them count in every window
that holds them. Those that came when a part of their windows was closed are kept apart, as a `SplitPane`.

No index of the panes of a key is kept: there are as many panes in a window as its size holds, and one look
at each of them tells.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from streamflow.state.partition import TablePartition
from streamflow.state.stores.base import MISSING, Store
from streamflow.state.two_stacks import Merging, TwoStacks
from streamflow.windows import HoppingWindow

COUNTED_MAX = 1_000
"""Of more rows of panes than so many a sample tells how many rows of windows they make."""
SAMPLE_PANES, SAMPLE_KEYS = 64, 8
_NONE: Mapping[Any, Any] = {}


class SplitPane(dict[int | None, Any]):
    """Start -> state of what counts in windows from this start on; ``None``: in all that hold it."""


class Panes(Protocol):
    """Panes by their start, in order, each with the rows of its keys."""

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None:
        """The pane behind ``start`` (``None``: the first), or before it, if ``descending``."""
        ...

    def starts(self) -> list[int]:
        """The starts of all panes, in order."""
        ...

    def window(self, start: int) -> Mapping[Any, Any]: ...

    def get(self, start: int, key: Hashable) -> Any:
        """What is kept of a key there, or `MISSING`."""
        ...


class LayeredPanes:
    """The panes of a partition's store with others over them."""

    def __init__(self, store: Store, above: Mapping[int, Mapping[Any, Any]]) -> None:
        self._store = store
        self._above = above
        self._starts = sorted(above)

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None:
        found = self._store.next_start(start, descending=descending)
        starts = self._starts
        if descending:
            at = (len(starts) if start is None else bisect_left(starts, start)) - 1
            return found if at < 0 else starts[at] if found is None else max(starts[at], found)
        at = 0 if start is None else bisect_left(starts, start + 1)
        return found if at == len(starts) else starts[at] if found is None else min(starts[at], found)

    def starts(self) -> list[int]:
        below = self._store.starts()
        return sorted({*below, *self._starts}) if self._starts else below

    def window(self, start: int) -> Mapping[Any, Any]:
        above, below = self._above.get(start), self._store.window(start)
        if above is None:
            return below
        return {**dict(below.items()), **above} if below else above

    def get(self, start: int, key: Hashable) -> Any:
        found = self._above.get(start, _NONE).get(key, MISSING)
        return self._store.get(start, key) if found is MISSING else found


def counts_in(start: int, kept: object) -> bool:
    """Does anything of a pane that the window holds count in it?"""
    return type(kept) is not SplitPane or any(first is None or start >= first for first in kept)


def _first_counting(kept: Iterable[Any]) -> int | None:
    """The least start in which anything of one pane counts; ``None``: in every one that holds it."""
    least: int | None = None
    for each in kept:
        if type(each) is not SplitPane:
            return None
        for first in each:
            if first is None:
                return None
            if least is None or first < least:
                least = first
    return least


def states_in(start: int, kept: object) -> Iterable[Any]:
    """What of a pane that the window holds counts in it."""
    if type(kept) is not SplitPane:
        return (kept,)
    return [state for first, state in kept.items() if first is None or start >= first]


def starts_made_of(window: HoppingWindow, panes: Sequence[int]) -> list[int]:
    """Starts of the windows that may be made of these panes, which are in order."""
    starts: list[int] = []
    first = 0
    for at, pane in enumerate(panes):
        # Between panes that lie closer than this every window holds one of them.
        if at + 1 == len(panes) or panes[at + 1] - pane > window.size_ms:
            starts += range(window.oldest_start_of(panes[first]), window.start_of(pane) + 1, window.step_ms)
            first = at + 1
    return starts


class HoppingRows:
    """The windows that panes make, with the answers of `panes.SlidingRows`."""

    __slots__ = ("_panes", "_window")

    def __init__(self, window: HoppingWindow, panes: Panes) -> None:
        self._window = window
        self._panes = panes

    # -- one row -------------------------------------------------------------------------------

    def _kept(self, start: int, key: Hashable) -> Iterator[Any]:
        """What is kept of a key in the panes of a window, oldest first."""
        get, window = self._panes.get, self._window
        for pane in range(start, start + window.size_ms, window.pane_ms):
            kept = get(pane, key)
            if kept is not MISSING:
                yield kept

    def states(self, start: int, key: Hashable) -> list[Any]:
        """The states to be merged to the window's row; none where there is no such row."""
        return [state for kept in self._kept(start, key) for state in states_in(start, kept)]

    def is_there(self, start: int, key: Hashable) -> bool:
        """Has the key a row in this window?"""
        return any(counts_in(start, kept) for kept in self._kept(start, key))

    # -- windows -------------------------------------------------------------------------------

    def next_start(self, start: int | None, *, descending: bool = False) -> int | None:
        """The next window behind this start that may have rows, or before it; ``None``: at the end."""
        window, panes = self._window, self._panes
        if descending:
            # The newest window before it: nothing of a later one is asked for.
            end = None if start is None else self._before(start) + window.size_ms
            pane = panes.next_start(end, descending=True)
            if pane is None:
                return None
            newest = window.start_of(pane)
            return newest if start is None else min(newest, self._before(start))
        least = None if start is None else self._behind(start)
        pane = panes.next_start(None if least is None else least - 1)
        if pane is None:
            return None
        oldest = window.oldest_start_of(pane)
        return oldest if least is None else max(oldest, least)

    def _before(self, start: int) -> int:
        """The newest start of a window before this time."""
        return self._window.start_of(start - 1)

    def _behind(self, start: int) -> int:
        """The oldest start of a window behind this time."""
        return self._window.start_of(start) + self._window.step_ms

    def between(self, first: int | None, end: int | None) -> Iterator[int]:
        """The starts within ``[first, end)`` of windows that may have rows, in order."""
        start = self.next_start(None if first is None else first - 1)
        while start is not None and (end is None or start < end):
            yield start
            start = self.next_start(start)

    def starts(self, first: int | None = None) -> list[int]:
        """Starts of all windows that may have rows, from ``first`` on."""
        return self.starts_between(first, None)

    def starts_between(self, first: int | None, end: int | None) -> list[int]:
        """`between`, at once: many windows of few panes take hardly any time."""
        panes, window = self._panes.starts(), self._window
        low = 0 if first is None else bisect_left(panes, first)
        high = len(panes) if end is None else bisect_left(panes, end - window.step_ms + window.size_ms)
        starts = starts_made_of(window, panes[low:high])
        low = 0 if first is None else bisect_left(starts, first)
        return starts[low : len(starts) if end is None else bisect_left(starts, end)]

    def with_rows(self, starts: list[int]) -> list[int]:
        """Those of `starts_between` that have any row."""
        if not starts:
            return starts
        panes, window = self._panes, self._window
        pane, end = panes.next_start(starts[0] - 1), starts[-1] + window.size_ms
        some: list[range] = []
        split = False
        while pane is not None and pane < end:
            of, first = window.starts_of(pane), _first_counting(panes.window(pane).values())
            split |= first is not None
            some.append(of if first is None else range(max(of[0], first), of[-1] + 1, window.step_ms))
            pane = panes.next_start(pane)
        if not split:
            return starts
        found = {start for of in some for start in of}
        return [start for start in starts if start in found]

    def panes_of(self, start: int) -> Iterator[int]:
        """The panes with rows that a window holds, oldest first."""
        end = start + self._window.size_ms
        pane = self._panes.next_start(start - 1)
        while pane is not None and pane < end:
            yield pane
            pane = self._panes.next_start(pane)

    def groups_at(self, start: int) -> Iterator[Any]:
        """The keys that have a row in this window, each once. Others may work between two of them."""
        seen: set[Any] = set()
        for pane in list(self.panes_of(start)):
            for key, kept in list(self._panes.window(pane).items()):
                if key not in seen and counts_in(start, kept):
                    seen.add(key)
                    yield key

    # -- one key -------------------------------------------------------------------------------

    def all_groups(self) -> Iterator[Any]:
        """Every key that has a row, or had one."""
        seen: set[Any] = set()
        pane = self._panes.next_start(None)
        while pane is not None:
            new = [key for key in self._panes.window(pane) if key not in seen]
            seen.update(new)
            yield from new
            pane = self._panes.next_start(pane)

    def starts_of(self, key: Hashable) -> list[int]:
        """Starts of the windows of one key, oldest first."""
        panes: list[int] = []
        pane = self._panes.next_start(None)
        while pane is not None:
            if self._panes.get(pane, key) is not MISSING:
                panes.append(pane)
            pane = self._panes.next_start(pane)
        return [start for start in starts_made_of(self._window, panes) if self.is_there(start, key)]

    def touched_by(self, pane: int, key: Hashable) -> list[int]:
        """Starts of the windows that a change of this pane may have changed."""
        return list(self._counting(pane, key))

    def _counting(self, pane: int, key: Hashable) -> Iterator[int]:
        kept = self._panes.get(pane, key)
        if kept is MISSING:
            return iter(())
        return (start for start in self._window.starts_of(pane) if counts_in(start, kept))

    # -- many rows -----------------------------------------------------------------------------

    def count(self, first: int | None, panes: Sequence[int], total: int) -> int:
        """How many rows there are of windows that begin at ``first`` or later; ``None``: of all.

        ``panes`` are the starts of all panes, ``total`` is how many rows they have. Where that is much, a
        sample of them tells about how many.
        """
        if first is not None:
            panes = panes[bisect_left(panes, first) :]
        if total <= COUNTED_MAX:
            return sum(self._count(pane, first, self._panes.window(pane)) for pane in panes)
        rows, sampled = 0, 0
        for pane in panes[:: max(1, len(panes) // SAMPLE_PANES)]:
            keys = list(islice(self._panes.window(pane), SAMPLE_KEYS))
            sampled += len(keys)
            rows += self._count(pane, first, keys)
        return rows * total // sampled if sampled else 0

    def _count(self, pane: int, first: int | None, keys: Iterable[Any]) -> int:
        """How many windows have these keys by this pane, and not by one before it."""
        window, get, found = self._window, self._panes.get, 0
        starts = window.starts_of(pane)
        least = starts[0] if first is None else max(starts[0], first)
        for key in keys:
            kept, lowest = get(pane, key), least
            for earlier in range(pane - window.pane_ms, starts[0] - 1, -window.pane_ms):
                before = get(earlier, key)
                if before is not MISSING:
                    if SplitPane in (type(before), type(kept)):
                        found += self._count_split(pane, key, least)
                        break
                    lowest = max(lowest, window.start_of(earlier) + window.step_ms)
                    found += len(range(lowest, starts[-1] + 1, window.step_ms))
                    break
            else:
                found += sum(counts_in(start, kept) for start in starts if start >= least)
        return found

    def _count_split(self, pane: int, key: Hashable, least: int) -> int:
        """`_count` of one key, where some of what came counts in a part of its windows."""
        window, get = self._window, self._panes.get
        return sum(
            start >= least
            and counts_in(start, get(pane, key))
            and not any(
                (before := get(earlier, key)) is not MISSING and counts_in(start, before)
                for earlier in range(start, pane, window.pane_ms)
            )
            for start in window.starts_of(pane)
        )

    def merged(
        self, starts: Iterable[int], merging: Merging, keys: Mapping[int, Iterable[Any]] | None = None
    ) -> Iterator[tuple[int, dict[Any, Any]]]:
        """(start, key -> merged state) of windows that are given in order.

        ``keys``: start -> those that are wanted; ``None``: all. Each pane is looked at once, and its states
        go into a queue of their key, which tells what each window merges to. What came late not all windows
        have, and some functions show the way of merging: such rows are made as they are read.
        """
        window, panes = self._window, self._panes
        queues: dict[Any, TwoStacks] = {}
        split: set[Any] = set()
        wanted_ever = None if keys is None else {key for of in keys.values() for key in of}
        at: int | None = None  # panes before it were looked at
        for start in starts:
            end = start + window.size_ms
            pane = panes.next_start((start if at is None else max(at, start)) - 1)
            while pane is not None and pane < end:
                for key, kept in panes.window(pane).items():
                    if wanted_ever is not None and key not in wanted_ever:
                        continue
                    queue = queues.get(key)
                    if queue is None:
                        queue = queues[key] = TwoStacks(merging)
                    if type(kept) is SplitPane:
                        split.add(key)
                    elif key not in split and not merging.approximate:
                        queue.push(pane, kept)
                at = pane + 1
                pane = panes.next_start(pane)
            yield (
                start,
                dict(self._merged_at(start, queues, split, merging, None if keys is None else keys[start])),
            )

    def _merged_at(
        self,
        start: int,
        queues: dict[Any, TwoStacks],
        split: set[Any],
        merging: Merging,
        keys: Iterable[Any] | None,
    ) -> Iterator[tuple[Any, Any]]:
        for key in list(queues) if keys is None else keys:
            if key in split or merging.approximate:
                states = self.states(start, key)
                if states:
                    yield key, merging.merge_all(states)
                continue
            queue = queues.get(key)
            if queue is None:
                continue
            queue.drop_before(start)
            if queue:
                yield key, queue.merged()
            else:
                del queues[key]


class RowsGone(Mapping[int, list[Any]]):
    """Start -> keys of the windows that a cut expires, put together only if somebody asks.

    To be read while the panes that stay are those that the cut left; ``rows`` are made of these and of those
    that went with it.
    """

    def __init__(self, rows: HoppingRows, starts: Sequence[int]) -> None:
        self._rows = rows
        self._starts = dict.fromkeys(starts)

    def __getitem__(self, start: int) -> list[Any]:
        if start not in self._starts:
            raise KeyError(start)
        return list(self._rows.groups_at(start))

    def __contains__(self, start: object) -> bool:
        return start in self._starts

    def __iter__(self) -> Iterator[int]:
        return iter(self._starts)

    def __len__(self) -> int:
        return len(self._starts)


def windows_gone(window: HoppingWindow, part: TablePartition, before_ms: int | None) -> RowsGone:
    """The windows that the cut of a partition expires, and ``before_ms`` did not; before it is folded."""
    assert part.expired_to_ms is not None
    dropped = {pane: dict(part.store.window(pane).items()) for pane in part.drops}
    rows = HoppingRows(window, LayeredPanes(part.store, dropped))
    first = None if before_ms is None else window.first_kept_start(before_ms)
    return RowsGone(rows, rows.starts_between(first, window.first_kept_start(part.expired_to_ms)))


def cut_rows(window: HoppingWindow, part: TablePartition) -> HoppingRows:
    """The windows of a partition as its cut will leave them; to be asked when the cut holds all changes."""
    return HoppingRows(window, LayeredPanes(part.store, part.cut or {}))
