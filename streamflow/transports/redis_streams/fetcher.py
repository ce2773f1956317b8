"""Reads partitions: their streams by XREAD, and below where a compacted stream begins its snapshot.

What a fetcher must be sure of, while others compact and trim: it asks for the mark below which a stream
may have lost entries *behind* each read, on the same connection. If the mark has passed where the read
began, the read is thrown away and the entries between are taken from the snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from redis.exceptions import ResponseError

from streamflow.clock import Clock
from streamflow.errors import LostWrites, TransportError
from streamflow.transports.base import Batch, TopicPartition
from streamflow.transports.redis_streams.connection import Connection, LostConnection, meaning
from streamflow.transports.redis_streams.entries import Entry, columns, of_snapshot
from streamflow.transports.redis_streams.gone import GoneRecords
from streamflow.transports.redis_streams.lag import UNKNOWN, LagCounts
from streamflow.transports.redis_streams.names import (
    IdOutOfRange,
    id_before,
    id_of,
    offset_after,
    offset_of_id,
)
from streamflow.transports.redis_streams.settings import BLOCK_MS_MAX, RedisSettings
from streamflow.transports.redis_streams.topics import Topics, end_of, extent_of, stream_info

ENTRIES_MAX = 8_000  # of all streams in one read: it holds the server up for a few ms
ENTRY_BYTES_GUESS = 1_000
SCAN_COUNT = 500
TOTALS_MAX = 16
ENDS_MS = 200.0  # how long a known end of a stream is good enough while we are far behind it


class Fetcher:
    """A set of partitions with a position in each. ``at`` is partition -> next offset."""

    def __init__(
        self,
        connection: Connection,
        topics: Topics,
        settings: RedisSettings,
        clock: Clock,
        lag: LagCounts | None = None,  # told of every read
    ) -> None:
        self.at: dict[TopicPartition, int] = {}
        self._connection = connection
        self._topics = topics
        self._settings = settings
        self._names = settings.names
        self._clock = clock
        self._changed = asyncio.Event()
        self._entry_bytes = ENTRY_BYTES_GUESS
        self._unsure: set[TopicPartition] = set()  # compacted, not known to lie in its stream
        # Rows, where the stream goes on, and where that ends.
        self._snapshots: dict[TopicPartition, tuple[list[tuple[int, Entry]], int, int]] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._totals: dict[TopicPartition, dict[int, int]] = {}  # end -> entries before it
        self._ends_ms = 0.0
        self._full: set[TopicPartition] = set()  # whose last read stopped before the end
        self._last: dict[TopicPartition, int] = {}  # offset of the last entry read
        self._lag = lag or LagCounts()
        self._gone = GoneRecords(self._lag, topics, clock)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Reads this partition from now on, from there."""
        spot = partition
        self.at[spot] = offset
        self._snapshots.pop(spot, None)
        self._last.pop(spot, None)
        self._unsure.add(spot)
        self._gone.moved(spot)
        self._changed.set()

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads these no more."""
        for spot in partitions:
            self.at.pop(spot, None)
            self._snapshots.pop(spot, None)
            self._unsure.discard(spot)
            self._last.pop(spot, None)
            self._gone.drop(spot)
        self._changed.set()

    async def batches(self, wait_ms: float) -> list[Batch]:
        """What has come, or an empty list after ``wait_ms``; moves the positions.

        Raises TransportError; IdOutOfRange in front of an entry whose id has no offset.
        """
        deadline_ms = self._clock.monotonic_ms() + wait_ms
        while True:
            left_ms = deadline_ms - self._clock.monotonic_ms()
            self._changed.clear()
            if not self.at:
                await self._wait(left_ms)
            # INVARIANT: nothing is awaited between taking and returning, so that what a fetch took is
            # neither lost when it is cancelled nor handed out after a seek.
            elif batches := self._from_snapshots() or await self._from_streams(left_ms):
                return batches
            if self._clock.monotonic_ms() >= deadline_ms:
                return []

    async def _wait(self, wait_ms: float) -> None:
        timer = asyncio.ensure_future(self._clock.sleep_ms(max(0.0, wait_ms)))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait([timer, changed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            changed.cancel()

    async def _from_streams(self, wait_ms: float) -> list[Batch]:
        await self._topics.learn(topic for topic, _ in self.at)
        if self._unsure:
            await self._settle()
            if self._snapshots:
                return self._from_snapshots()
        positions = dict(self.at)
        if not positions:
            return []
        count = self._count(len(positions))
        commands: list[Any] = [self._xread(positions, count, wait_ms)]
        compacted = [spot for spot in positions if self._topics.known(spot).compacted]
        commands += [("HGET", self._names.marks(spot), "trimmed") for spot in compacted]
        behind = self._behind(positions)
        commands += [("XINFO", "STREAM", self._names.stream(spot)) for spot in behind]
        try:
            replies = await self._connection.ask(*commands)
        except LostConnection:
            # It may be another server that we find next, or the same one without its last writes.
            self._unsure.update(self.at)
            raise
        for reply in replies:
            if isinstance(reply, ResponseError) and "no such key" not in str(reply):
                raise meaning("reading", reply)
        infos = self._learn_ends(behind, replies[1 + len(compacted) :])
        for spot, mark in zip(compacted, replies[1:], strict=False):
            if mark is not None and int(mark) > positions[spot]:
                self._unsure.add(spot)
        batches = self._take(replies[0] or (), positions, count)
        self._look_for_gone(infos, batches)
        return batches

    def _look_for_gone(
        self, infos: Mapping[TopicPartition, Mapping[bytes, Any] | None], batches: list[Batch]
    ) -> None:
        """What left the streams unread is told with what was read, or by a batch without records."""
        for spot, info in infos.items():
            position = self.at.get(spot)
            if position is None or info is None or spot in self._unsure:
                continue
            stream = extent_of(info)
            gone = self._gone.found(spot, position, stream)
            batch = next((b for b in batches if (b.topic, b.partition) == spot), None)
            if batch is None and not stream.length and stream.end > position:
                # All of it is gone: nothing will ever be read from here to the end.
                self.at[spot] = stream.end
                self._lag.add(spot, position, (), stream.end)
            elif not gone:
                continue
            if batch is None:
                next_offset = self.at[spot]
                end_offset = max(next_offset, stream.end)
                batch = Batch(spot[0], spot[1], (), [], [], [], None, next_offset, end_offset)
                batches.append(batch)
            batch.lost(gone)

    def _take(self, reply: Any, positions: Mapping[TopicPartition, int], count: int) -> list[Batch]:
        by_stream = {self._names.stream(spot).encode(): spot for spot in positions}
        batches: list[Batch] = []
        for stream, entries in reply:
            spot = by_stream[stream]
            # While we waited somebody may have sought; or the snapshot has what the stream has not.
            if self.at.get(spot) == positions[spot] and spot not in self._unsure:
                batch = self._batch(spot, entries[:count], full=len(entries) > count)
                self.at[spot] = batch.next_offset
                self._last[spot] = batch.offsets[-1]
                self._lag.add(spot, positions[spot], batch.offsets, batch.next_offset)
                self._gone.moved(spot)
                batches.append(batch)
        return batches

    def _batch(self, spot: TopicPartition, entries: list[Entry], *, full: bool) -> Batch:
        try:
            found = columns(entries)
        except IdOutOfRange as exc:
            good = readable(entries)
            if not good:
                raise IdOutOfRange(
                    f"{spot[0]}[{spot[1]}]: {exc}; delete the entry with XDEL to go on"
                ) from exc
            found, full = columns(good), True
        size_bytes = sum(map(len, filter(None, found.values)))
        self._entry_bytes = max(64, size_bytes // len(entries))
        next_offset = found.offsets[-1] + 1
        if full:
            self._full.add(spot)
        else:
            self._full.discard(spot)
        end_offset = max(next_offset + 1, self._ends.get(spot, 0)) if full else next_offset
        return Batch(spot[0], spot[1], *found, next_offset, end_offset)

    def _count(self, streams: int) -> int:
        settings = self._settings
        by_size = settings.fetch_bytes // (self._entry_bytes * streams)
        return max(1, min(settings.fetch_records, ENTRIES_MAX // streams, by_size))

    def _xread(self, positions: Mapping[TopicPartition, int], count: int, wait_ms: float) -> list[Any]:
        # One more than is taken: it says whether there are more.
        command: list[Any] = ["XREAD", "COUNT", count + 1]
        if wait_ms >= 1:  # BLOCK 0 would block for ever
            command += ["BLOCK", min(int(wait_ms), BLOCK_MS_MAX)]
        command += ["STREAMS", *(self._names.stream(spot) for spot in positions)]
        return [*command, *(id_before(offset) for offset in positions.values())]

    # How far behind

    def _behind(self, positions: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        """Partitions that are asked about, now and then: how far those go that were not read to the end,
        and whether all that came to those that have moved was read."""
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._ends_ms < ENDS_MS:
            return []
        self._ends_ms = now_ms
        moved = self._gone.to_check()
        return [spot for spot in positions if spot in self._full or spot in moved]

    def _learn_ends(
        self, spots: list[TopicPartition], replies: list[Any]
    ) -> dict[TopicPartition, dict[bytes, Any] | None]:
        infos = {spot: stream_info(reply) for spot, reply in zip(spots, replies, strict=True)}
        for spot, info in infos.items():
            self.learn_end(spot, info)
        return infos

    def entries_before(self, spot: TopicPartition, end: int) -> int:
        """How many entries the stream had when it ended there; UNKNOWN where it is not known."""
        return self._totals.get(spot, {}).get(end, UNKNOWN)

    def forget_totals(self) -> None:
        self._totals.clear()

    def learn_end(self, spot: TopicPartition, info: Mapping[bytes, Any] | None) -> None:
        """How far the stream goes, and how many entries it ever had up to there."""
        end = self._ends[spot] = end_of(info)
        # The newest few: a batch that is still on its way through the engine was told an older one.
        totals = self._totals.setdefault(spot, {})
        totals[end] = 0 if info is None else info[b"entries-added"]
        while len(totals) > TOTALS_MAX:
            del totals[next(iter(totals))]

    # Before the first read of a partition, and after a connection broke

    async def _settle(self) -> None:
        """Loads the snapshot of every partition whose position lies below where its stream begins.

        Raises LostWrites where the server has less than we have read, or than was committed.
        """
        unsure, self._unsure = self._unsure, set()
        spots = [spot for spot in unsure if spot in self.at]
        try:
            marks = await self._connection.all(("HGET", self._names.marks(spot), "trimmed") for spot in spots)
            infos = await self._topics.infos(spots)
            for spot, mark, info in zip(spots, marks, infos, strict=True):
                begins = 0 if mark is None else int(mark)
                await self._check_end(spot, info, begins)
                if begins > self.at.get(spot, begins):
                    await self._load(spot, begins, end_of(info))
        except BaseException:
            self._unsure |= unsure
            raise

    async def _check_end(self, spot: TopicPartition, info: Mapping[bytes, Any] | None, begins: int) -> None:
        position, last = self.at.get(spot, 0), self._last.get(spot)
        end = end_of(info)
        lost = position > max(end, begins)
        if not lost and last is not None and last >= begins and info and info[b"first-entry"]:
            # Writes that came since the loss would hide it: is the last entry that we read still there?
            first = offset_after(info[b"first-entry"][0]) - 1
            at = id_of(last)
            untouched = offset_after(info[b"max-deleted-entry-id"]) < last  # nobody's XDEL explains it
            lost = (
                first < last
                and untouched
                and not await self._connection.one("XRANGE", self._names.stream(spot), at, at)
            )
        if lost:
            raise LostWrites(
                f"{spot[0]}[{spot[1]}]: stream {self._names.stream(spot)} of the server at"
                f" {self._settings.where} ends at offset {end}, we go on at {position}: a committed offset"
                " beyond the end means that the server has lost writes, or that the stream was deleted."
                " Restore it, or start anew with `streamflow reset`"
            )

    # Snapshots

    async def _load(self, spot: TopicPartition, mark: int, end: int) -> None:
        """The rows of the snapshot from our position up to the mark, which is where the stream begins."""
        position = self.at.get(spot)
        if position is None:
            return
        while True:
            rows = await self._scan(spot, position, mark)
            again = await self._connection.one("HGET", self._names.marks(spot), "trimmed")
            if again is None:
                raise TransportError(f"{spot[0]}[{spot[1]}] was removed while it was read")
            if int(again) == mark:
                break
            # Compaction has moved on while we scanned: newer rows may have come in behind us.
            mark = int(again)
        if self.at.get(spot) == position:
            # Newest first: they are taken from the end.
            rows.sort(reverse=True)
            self._snapshots[spot] = rows, mark, end

    async def _scan(self, spot: TopicPartition, position: int, mark: int) -> list[tuple[int, Entry]]:
        rows: dict[int, Entry] = {}
        cursor: bytes | str = "0"
        while True:
            cursor, flat = await self._connection.one(
                "HSCAN", self._names.snapshot(spot), cursor, "COUNT", SCAN_COUNT
            )
            for packed in flat[1::2]:
                entry = of_snapshot(packed)
                offset = offset_of_id(entry[0])
                if position <= offset < mark:  # what is newer than the mark the stream still has
                    rows[offset] = entry
            if cursor == b"0":
                return list(rows.items())

    def _from_snapshots(self) -> list[Batch]:
        batches = []
        for spot, (rows, mark, end) in list(self._snapshots.items()):
            piece = [rows.pop()[1] for _ in range(min(len(rows), self._settings.fetch_records))]
            found = columns(piece)
            next_offset = found.offsets[-1] + 1 if rows else mark
            if not rows:
                del self._snapshots[spot]
            end_offset = max(next_offset + (1 if rows else 0), end)
            batches.append(Batch(spot[0], spot[1], *found, next_offset, end_offset))
            self.at[spot] = next_offset
        return batches


def readable(entries: list[Entry]) -> list[Entry]:
    """The entries in front of the first one whose id has no offset."""
    for n, entry in enumerate(entries):
        try:
            offset_of_id(entry[0])
        except IdOutOfRange:
            return entries[:n]
    return entries
