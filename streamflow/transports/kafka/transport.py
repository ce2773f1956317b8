"""`Transport` on Apache Kafka through aiokafka. What each part does stands in its module."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Iterable, Sequence

from streamflow.clock import Clock
from streamflow.errors import TransportError
from streamflow.transports.base import (
    Assignment,
    Batch,
    Commit,
    Features,
    LogReader,
    RebalanceListener,
    Record,
    TopicPartition,
    TopicSpec,
)
from streamflow.transports.kafka.commits import PlainCommits, Transactions
from streamflow.transports.kafka.connection import Connection
from streamflow.transports.kafka.group import Group
from streamflow.transports.kafka.offsets import GroupFence, GroupOffsets
from streamflow.transports.kafka.producer import Producer, begin_life, offsets
from streamflow.transports.kafka.reader import KafkaLogReader
from streamflow.transports.kafka.reset import forget
from streamflow.transports.kafka.settings import KafkaSettings
from streamflow.transports.kafka.topics import Topics

log = logging.getLogger(__name__)

FENCE_TIMEOUT_MS = 30_000
# Until it is told that there is no transaction to be had; it is asked for again then.
READY_TIMEOUT_MS = 15_000


class KafkaTransport:
    """One worker's connection to the cluster: reads, commits under the group's fence, sends."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self.features = Features(transactions=settings.transactions, shared=True)
        self._settings = settings
        self._clock = clock
        # Requests of their own connection: behind a fetch that waits for records they would wait too.
        self._connection = Connection(settings, clock)
        self._topics = Topics(self._connection)
        self._offsets = GroupOffsets(self._connection, settings)
        # Checkpoints alone reach the first one; what is sent outside has the other.
        transactional_id = settings.transactional_id if settings.transactions else None
        self._committer = Producer(self._connection, settings, clock, transactional_id)
        self._sender = Producer(self._connection, settings, clock, None)
        self._sending = asyncio.Lock()
        self._commits: Transactions | PlainCommits
        if settings.transactions:
            self._commits = Transactions(self._connection, settings, self._offsets, self._committer)
        else:
            self._commits = PlainCommits(self._connection, settings, self._offsets, self._committer)
        self._group: Group | None = None
        self._readers: weakref.WeakSet[KafkaLogReader] = weakref.WeakSet()
        self._ended: set[tuple[int, str]] = (
            set()
        )  # (generation, transactional id) of predecessors that we ended

    async def start(self) -> None:
        await self._connection.start()

    async def stop(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            await group.leave()
        for reader in list(self._readers):
            await reader.close()
        await self._connection.stop()

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        await self._topics.create(specs)

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        return await self._topics.counts(topics)

    async def record_limits(self, topics: Iterable[str]) -> dict[str, int]:
        return await self._topics.record_limits(topics)

    async def subscribe(self, topics: Iterable[str], listener: RebalanceListener, url: str) -> None:
        """Raises TransportError when a topic does not exist or no broker answers."""
        wanted = sorted(set(topics))
        missing = set(wanted) - (await self._topics.counts(wanted)).keys()
        if missing:
            raise TransportError(f"no such topic: {', '.join(sorted(missing))}")
        if self._group is not None:
            self._group.resubscribe(wanted)
            return
        self._group = group = Group(self._settings, self._clock, listener, url)
        try:
            await group.join(wanted)
        except BaseException:
            self._group = None
            raise

    async def fetch(self, wait_ms: int) -> list[Batch]:
        if self._group is None:
            await self._clock.sleep_ms(wait_ms)
            return []
        return await self._group.fetch(wait_ms)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._joined().seek(partition, offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._joined().pause(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._joined().resume(partitions)

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """Waits for undecided commits of predecessors, and ends those of the dead ones."""
        wanted = list(partitions)
        deadline = self._connection.deadline(self._settings.committed_timeout_ms)
        assignment = self._group.assignment if self._group is not None else None
        if self._settings.transactions and assignment and not assignment.partitions.isdisjoint(wanted):
            # Our own former life first: what it left open would keep us waiting for its timeout.
            await self._committer.ready(self._connection.deadline(READY_TIMEOUT_MS))
            await self._end_dead_predecessors(assignment, wanted)
        found = await self._offsets.read(wanted, deadline)
        return {partition: found[partition].offset if partition in found else None for partition in wanted}

    async def earliest_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._topics.earliest(partitions)

    async def high_watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._topics.high_watermarks(partitions)

    def records_between(self, partition: TopicPartition, start: int, end: int) -> int | None:
        """As good as exact: only control records and gaps are counted with them."""
        return max(0, end - start)

    async def commit(self, commit: Commit) -> dict[TopicPartition, int]:
        """Raises Fenced, CommitAborted, CommitUnknown; RecordRefused for what is never taken."""
        fence = commit.assignment.fence
        if not isinstance(fence, GroupFence):
            raise TypeError("the assignment is not one of this transport")
        if not commit.offsets:
            raise ValueError("a commit names at least one offset: it is what the fence is checked with")
        foreign = commit.offsets.keys() - commit.assignment.partitions
        if foreign:
            # The broker would take them: it checks the member, not its partitions.
            raise ValueError(f"offsets of partitions that are not in the assignment: {sorted(foreign)}")
        return await self._commits.commit(commit, fence)

    async def send(self, records: Sequence[Record]) -> list[int]:
        """Raises TransportError (some of the records may have been written), RecordRefused."""
        async with self._sending:
            deadline = self._connection.deadline(self._settings.commit_timeout_ms)
            return offsets(await self._sender.write(records, deadline), len(records))

    async def forget(self, topics: Iterable[str]) -> None:
        """Deletes the group's offsets and these topics. Raises ConfigurationError while workers run."""
        await forget(self._connection, self._settings.group_id, topics)

    def log_reader(self) -> LogReader:
        reader = KafkaLogReader(self._settings, self._clock)
        self._readers.add(reader)
        return reader

    def _joined(self) -> Group:
        if self._group is None:
            raise TransportError("not subscribed")
        return self._group

    async def _end_dead_predecessors(
        self, assignment: Assignment, partitions: Sequence[TopicPartition]
    ) -> None:
        """Begins and drops a life of the transactional id that last committed each partition.

        Unless a live member has it: then it ends its commit itself. A dead one would keep the offset, and
        all readers of what it wrote, waiting until the transaction's timeout. To a worker that has
        merely left, and comes back, this does nothing: it begins a life of its own.
        """
        fence = assignment.fence
        if not isinstance(fence, GroupFence):
            raise TypeError("the assignment is not one of this transport")
        mine = [partition for partition in partitions if partition in assignment.partitions]
        deadline = self._connection.deadline(FENCE_TIMEOUT_MS)
        found = await self._offsets.read(mine, deadline, stable=False)
        owners = {entry.transactional_id for entry in found.values() if entry.transactional_id}
        # Also of those that died before their first commit: the group told of them while they lived.
        gone = self._joined().gone_ids
        for owner in sorted((owners | gone) - fence.live_ids):
            if (fence.generation, owner) not in self._ended:
                log.info("Ending what %s, which is not in the group any more, may have left open", owner)
                await begin_life(self._connection, owner, self._settings.transaction_timeout_ms, deadline)
                self._ended.add((fence.generation, owner))
            gone.discard(owner)
