"""`Transport` on Apache Kafka through aiokafka. What each part does stands in its module."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from streamflow.clock import Clock
from streamflow.errors import TopicRecreated, TransportError
from streamflow.transports.base import (
    Assignment,
    Batch,
    Commit,
    Features,
    OnPoint,
    RebalanceListener,
    Record,
    Replication,
    TopicPartition,
    pass_by,
)
from streamflow.transports.broker_transport import BrokerTransport, checked_fence
from streamflow.transports.kafka.broker_states import BrokerStates
from streamflow.transports.kafka.commits import Commits, PlainCommits
from streamflow.transports.kafka.connection import Connection
from streamflow.transports.kafka.group import Group, GroupFence
from streamflow.transports.kafka.log_limit import limit_client_log
from streamflow.transports.kafka.offsets import GroupOffsets
from streamflow.transports.kafka.producer import Producer, begin_life, offsets
from streamflow.transports.kafka.reader import KafkaLogReader
from streamflow.transports.kafka.reset import reset
from streamflow.transports.kafka.rights import DOCTOR, Rights
from streamflow.transports.kafka.settings import KafkaSettings
from streamflow.transports.kafka.topics import Topics

log = logging.getLogger(__name__)

LITTLE_BYTES = 32 << 10  # of one partition, for a look at it
NO_OFFSET = -1  # where it is the topic, and no position, that is in doubt

FENCE_TIMEOUT_MS = 30_000
# Until it is told that there is no transaction to be had; it is asked for again then.
READY_TIMEOUT_MS = 15_000


class KafkaTransport(BrokerTransport):
    """One worker's connection to the cluster: reads, commits under the group's fence, sends.

    ``on_point``, `kill`, `stall` and `wake` are for tests.
    """

    _topics: Topics
    _group: Group | None

    def __init__(self, settings: KafkaSettings, clock: Clock, on_point: OnPoint = pass_by) -> None:
        super().__init__()
        self.features = Features(transactions=settings.transactions, shared=True)
        self.settings = settings
        self._clock = clock
        # Requests of their own connection: behind a fetch that waits for records they would wait too.
        self._states = BrokerStates(clock)
        self._connection = Connection(settings, clock, self._states)
        self._topics = Topics(self._connection)
        self._offsets = GroupOffsets(self._connection, settings, self._lost)
        # Checkpoints alone reach the first one; what is sent outside has the other.
        transactional_id = settings.transactional_id if settings.transactions else None
        self._committer = Producer(self._connection, settings, clock, transactional_id)
        self._sender = Producer(self._connection, settings, clock, None)
        self._sending = asyncio.Lock()
        self._commits: Commits | PlainCommits
        if settings.transactions:
            self._commits = Commits(self._connection, settings, self._offsets, self._committer, on_point)
        else:
            self._commits = PlainCommits(self._connection, settings, self._offsets, self._committer)
        # (generation, transactional id) of predecessors that we ended
        self._ended: set[tuple[int, str]] = set()
        self._ids: dict[str, str] = {}  # topic -> the id that is insisted on
        self._gone: set[str] = set()  # topics of which it was told that they are not there

    async def start(self) -> None:
        limit_client_log(self._clock)
        await self._connection.start()

    async def stop(self) -> None:
        group, self._group = self._group, None
        if group is not None:
            await group.leave()
        await self._close_readers()
        await self._connection.stop()

    def kill(self) -> None:
        self._joined().kill()
        self._connection.cut_off()

    def stall(self) -> None:
        self._joined().stall()

    def wake(self) -> None:
        if self._group is not None:
            self._group.wake()

    async def creates_topics(self) -> bool:
        return await self._topics.created_by_name()

    async def missing_rights(
        self, *, reads: Collection[str], writes: Collection[str], makes: Collection[str]
    ) -> list[str]:
        group = self.settings.group_id
        return await Rights(self._connection).missing(
            reads=reads,
            writes=writes,
            makes=makes,
            group=group,
            transactional_id=f"{group}-{DOCTOR}" if self.settings.transactions else None,
        )

    async def record_limits(self, topics: Iterable[str]) -> dict[str, int]:
        return await self._topics.record_limits(topics)

    def _new_group(self, listener: RebalanceListener, url: str) -> Group:
        return Group(self.settings, self._clock, listener, url, self._is_stable, self._states)

    def _lost(self, fence: GroupFence, code: int) -> None:
        if self._group is not None:
            self._group.lost(fence, code)

    async def _is_stable(self, fence: GroupFence) -> bool:
        """Whether the group says that it still is in that generation, and in no rebalance."""
        try:
            deadline = self._connection.deadline(self.settings.request_timeout_ms)
            return await self._offsets.stands(fence, deadline)
        except TransportError:
            return False

    def _new_reader(self, *, little: bool) -> KafkaLogReader:
        settings = replace(self.settings, fetch_bytes=LITTLE_BYTES) if little else self.settings
        return KafkaLogReader(settings, self._clock, self._states)

    async def fetch(self, wait_ms: int) -> list[Batch]:
        if self._group is None:
            await self._clock.sleep_ms(wait_ms)
            return []
        batches = await self._group.fetch(wait_ms)
        doubts = self._group.take_doubts()
        for topic in self._ids.keys() - self._gone:
            # The group gives its partitions up as soon as the metadata lack it: then no fetch tells of it.
            if not self._group.has_heard_of(topic):
                doubts.setdefault((topic, 0), NO_OFFSET)
        if doubts:
            await self._check(doubts)
        return batches

    async def grow_topics(self, counts: Mapping[str, int]) -> None:
        """Gives topics more partitions. Raises TransportError, ConfigurationError."""
        await self._topics.grow(counts)

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """topic -> its id. Raises TransportError."""
        return await self._topics.ids(topics)

    async def replication(self, topics: Iterable[str]) -> dict[str, Replication]:
        """topic -> its copies. Raises TransportError."""
        return await self._topics.replication(topics)

    def read_only(self, ids: Mapping[str, str]) -> None:
        """`fetch` takes these topics by these ids alone."""
        self._ids |= ids
        self._gone -= ids.keys()
        if self._group is not None:
            self._group.read_only(ids)

    async def _check(self, doubts: Mapping[TopicPartition, int]) -> None:
        """Raises TopicRecreated where the log at hand is another than that of these positions, for sure."""
        topics = {topic for topic, _ in doubts}
        found = await self._topics.describe(topics)
        for topic in sorted(topics - found.keys() - self._gone):
            log.warning("Topic %s is not there any more: nothing of it is read until it is back", topic)
        self._gone = (self._gone - topics) | (topics - found.keys())
        for topic, now in found.items():
            expected = self._ids.get(topic)
            if expected is not None and now.topic_id and now.topic_id != expected:
                raise TopicRecreated(
                    f"topic {topic!r} was deleted and made again: its id is {now.topic_id}, was {expected}"
                )
        spots = [(topic, p) for topic, p in doubts if topic in found and p < found[topic].partitions]
        ends = await self._topics.high_watermarks(spots)
        for (topic, partition), end in ends.items():
            position = doubts[topic, partition]
            if position > end:
                raise TopicRecreated(f"{topic}[{partition}] ends at {end}, and was read up to {position}")

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._joined().seek(partition, offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._joined().pause(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._joined().resume(partitions)

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        """Waits for undecided commits of predecessors, and ends those of the dead ones."""
        wanted = list(partitions)
        deadline = self._connection.deadline(self.settings.committed_timeout_ms)
        assignment = self._group.assignment if self._group is not None else None
        if self.settings.transactions and assignment and not assignment.partitions.isdisjoint(wanted):
            # Our own former life first: what it left open would keep us waiting for its timeout.
            await self._committer.ready(self._connection.deadline(READY_TIMEOUT_MS))
            await self._end_dead_predecessors(assignment, wanted)
        found = await self._offsets.read(wanted, deadline)
        return {partition: found[partition].offset if partition in found else None for partition in wanted}

    async def high_watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._topics.high_watermarks(partitions)

    async def committed_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._topics.committed_ends(partitions)

    def records_between(self, partition: TopicPartition, start: int, end: int) -> int | None:
        """As good as exact: only control records and gaps are counted with them."""
        return max(0, end - start)

    async def commit(self, commit: Commit) -> dict[TopicPartition, int]:
        """Raises Fenced, CommitAborted, CommitUnknown; RecordRefused for what is never taken."""
        return await self._commits.commit(commit, checked_fence(commit, GroupFence))

    async def send(self, records: Sequence[Record]) -> list[int]:
        """Raises TransportError (some of the records may have been written), RecordRefused."""
        async with self._sending:
            deadline = self._connection.deadline(self.settings.commit_timeout_ms)
            return offsets(await self._sender.write(records, deadline), len(records))

    async def reset(self, topics: Iterable[str], *, group: bool = True) -> None:
        """Deletes these topics, and the group's offsets. Raises ConfigurationError while workers run."""
        await reset(self._connection, self.settings.group_id, topics, group=group)

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
                await begin_life(self._connection, owner, self.settings.transaction_timeout_ms, deadline)
                self._ended.add((fence.generation, owner))
            gone.discard(owner)
