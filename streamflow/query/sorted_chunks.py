"""A sorted list that is cheap to change and to enter anywhere, however long: a list of short sorted lists."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

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


class SortedChunks:
    """Entries, each once. ``chunks`` are in order, and none is empty."""

    __slots__ = ("_chunks", "_lasts")

    def __init__(self, chunks: Iterable[list[Entry]] = ()) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]
        self._lasts = [chunk[-1] for chunk in self._chunks]

    def add(self, entry: Entry) -> None:
        """It is not there."""
        if not self._chunks:
            self._chunks, self._lasts = [[entry]], [entry]
            return
        at = min(bisect_left(self._lasts, entry), len(self._lasts) - 1)
        chunk = self._chunks[at]
        insort(chunk, entry)
        self._lasts[at] = chunk[-1]
        if len(chunk) > 2 * CHUNK:
            self._chunks[at : at + 1] = [chunk[:CHUNK], chunk[CHUNK:]]
            self._lasts[at : at + 1] = [chunk[CHUNK - 1], chunk[-1]]

    def remove(self, entry: Entry) -> None:
        """It is there."""
        at = bisect_left(self._lasts, entry)
        chunk = self._chunks[at]
        del chunk[bisect_left(chunk, entry)]
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def block(self, low: Entry | None, high: Entry | None, count: int, *, descending: bool) -> list[Entry]:
        """The first ``count`` entries from ``low`` on and before ``high``; the last, if ``descending``."""
        found: list[Entry] = []
        for entry in self._back(high) if descending else self._forth(low):
            outside = low is not None and entry < low if descending else high is not None and entry >= high
            if outside or len(found) == count:
                break
            found.append(entry)
        return found

    def _forth(self, low: Entry | None) -> Iterator[Entry]:
        at = 0 if low is None else bisect_left(self._lasts, low)
        if at == len(self._chunks):
            return
        yield from islice(self._chunks[at], 0 if low is None else bisect_left(self._chunks[at], low), None)
        for chunk in self._chunks[at + 1 :]:
            yield from chunk

    def _back(self, high: Entry | None) -> Iterator[Entry]:
        at = len(self._chunks) if high is None else bisect_left(self._lasts, high)
        if high is not None and at < len(self._chunks):
            chunk = self._chunks[at]
            yield from reversed(chunk[: bisect_left(chunk, high)])
        for number in range(at - 1, -1, -1):
            yield from reversed(self._chunks[number])

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
    chunks: list[list[Entry]] = []
    for bucket in buckets:
        bucket.sort()
        chunks.extend(bucket[at : at + CHUNK] for at in range(0, len(bucket), CHUNK))
        if slices.over():
            await slices.rest()
    return SortedChunks(chunks)


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
