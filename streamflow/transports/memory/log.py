"""One partition of a topic in memory: columns of records, what is undecided in them, and trimming.

INVARIANT: ``offsets`` rises strictly; readers see records below `stable` only; ``end`` never goes back.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from streamflow.transports.base import Batch, Headers, Record

# A compacted log is compacted when it has grown to this many times what the last compaction left.
COMPACT_GROWTH = 3
COMPACT_RECORDS_MIN = 2_000
# A trimmed log is cut back when it is this much over its limit, so that a cut is paid for by many appends.
TRIM_SLACK = 1.25


class PartitionLog:
    """The records of one partition, oldest first.

    ``undecided`` is transaction number -> first offset it wrote here. ``records_max`` and ``bytes_max``
    bound a log that is not compacted (``None``: no bound).
    """

    __slots__ = (
        "_compact_at",
        "_headers",
        "_keys",
        "_offsets",
        "_size_bytes",
        "_stamps_ms",
        "_values",
        "_waiters",
        "bytes_max",
        "compacted",
        "end",
        "partition",
        "record_bytes_max",
        "records_max",
        "start",
        "topic",
        "undecided",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        *,
        compacted: bool = False,
        record_bytes_max: int | None = None,
        records_max: int | None = None,
        bytes_max: int | None = None,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.compacted = compacted
        self.record_bytes_max = record_bytes_max
        self.records_max = None if compacted else records_max
        self.bytes_max = None if compacted else bytes_max
        self.start = 0
        self.end = 0
        self.undecided: dict[int, int] = {}
        self._waiters: dict[asyncio.Event, None] = {}  # in the order in which they came
        self._offsets: list[int] = []
        self._keys: list[bytes | None] = []
        self._values: list[bytes | None] = []
        self._stamps_ms: list[int] = []
        self._headers: list[Headers] | None = None  # None until a record has any
        self._size_bytes = 0
        self._compact_at = COMPACT_RECORDS_MIN

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def stable(self) -> int:
        """Everything below is decided: the last stable offset."""
        return min(self.undecided.values()) if self.undecided else self.end

    def at_time(self, time_ms: int) -> int:
        """The offset of the first record with this timestamp or a later one, else the end."""
        stamps = zip(self._offsets, self._stamps_ms, strict=True)
        return next((offset for offset, stamp_ms in stamps if stamp_ms >= time_ms), self.end)

    def append(self, record: Record, now_ms: int, offset: int) -> None:
        """Adds a record at ``offset``, which is at or after `end`. Call `settle` after it."""
        self.end = offset
        self.extend([record], now_ms)

    def extend(self, records: Sequence[Record], now_ms: int) -> None:
        """Adds records, all of this partition, from `end` on. Call `settle` after them."""
        count = len(records)
        keys = [record[2] for record in records]
        values = [record[3] for record in records]
        if self._headers is None and any(record[4] for record in records):
            self._headers = [()] * len(self._offsets)
        if self._headers is not None:
            self._headers.extend(record[4] for record in records)
        self._offsets.extend(range(self.end, self.end + count))
        self._keys.extend(keys)
        self._values.extend(values)
        self._stamps_ms.extend([now_ms if record[5] is None else record[5] for record in records])
        self._size_bytes += size_bytes(keys) + size_bytes(values)
        self.end += count

    def settle(self, now_ms: int, tombstone_ms: int) -> None:
        """After a run of appends: bounds the log and wakes who waits for it."""
        count = len(self._offsets)
        if self.records_max is not None and count > self.records_max * TRIM_SLACK:
            self._trim(count - self.records_max)
        if self.bytes_max is not None and self._size_bytes > self.bytes_max * TRIM_SLACK:
            self._trim(self._count_over(self._size_bytes - self.bytes_max))
        if self.compacted and count > self._compact_at:
            self.compact(self.end, lambda stamp_ms: stamp_ms <= now_ms - tombstone_ms)
        self.notify()

    def begin(self, number: int, offset: int) -> None:
        """The transaction ``number`` writes here, first at this offset."""
        self.undecided.setdefault(number, offset)

    def decide(self, number: int, aborted: Sequence[int], *, control_record: bool) -> None:
        """It shows here now; what was ``aborted`` goes."""
        if aborted:
            self._remove(aborted)
        self.end += control_record
        del self.undecided[number]
        self.notify()

    def notify(self) -> None:
        for waiter in self._waiters:
            waiter.set()

    def watch(self, waiter: asyncio.Event) -> None:
        """Sets it whenever something may have become readable."""
        self._waiters[waiter] = None

    def unwatch(self, waiter: asyncio.Event) -> None:
        self._waiters.pop(waiter, None)

    def read(self, position: int, records_max: int) -> Batch | None:
        """What a committed reader at ``position`` gets next; ``None`` where nothing has moved."""
        stable = self.stable
        if position >= stable:
            return None
        low = bisect_left(self._offsets, position)
        high = len(self._offsets) if stable == self.end else bisect_left(self._offsets, stable)
        next_offset = stable
        if high - low > records_max:
            high = low + records_max
            next_offset = self._offsets[high - 1] + 1
        headers = self._headers[low:high] if self._headers is not None else None
        return Batch(
            self.topic,
            self.partition,
            self._offsets[low:high],
            self._keys[low:high],
            self._values[low:high],
            self._stamps_ms[low:high],
            headers if headers is not None and any(headers) else None,
            next_offset,
            stable,
            undecided=stable < self.end,
        )

    def _remove(self, offsets: Iterable[int]) -> None:
        """Takes out what an aborted transaction wrote; the offsets stay used."""
        gone = set(offsets)
        self._keep([i for i, offset in enumerate(self._offsets) if offset not in gone])

    def compact(self, upto: int, expired: Callable[[int], bool]) -> None:
        """Below ``upto`` only the newest record of each key stays, and no tombstone whose stamp expired.

        Undecided records are neither removed nor taken for the newest.
        """
        decided = bisect_left(self._offsets, self.stable)
        high = bisect_left(self._offsets, upto, hi=decided)
        newest = {self._keys[i]: i for i in range(decided)}
        kept = [
            i
            for i in range(high)
            if self._keys[i] is None
            or (newest[self._keys[i]] == i and not (self._values[i] is None and expired(self._stamps_ms[i])))
        ]
        self._keep([*kept, *range(high, len(self._offsets))])
        self._compact_at = max(COMPACT_RECORDS_MIN, len(self._offsets) * COMPACT_GROWTH)

    def _count_over(self, excess_bytes: int) -> int:
        """How many of the oldest records make up ``excess_bytes``; at least the newest record stays."""
        count = 0
        for key, value in zip(self._keys[:-1], self._values[:-1], strict=True):
            if excess_bytes <= 0:
                break
            excess_bytes -= len(key or b"") + len(value or b"")
            count += 1
        return count

    def _trim(self, count: int) -> None:
        count = min(count, bisect_left(self._offsets, self.stable))
        if count <= 0:
            return
        self.start = self._offsets[count - 1] + 1
        self._size_bytes -= size_bytes(self._keys[:count]) + size_bytes(self._values[:count])
        del self._offsets[:count], self._keys[:count], self._values[:count], self._stamps_ms[:count]
        if self._headers is not None:
            del self._headers[:count]

    def _keep(self, indices: list[int]) -> None:
        self._offsets = [self._offsets[i] for i in indices]
        self._keys = [self._keys[i] for i in indices]
        self._values = [self._values[i] for i in indices]
        self._stamps_ms = [self._stamps_ms[i] for i in indices]
        if self._headers is not None:
            self._headers = [self._headers[i] for i in indices]
        self._size_bytes = size_bytes(self._keys) + size_bytes(self._values)


def size_bytes(column: Iterable[bytes | None]) -> int:
    return sum(map(len, filter(None, column)))
