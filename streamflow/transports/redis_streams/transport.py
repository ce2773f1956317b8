"""`Transport` on Redis Streams. What each part does stands in its module."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from streamflow.clock import Clock
from streamflow.errors import TransportError
from streamflow.transports.base import (
    Batch,
    Commit,
    Features,
    OnPoint,
    RebalanceListener,
    Record,
    TopicPartition,
    pass_by,
)
from streamflow.transports.broker_transport import BrokerTransport, checked_fence
from streamflow.transports.positions import Pausable, PausedPositions
from streamflow.transports.records import partition_of, spot_of
from streamflow.transports.redis_streams.commits import Commits
from streamflow.transports.redis_streams.compaction import Compaction
from streamflow.transports.redis_streams.connection import SEND, Connection
from streamflow.transports.redis_streams.entries import chunks
from streamflow.transports.redis_streams.fetcher import Fetcher
from streamflow.transports.redis_streams.group import Group, GroupFence
from streamflow.transports.redis_streams.lag import UNKNOWN, LagCounts
from streamflow.transports.redis_streams.names import offset_of, spot_field
from streamflow.transports.redis_streams.pending import Pending
from streamflow.transports.redis_streams.reader import RedisLogReader
from streamflow.transports.redis_streams.reset import reset
from streamflow.transports.redis_streams.server_check import check_server
from streamflow.transports.redis_streams.settings import BLOCK_MS_MAX, RedisSettings
from streamflow.transports.redis_streams.topics import Topics, end_of, extent_of

LITTLE_BYTES, LITTLE_RECORDS = 64 << 10, 200  # of one read, for a look at a topic


class RedisTransport(Pausable, BrokerTransport):
    """One worker's connections to the server: reads, commits under the group's fence, sends.

    ``on_point``, `kill`, `stall` and `wake` are for tests; so is `compaction`, which they do not wait for.
    """

    _topics: Topics
    _group: Group | None

    def __init__(self, settings: RedisSettings, clock: Clock, on_point: OnPoint = pass_by) -> None:
        super().__init__()
        self.features = Features(transactions=True, shared=True, open_commits=False, timely_offsets=True)
        self.settings = settings
        self._names = settings.names
        self._clock = clock
        self._connection_factory = settings.connection_factory()
        # Each has a connection of its own, where one must not wait for the other.
        self._connections = [self._new_connection() for _ in range(6)]
        self._control, self._committing, self._sending, self._fetching, self._news, self._compacting = (
            self._connections
        )
        self._topics = Topics(self._control, self._names)
        self._commits = Commits(self._committing, self._topics, settings, clock, on_point)
        self._lag = LagCounts()
        self._fetcher = Fetcher(self._fetching, self._topics, settings, clock, self._lag)
        self._pending = Pending(settings)
        self._paused = PausedPositions(self._fetcher, self._assigned)
        self.compaction = Compaction(self._compacting, self._topics, settings, clock, self._assigned)
        self._compaction_task: asyncio.Task[None] | None = None
        self._stopped = False

    def _new_connection(self) -> Connection:
        settings = self.settings
        # A read may block first, and then still takes as long as any request.
        limit_ms = settings.request_timeout_ms + BLOCK_MS_MAX
        return Connection(self._connection_factory.make, settings.where, limit_ms / 1_000)

    # Life

    async def start(self) -> None:
        """Raises TransportError when no server answers, ConfigurationError for one that will not do."""
        await check_server(self._control, self.settings)
        self._compaction_task = asyncio.create_task(self.compaction.run(), name="compaction")

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._lose()
        if self._compaction_task is not None:
            self._compaction_task.cancel()
            await asyncio.gather(self._compaction_task, return_exceptions=True)
        try:
            if self._group is not None:
                await self._group.leave()
        finally:
            await self._close_readers()
            for connection in self._connections:
                await connection.close()
            await self._connection_factory.close()

    def kill(self) -> None:
        self._joined().kill()
        if self._compaction_task is not None:
            self._compaction_task.cancel()
        for connection in self._connections:
            connection.cut_off()

    def stall(self) -> None:
        self._joined().stall()

    def wake(self) -> None:
        if self._group is not None:
            self._group.wake()

    # Topics and offsets

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """Publishes first what predecessors decided; what they did not decide is fenced and never will be."""
        spots = list(partitions)
        self._check_membership()
        await self._commits.clear_up()
        if not spots:
            return {}
        fields = [field for spot in spots for field in (spot_field(spot), f"{spot_field(spot)}:read")]
        found = await self._control.one("HMGET", self._names.offsets, *fields)
        infos = await self._topics.infos(spots)
        await self._pending.take_over(self._control, sorted(self._assigned().intersection(spots)))
        offsets: dict[TopicPartition, int | None] = {}
        for spot, text, read, info in zip(spots, found[::2], found[1::2], infos, strict=True):
            offsets[spot] = offset = None if text is None else int(text)
            self._fetcher.learn_end(spot, info)
            if offset is not None:
                self._lag.begin(spot, offset, UNKNOWN if read is None else int(read))
            elif info is not None:
                there = extent_of(info)
                self._lag.begin(spot, None, there.added - there.length, there.first)
        return offsets

    async def high_watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """What is decided counts: it is published first."""
        spots = list(partitions)
        await self._commits.publish_decided()
        infos = await self._topics.infos(spots)
        for spot, info in zip(spots, infos, strict=True):
            self._fetcher.learn_end(spot, info)
        return {spot: end_of(info) for spot, info in zip(spots, infos, strict=True)}

    async def committed_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """What lies in a stream is committed."""
        return await self.high_watermarks(partitions)

    async def reset(self, topics: Iterable[str], *, group: bool = True) -> None:
        """Deletes these topics, the group and its offsets. Raises ConfigurationError while workers run."""
        await reset(self._control, self._topics, self._commits, self.settings, topics, group=group)

    # The group

    def _new_group(self, listener: RebalanceListener, url: str) -> Group:
        connections = (self._control, self._news)
        return Group(self.settings, self._clock, connections, self._topics, listener, url, self._lose)

    def _check_membership(self) -> None:
        """Raises what has ended it."""
        if self._group is not None and self._group.failure is not None:
            raise self._group.failure

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Raises what has ended the membership, too: nobody may be fetching who would be told."""
        self._check_membership()
        return await super().partition_counts(topics)

    def _joined(self) -> Group:
        if self._group is None:
            raise TransportError("not subscribed")
        return self._group

    def _lose(self) -> None:
        """The assignment is about to go, or a fetch has to say why it can't go on."""
        self._paused.clear()
        self._fetcher.forget_totals()

    # Reading

    async def fetch(self, wait_ms: int) -> list[Batch]:
        """Raises TransportError; what ended the membership; IdOutOfRange; LostWrites."""
        self._check_membership()
        return await self._fetcher.batches(wait_ms)

    def _new_reader(self, *, little: bool) -> RedisLogReader:
        connection, settings = self._new_connection(), self.settings
        if little:
            settings = replace(settings, fetch_bytes=LITTLE_BYTES, fetch_records=LITTLE_RECORDS)
        return RedisLogReader(Fetcher(connection, self._topics, settings, self._clock), connection)

    # Writing

    def records_between(self, partition: TopicPartition, start: int, end: int) -> int | None:
        """By the entries that were read, and for what is not read yet by what the server says it has."""
        if start >= end:
            return 0
        first, last = self._lag.before(partition, start), self._lag.before(partition, end)
        if last == UNKNOWN:
            last = self._fetcher.entries_before(partition, end)
        return None if UNKNOWN in (first, last) else max(0, last - first)

    async def commit(self, commit: Commit) -> dict[TopicPartition, int]:
        """Raises Fenced, CommitAborted, CommitUnknown; RecordTooLarge for what a topic never takes."""
        fence = checked_fence(commit, GroupFence)
        self._check_membership()
        counts = await self._entries_before(commit.offsets)
        ends = await self._commits.commit(commit, fence, counts, self._pending.changes(commit))
        self._pending.committed(commit.offsets, commit.failing)
        for spot, offset in commit.offsets.items():
            self._lag.settle(spot, offset)
        self.compaction.wrote(ends)
        return ends

    async def _entries_before(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """What XINFO GROUPS makes the lag of; UNKNOWN where it has been lost until the end is reached."""
        counts = {spot: self._lag.before(spot, offset) for spot, offset in offsets.items()}
        unknown = [spot for spot, count in counts.items() if count == UNKNOWN]
        if unknown:
            try:
                infos = await self._topics.infos(unknown)
            except TransportError:
                return counts  # the commit itself will say so
            for spot, info in zip(unknown, infos, strict=True):
                if info is not None and end_of(info) == offsets[spot]:
                    counts[spot] = info[b"entries-added"]
                    self._lag.begin(spot, offsets[spot], counts[spot])
        return counts

    async def send(self, records: Sequence[Record]) -> list[int]:
        """Raises TransportError (some of the records may have been written), RecordTooLarge."""
        by_spot = await self._topics.by_stream(records)
        spots = {self._names.stream(spot): spot for spot in by_spot}
        offsets: dict[TopicPartition, list[int]] = {spot: [] for spot in by_spot}
        settings = self.settings
        for piece in chunks(
            zip(spots, by_spot.values(), strict=True), settings.send_records, settings.chunk_bytes
        ):
            places = await self._sending.call(SEND, (), (piece.head, piece.data))
            for at, (stream, count, _) in enumerate(piece.runs):
                first = offset_of(int(places[3 * at + 1]), places[3 * at + 2])
                offsets[spots[stream]].extend(range(first, first + count))
        self.compaction.wrote(by_spot)
        if len(offsets) == 1:
            return next(iter(offsets.values()))
        if len({topic for topic, _ in offsets}) == 1:  # the partition alone tells, and costs half
            by_partition = {partition: iter(mine) for (_, partition), mine in offsets.items()}
            return list(map(next, map(by_partition.__getitem__, map(partition_of, records))))
        rest = {spot: iter(mine) for spot, mine in offsets.items()}
        return list(map(next, map(rest.__getitem__, map(spot_of, records))))
