"""The topics that an app knows: where they begin and end, who reads them and how far that has come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from streamflow.engine.engine import Engine
from streamflow.errors import StreamflowError
from streamflow.query.facts import PartitionFacts, TopicFacts
from streamflow.query.slices import Slices
from streamflow.transports.base import TopicPartition

KEPT_MS: Final = 1_000.0
"""All who ask within this time get what was asked of the broker once."""
ASK_MAX_S: Final = 3.0
PARTITIONS_AT_ONCE: Final = 500

Offsets = dict[TopicPartition, int]
Ask = Callable[[Iterable[TopicPartition]], Awaitable[Mapping[TopicPartition, int]]]


class TopicBook:
    """Of one engine's app. Asks the broker no more often than once a second."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asking = asyncio.Lock()
        self._asked_ms: float | None = None
        self._starts: Offsets = {}
        self._ends: Offsets = {}

    def names(self) -> list[str]:
        """Every topic that the app knows."""
        return sorted(self._engine.topology.topics.counts)

    async def exists(self, topic: str) -> bool:
        """Does the app know it, or the broker? Raises TransportError."""
        topics = self._engine.topology.topics
        if topic not in topics.counts:
            await topics.look_up(self._engine.transport, [topic])
        return topic in topics.counts

    async def facts(self, topics: Sequence[str]) -> list[TopicFacts]:
        """Of these topics, all of `names`. What the broker does not tell in time is ``None``."""
        await self._ask()
        topology = self._engine.topology
        slices = Slices(self._engine.clock)
        internal, tables = self.internal(), topology.table_names()
        found = []
        for topic in topics:
            positions = self._positions(topic)
            partitions = []
            for partition in range(topology.topics.counts.get(topic, 0)):
                at = (topic, partition)
                partitions.append(
                    PartitionFacts(
                        partition, self._starts.get(at), self._ends.get(at), positions.get(partition)
                    )
                )
                if slices.over():
                    await slices.rest()
            found.append(
                TopicFacts(
                    topic,
                    topic in internal,
                    [agent.spec.name for agent in topology.agents if topic in agent.topics],
                    [t for t in tables if topic in topology.sources_of(t) or topic in topology.logs_of(t)],
                    partitions,
                )
            )
        return found

    async def unowned_lags(self, owned: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Records to be read of source partitions that are not ``owned``; asks only where there are any."""
        topology = self._engine.topology
        sources = {decoder.source.name for decoder in topology.decoders.values()}
        unowned = [
            (topic, partition)
            for topic in sorted(sources)
            for partition in range(topology.topics.counts.get(topic, 0))
            if (topic, partition) not in owned
        ]
        if not unowned:
            return {}
        await self._ask()
        positions = {topic: self._positions(topic) for topic, _ in unowned}
        lags = {}
        for topic, partition in unowned:
            start, end = self._starts.get((topic, partition)), self._ends.get((topic, partition))
            if start is not None and end is not None:
                lags[topic, partition] = max(0, end - max(start, positions[topic].get(partition, start)))
        return lags

    def internal(self) -> frozenset[str]:
        """The topics that hold the app's own state."""
        return self._engine.topology.own_topics()

    def _positions(self, topic: str) -> dict[int, int]:
        """Partition -> the least position that a consumer which is declared now has checkpointed."""
        topology = self._engine.topology
        consumers = {
            spec.consumer
            for decoder in topology.decoders.values()
            if decoder.source.name == topic
            for spec in decoder.specs()
        }
        least: dict[int, int] = {}
        for progress in self._engine.board.of_topic(topic):
            if progress.consumer in consumers and not progress.behind:
                before = least.get(progress.partition, progress.position)
                least[progress.partition] = min(progress.position, before)
        return least

    async def _ask(self) -> None:
        async with self._asking:
            clock = self._engine.clock
            if self._asked_ms is not None and clock.monotonic_ms() - self._asked_ms < KEPT_MS:
                return
            counts = dict(self._engine.topology.topics.counts)
            places = [(topic, p) for topic, count in sorted(counts.items()) for p in range(count)]
            transport = self._engine.transport
            self._starts = await _asked(transport.earliest_offsets, places)
            self._ends = await _asked(transport.high_watermarks, places)
            self._asked_ms = clock.monotonic_ms()


async def _asked(ask: Ask, places: Sequence[TopicPartition]) -> Offsets:
    """What is told of these partitions in time; one topic that is gone takes nothing from the others."""
    found: Offsets = {}
    try:
        async with asyncio.timeout(ASK_MAX_S):
            for at in range(0, len(places), PARTITIONS_AT_ONCE):
                some = places[at : at + PARTITIONS_AT_ONCE]
                try:
                    found.update(await ask(some))
                except StreamflowError:
                    for topic in dict.fromkeys(topic for topic, _ in some):
                        found.update(await _of_topic(ask, [each for each in some if each[0] == topic]))
    except TimeoutError:
        pass
    return found


async def _of_topic(ask: Ask, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
    try:
        return await ask(places)
    except StreamflowError:
        return {}
