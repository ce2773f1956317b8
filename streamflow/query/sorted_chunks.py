"""A sorted list that is cheap to change and to enter anywhere, however long: a list of short sorted lists."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from streamflow.query.slices import Slices

CHUNK = 1_000
BLOCK = 256  # entries between two looks at the clock
SAMPLE_MAX = 2_000
SHARDS = 256
V = TypeVar("V")

Entry = tuple[Any, ...]
"""Compared element by element; a shorter one stands before those that begin with it."""


class _Top:
    """Greater than anything."""

    __slots__ = ()

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True


TOP = _Top()
"""``(*entry, TOP)`` stands behind all entries that begin with ``entry``."""


Chunk = np.ndarray[Any, np.dtype[np.object_]]
"""Not a list: the garbage collector looks at each element of a list, a stop where there are millions."""


def chunk_of(entries: Sequence[Entry]) -> Chunk:
    return np.fromiter(entries, dtype=object, count=len(entries))


class SortedChunks:
    """Entries, each once. ``chunks`` are in order."""

    __slots__ = ("_chunks", "_lasts")

    def __init__(self, chunks: Iterable[Sequence[Entry]] = ()) -> None:
        self._chunks = [chunk_of(chunk) for chunk in chunks if chunk]
        self._lasts: list[Entry] = [chunk[-1] for chunk in self._chunks]

    def extend(self, entries: Sequence[Entry]) -> None:
        """They are in order, and stand behind all that are there."""
        for at in range(0, len(entries), CHUNK):
            self._chunks.append(chunk_of(entries[at : at + CHUNK]))
            self._lasts.append(self._chunks[-1][-1])

    def add(self, entry: Entry) -> None:
        """It is not there."""
        if not self._chunks:
            self._chunks, self._lasts = [chunk_of([entry])], [entry]
            return
        at = min(bisect_left(self._lasts, entry), len(self._lasts) - 1)
        before = self._chunks[at]
        place = bisect_left(before, entry)
        chunk = np.empty(len(before) + 1, dtype=object)
        chunk[:place], chunk[place], chunk[place + 1 :] = before[:place], entry, before[place:]
        if len(chunk) > 2 * CHUNK:
            self._chunks[at : at + 1] = [chunk[:CHUNK].copy(), chunk[CHUNK:].copy()]
            self._lasts[at : at + 1] = [chunk[CHUNK - 1], chunk[-1]]
        else:
            self._chunks[at], self._lasts[at] = chunk, chunk[-1]

    def remove(self, entry: Entry) -> None:
        """It is there."""
        at = bisect_left(self._lasts, entry)
        before = self._chunks[at]
        place = bisect_left(before, entry)
        if len(before) > 1:
            chunk = self._chunks[at] = np.concatenate((before[:place], before[place + 1 :]))
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def block(self, low: Entry | None, high: Entry | None, count: int, *, descending: bool) -> list[Entry]:
        """The first ``count`` entries from ``low`` on and before ``high``; the last, if ``descending``."""
        found: list[Entry] = []
        for entry in self._back(high, count) if descending else self._forth(low, count):
            outside = low is not None and entry < low if descending else high is not None and entry >= high
            if outside or len(found) == count:
                break
            found.append(entry)
        return found

    def _forth(self, low: Entry | None, count: int) -> Iterator[Entry]:
        first = 0 if low is None else bisect_left(self._lasts, low)
        for at in range(first, len(self._chunks)):
            chunk = self._chunks[at]
            begin = bisect_left(chunk, low) if low is not None and at == first else 0
            yield from chunk[begin : begin + count].tolist()

    def _back(self, high: Entry | None, count: int) -> Iterator[Entry]:
        last = len(self._chunks) - 1 if high is None else bisect_left(self._lasts, high)
        for at in range(min(last, len(self._chunks) - 1), -1, -1):
            chunk = self._chunks[at]
            end = bisect_left(chunk, high) if high is not None and at == last else len(chunk)
            yield from reversed(chunk[max(0, end - count) : end].tolist())

    def __len__(self) -> int:
        return sum(map(len, self._chunks))


async def sorted_in_slices(entries: list[Entry], slices: Slices) -> SortedChunks:
    """Puts them in order without a long sort: a sample says between which bounds each chunk lies.

    ``entries`` is empty afterwards.
    """
    if len(entries) <= CHUNK:
        few = sorted(entries)
        entries.clear()
        return SortedChunks([few])
    sample = sorted(entries[:: max(1, len(entries) // SAMPLE_MAX)])
    count = len(entries) // CHUNK + 1
    bounds = sample[:: max(1, len(sample) // count)][1:]
    buckets: list[list[Entry]] = [[] for _ in range(len(bounds) + 1)]
    while entries:
        for entry in entries[-BLOCK:]:
            buckets[bisect_right(bounds, entry)].append(entry)
        del entries[-BLOCK:]  # to free all of them at the end would be a stop
        if slices.over():
            await slices.rest()
    made = SortedChunks()
    buckets.reverse()
    while buckets:
        bucket = buckets.pop()
        bucket.sort()
        made.extend(bucket)
        if slices.over():
            await slices.rest()
    return made


class Sharded(Generic[V]):
    """A dict that never stops to grow: a large one copies itself whole, for tens of ms."""

    __slots__ = ("_shards",)

    def __init__(self) -> None:
        self._shards: list[dict[Any, V]] = [{} for _ in range(SHARDS)]

    def of(self, key: Hashable) -> dict[Any, V]:
        """The dict that has the key, or would have it."""
        return self._shards[hash(key) % SHARDS]

    def shards(self) -> list[dict[Any, V]]:
        """All of them; each key is in one."""
        return self._shards

    def __contains__(self, key: Hashable) -> bool:
        return key in self.of(key)
