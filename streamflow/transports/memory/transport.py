"""`Transport` on a `MemoryBroker`. What each part does stands in its module."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from streamflow.clock import Clock
from streamflow.transports.base import (
    Batch,
    Commit,
    Features,
    RebalanceListener,
    Record,
    TopicPartition,
    TopicSpec,
)
from streamflow.transports.broker_transport import checked_fence
from streamflow.transports.memory.broker import MemoryBroker
from streamflow.transports.memory.commits import Commits
from streamflow.transports.memory.fetcher import Fetcher
from streamflow.transports.memory.group import Group
from streamflow.transports.memory.process import Process
from streamflow.transports.memory.reader import MemoryLogReader
from streamflow.transports.positions import Pausable, PausedPositions


class MemoryTransport(Pausable):
    """One worker's connection to the broker.

    ``name`` is the worker's slot: a second one of that name fences the first. `kill`, `stall`
    and `wake` are for tests.
    """

    features = Features(transactions=True, shared=False)

    def __init__(
        self,
        broker: MemoryBroker,
        group: str,
        name: str,
        clock: Clock | None = None,
        *,
        standby_replicas: int = 0,
    ) -> None:
        self.name = name
        self.broker = broker
        self._standby_replicas = standby_replicas
        self._clock = clock if clock is not None else broker.clock
        self._process = Process(name, broker, self._clock, self._on_point)
        self._coordinator = broker.coordinator(group)
        self._commits = Commits(broker, self._coordinator, self._process)
        self._fetcher = Fetcher(broker, self._clock)
        self._paused = PausedPositions(self._fetcher, self._assigned)
        self._group: Group | None = None
        self._epoch = 0

    # Life

    async def start(self) -> None:
        self._epoch = self._commits.start()

    async def stop(self) -> None:
        if not self._process.stop():
            return
        group, self._group = self._group, None
        self._lose()
        if group is not None:
            await group.leave()

    def kill(self) -> None:
        """No goodbye: the group waits for the session timeout, an open commit for the transaction timeout."""
        self._process.kill()
        self._fetcher.wake()
        if self._group is not None:
            self._group.kill()

    def stall(self) -> None:
        """Every call waits at its next step; past the session timeout the group gives up on the client."""
        self._process.stall()
        if self._group is not None:
            self._group.lose_session_later()

    def wake(self) -> None:
        self._process.wake()

    async def _on_point(self, point: str) -> None:
        faults = self.broker.faults
        if faults is not None and faults.on_point is not None:
            await faults.on_point(self, point)

    # Topics and offsets

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        self._process.check()
        self.broker.create_topics(specs)

    async def grow_topics(self, counts: Mapping[str, int]) -> None:
        for topic, count in counts.items():
            await self._process.operate("grow:before")
            if self.broker.partition_count(topic) < count:
                self.broker.grow_topic(topic, count)

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        self._process.check()
        counts = {topic: self.broker.partition_count(topic) for topic in topics}
        return {topic: count for topic, count in counts.items() if count}

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        self._process.check()
        ids = {topic: self.broker.topic_id(topic) for topic in topics}
        return {topic: topic_id for topic, topic_id in ids.items() if topic_id is not None}

    def read_only(self, ids: Mapping[str, str]) -> None:
        self._fetcher.read_only(ids)

    async def cleanup_policies(self, topics: Iterable[str]) -> dict[str, str]:
        self._process.check()
        logs = {topic: self.broker.log((topic, 0)) for topic in topics if self.broker.partition_count(topic)}
        return {topic: "compact" if log.compacted else "delete" for topic, log in logs.items()}

    async def earliest_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self._process.check()
        return {spot: self.broker.log(spot).start for spot in partitions}

    async def offsets_at(
        self, partitions: Iterable[TopicPartition], time_ms: int
    ) -> dict[TopicPartition, int]:
        self._process.check()
        return {spot: self.broker.log(spot).at_time(time_ms) for spot in partitions}

    async def high_watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self._process.check()
        return {spot: self.broker.log(spot).end for spot in partitions}

    async def committed_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        self._process.check()
        return {spot: self.broker.log(spot).stable for spot in partitions}

    async def committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        wanted = list(partitions)
        await self._process.operate("committed:before")
        while self._coordinator.unsettled(wanted):
            await self._coordinator.next_settled()
            await self._process.step("committed:before")
        return {spot: self._coordinator.committed.get(spot) for spot in wanted}

    # The group

    async def subscribe(self, topics: Iterable[str], listener: RebalanceListener, url: str) -> None:
        self._process.check()
        if self._group is not None:
            self._group.resubscribe(topics)
            return
        self._group = Group(
            self.broker,
            self._coordinator,
            self._process,
            listener,
            url,
            self._standby_replicas,
            self._epoch,
            self._lose,
        )
        self._group.join(topics)

    def _assigned(self) -> frozenset[TopicPartition]:
        group = self._group
        return group.assignment.partitions if group and group.assignment else frozenset()

    def _lose(self) -> None:
        """The assignment is about to go, or a fetch has to say why it can't go on."""
        self._paused.clear()
        self._fetcher.wake()

    # Reading

    async def fetch(self, wait_ms: int) -> list[Batch]:
        await asyncio.sleep(0)  # a loop of fetches that all find something must let others run
        await self._process.operate("fetch:before")
        self._check_group()
        return await self._fetcher.batches(wait_ms, self._step_of_fetch)

    async def _step_of_fetch(self) -> None:
        await self._process.step("fetch:before")
        self._check_group()

    def _check_group(self) -> None:
        if self._group is not None:
            self._group.check()

    def log_reader(self, *, little: bool = False) -> MemoryLogReader:
        return MemoryLogReader(self.broker, self._process)

    # Writing

    async def send(self, records: Sequence[Record]) -> list[int]:
        await asyncio.sleep(0)
        await self._process.operate("send:before")
        offsets = self.broker.write(records)
        await self._process.step("send:after")
        return offsets

    def records_between(self, partition: TopicPartition, start: int, end: int) -> int | None:
        """As good as exact: only control records and gaps are counted with them."""
        return max(0, end - start)

    async def commit(self, commit: Commit) -> dict[TopicPartition, int]:
        checked_fence(commit, str)
        return await self._commits.commit(commit)
