"""`Transport` on Redis Streams. What each part does stands in its module."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterable, Mapping, Sequence

from streamflow.clock import Clock
from streamflow.errors import TransportError
from streamflow.transports.base import (
    Batch,
    Commit,
    Features,
    LogReader,
    RebalanceListener,
    Record,
    TopicPartition,
    TopicSpec,
)
from streamflow.transports.redis_streams.commits import Commits
from streamflow.transports.redis_streams.compaction import Upkeep
from streamflow.transports.redis_streams.connection import SEND, Link
from streamflow.transports.redis_streams.entries import chunks
from streamflow.transports.redis_streams.group import Fence, Membership, Offer, create_groups
from streamflow.transports.redis_streams.lag import UNKNOWN, Counts
from streamflow.transports.redis_streams.names import offset_of, spot_field
from streamflow.transports.redis_streams.pending import Pending
from streamflow.transports.redis_streams.reader import Reader, RedisLogReader
from streamflow.transports.redis_streams.reset import forget
from streamflow.transports.redis_streams.server_check import check_server
from streamflow.transports.redis_streams.settings import BLOCK_MS_MAX, RedisSettings
from streamflow.transports.redis_streams.topics import Topics, end_of, partition_of, spot_of


class RedisTransport:
    """One worker's connections to the server: reads, commits under the group's fence, sends."""

    def __init__(self, settings: RedisSettings, clock: Clock) -> None:
        self.features = Features(transactions=True, shared=True, open_commits=False)
        self._settings = settings
        self._names = settings.names
        self._clock = clock
        self._connections = settings.connections()
        # Each has a connection of its own, where one must not wait for the other.
        self._links = [self._link() for _ in range(6)]
        self._control, self._committing, self._sending, self._fetching, self._news, self._keeping = (
            self._links
        )
        self._topics = Topics(self._control, self._names)
        self._commits = Commits(self._committing, self._topics, settings, clock)
        self._reader = Reader(self._fetching, self._topics, settings, clock)
        self._counts = Counts()
        self._pending = Pending(settings)
        self._reader.on_read = self._counts.add
        self._upkeep = Upkeep(self._keeping, self._topics, settings, clock, self._assigned)
        self._upkeep_task: asyncio.Task[None] | None = None
        self._membership: Membership | None = None
        self._sought: dict[TopicPartition, int] = {}  # of the partitions that are paused
        self._readers: weakref.WeakSet[RedisLogReader] = weakref.WeakSet()
        self._stopped = False

    def _link(self) -> Link:
        settings = self._settings
        # A read may block first, and then still takes as long as any request.
        limit_ms = settings.request_timeout_ms + BLOCK_MS_MAX
        return Link(self._connections.make, settings.where, limit_ms / 1_000)

    # Life

    async def start(self) -> None:
        """Raises TransportError when no server answers, ConfigurationError for one that will not do."""
        await check_server(self._control, self._settings)
        self._upkeep_task = asyncio.create_task(self._upkeep.run(), name="upkeep")

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._lose()
        if self._upkeep_task is not None:
            self._upkeep_task.cancel()
            await asyncio.gather(self._upkeep_task, return_exceptions=True)
        try:
            if self._membership is not None:
                await self._membership.leave()
        finally:
            for reader in list(self._readers):
                await reader.close()
            for link in self._links:
                await link.close()
            await self._connections.close()

    # Topics and offsets

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        await self._topics.create(specs)

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        return await self._topics.counts(topics)

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """Publishes first what predecessors decided; what they did not decide is fenced and never will be."""
        spots = list(partitions)
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
            self._reader.learn_end(spot, info)
            if offset is not None:
                self._counts.begin(spot, offset, UNKNOWN if read is None else int(read))
            elif info is not None:
                self._counts.begin(spot, None, info[b"entries-added"] - info[b"length"])
        return offsets

    async def earliest_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._topics.starts(list(partitions))

    async def high_watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """What is decided counts: it is published first."""
        spots = list(partitions)
        await self._commits.publish_decided()
        infos = await self._topics.infos(spots)
        for spot, info in zip(spots, infos, strict=True):
            self._reader.learn_end(spot, info)
        return {spot: end_of(info) for spot, info in zip(spots, infos, strict=True)}

    async def forget(self, topics: Iterable[str]) -> None:
        """Deletes the group, its offsets and these topics. Raises ConfigurationError while workers run."""
        await forget(self._control, self._topics, self._commits, self._settings, topics)

    # The group

    async def subscribe(self, topics: Iterable[str], listener: RebalanceListener, url: str) -> None:
        """Raises TransportError when a topic does not exist or the server does not answer."""
        wanted = sorted(set(topics))
        counts = await self._topics.counts(wanted)
        missing = set(wanted) - counts.keys()
        if missing:
            raise TransportError(f"no such topic: {', '.join(sorted(missing))}")
        await create_groups(
            self._control,
            self._settings,
            ((topic, p) for topic, count in counts.items() for p in range(count)),
        )
        if self._membership is not None:
            await self._membership.offer(Offer(url, wanted, self._settings.standby_replicas))
            return
        membership = Membership(
            self._settings,
            self._clock,
            (self._control, self._news),
            self._topics,
            listener,
            Offer(url, wanted, self._settings.standby_replicas),
        )
        membership.on_lost = self._lose
        self._membership = membership
        try:
            await membership.join()
        except BaseException:
            self._membership = None
            raise

    def _assigned(self) -> frozenset[TopicPartition]:
        membership = self._membership
        return membership.assignment.partitions if membership and membership.assignment else frozenset()

    def _lose(self) -> None:
        """The assignment is about to go, or a fetch has to say why it can't go on."""
        self._sought.clear()
        self._reader.drop(list(self._reader.at))
        self._reader.totals.clear()

    # Reading

    async def fetch(self, wait_ms: int) -> list[Batch]:
        """Raises TransportError; what ended the membership; IdOutOfRange; LostWrites."""
        if self._membership is not None and self._membership.failure is not None:
            raise self._membership.failure
        return await self._reader.batches(wait_ms)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Of a partition that is not assigned (any more) it is ignored: a rebalance may come between."""
        if partition in self._reader.at:
            self._reader.move(partition, offset)
        elif partition in self._assigned():
            self._sought[partition] = offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        for spot in partitions:
            if spot in self._reader.at:
                self._sought[spot] = self._reader.at[spot]
                self._reader.drop([spot])

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        for spot in partitions:
            if spot in self._assigned() and spot not in self._reader.at:
                self._reader.move(spot, self._sought.pop(spot, 0))

    def log_reader(self) -> LogReader:
        link = self._link()
        reader = RedisLogReader(Reader(link, self._topics, self._settings, self._clock), link)
        self._readers.add(reader)
        return reader

    # Writing

    def records_between(self, partition: TopicPartition, start: int, end: int) -> int | None:
        """By the entries that were read, and for what is not read yet by what the server says it has."""
        if start >= end:
            return 0
        first, last = self._counts.before(partition, start), self._counts.before(partition, end)
        if last == UNKNOWN:
            last = self._reader.totals.get(partition, {}).get(end, UNKNOWN)
        return None if UNKNOWN in (first, last) else max(0, last - first)

    async def commit(self, commit: Commit) -> dict[TopicPartition, int]:
        """Raises Fenced, CommitAborted, CommitUnknown; RecordTooLarge for what a topic never takes."""
        fence = commit.assignment.fence
        if not isinstance(fence, Fence):
            raise TypeError("the assignment is not one of this transport")
        if not commit.offsets:
            raise ValueError("a commit names at least one offset: it is what the fence is checked with")
        foreign = commit.offsets.keys() - commit.assignment.partitions
        if foreign:
            raise ValueError(f"offsets of partitions that are not in the assignment: {sorted(foreign)}")
        counts = await self._entries_before(commit.offsets)
        ends = await self._commits.commit(commit, fence, counts, self._pending.changes(commit))
        self._pending.committed(commit.offsets, commit.failing)
        for spot, offset in commit.offsets.items():
            self._counts.settle(spot, offset)
        self._upkeep.wrote(ends)
        return ends

    async def _entries_before(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """What XINFO GROUPS makes the lag of; UNKNOWN where it has been lost until the end is reached."""
        counts = {spot: self._counts.before(spot, offset) for spot, offset in offsets.items()}
        unknown = [spot for spot, count in counts.items() if count == UNKNOWN]
        if unknown:
            try:
                infos = await self._topics.infos(unknown)
            except TransportError:
                return counts  # the commit itself will say so
            for spot, info in zip(unknown, infos, strict=True):
                if info is not None and end_of(info) == offsets[spot]:
                    counts[spot] = info[b"entries-added"]
                    self._counts.begin(spot, offsets[spot], counts[spot])
        return counts

    async def send(self, records: Sequence[Record]) -> list[int]:
        """Raises TransportError (some of the records may have been written), RecordTooLarge."""
        by_spot = await self._topics.by_stream(records)
        spots = {self._names.stream(spot): spot for spot in by_spot}
        offsets: dict[TopicPartition, list[int]] = {spot: [] for spot in by_spot}
        settings = self._settings
        for piece in chunks(
            zip(spots, by_spot.values(), strict=True), settings.send_records, settings.chunk_bytes
        ):
            places = await self._sending.call(SEND, (), (piece.head, piece.data))
            for at, (stream, count, _) in enumerate(piece.runs):
                first = offset_of(int(places[3 * at + 1]), places[3 * at + 2])
                offsets[spots[stream]].extend(range(first, first + count))
        self._upkeep.wrote(by_spot)
        if len(offsets) == 1:
            return next(iter(offsets.values()))
        if len({topic for topic, _ in offsets}) == 1:  # the partition alone tells, and costs half
            by_partition = {partition: iter(mine) for (_, partition), mine in offsets.items()}
            return list(map(next, map(by_partition.__getitem__, map(partition_of, records))))
        rest = {spot: iter(mine) for spot, mine in offsets.items()}
        return list(map(next, map(rest.__getitem__, map(spot_of, records))))
