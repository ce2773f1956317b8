"""Creates and fills the topics of one run, and removes whatever the run left on the broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.producer.message_accumulator import BatchBuilder

from tests.bench.workload import PARTITIONS, Answer, Expected, Workload

# What Java's producer, and so most topics, writes by default.
BATCH_BYTES = 16_384
IN_FLIGHT_MAX = 200
GROUPINGS = ("key", "type", "window")


def topic_name(run: str, events: int) -> str:
    return f"bench-{run}-{events}"


async def fill(broker: str, run: str, sizes: Sequence[int], keys: int) -> dict[int, dict[str, Answer]]:
    """One topic for each size, the smaller ones a prefix of the largest; size -> grouping -> answer."""
    await create(broker, [topic_name(run, size) for size in sizes])
    expected = {size: Expected() for size in sizes}
    writers: dict[tuple[int, int], Writer] = {}  # (size, partition) -> writer
    async with AIOKafkaProducer(bootstrap_servers=broker, max_batch_size=BATCH_BYTES) as producer:
        for size in sizes:
            for partition in range(PARTITIONS):
                writers[size, partition] = Writer(producer, topic_name(run, size), partition)
        for number, record in enumerate(Workload(max(sizes), keys).records()):
            for size in sizes:
                if number < size:
                    expected[size].add(record)
                    await writers[size, record.partition].append(
                        record.key, record.value, record.timestamp_ms
                    )
        for writer in writers.values():
            await writer.flush()
    return {
        size: {grouping: counts.answer(grouping) for grouping in GROUPINGS}
        for size, counts in expected.items()
    }


class Writer:
    """Full batches to one partition: a fifth of the cost of sending record by record."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._batch: BatchBuilder = producer.create_batch()
        self._sent: list[Awaitable[object]] = []

    async def append(self, key: bytes, value: bytes, timestamp_ms: int) -> None:
        if self._batch.append(key=key, value=value, timestamp=timestamp_ms) is None:
            await self._send()
            self._batch.append(key=key, value=value, timestamp=timestamp_ms)

    async def flush(self) -> None:
        """Returns when the broker has everything; raises where it refused something."""
        if self._batch.record_count():
            await self._send()
        await asyncio.gather(*self._sent)
        self._sent.clear()

    async def _send(self) -> None:
        self._sent.append(
            await self._producer.send_batch(self._batch, self._topic, partition=self._partition)
        )
        self._batch = self._producer.create_batch()
        if len(self._sent) >= IN_FLIGHT_MAX:
            await asyncio.gather(*self._sent)
            self._sent.clear()


async def create(broker: str, names: Sequence[str]) -> None:
    # The events are stamped in the past: time-based retention would delete them.
    settings: Mapping[str, str] = {"retention.ms": "-1"}
    async with admin(broker) as client:
        topics = [NewTopic(name, PARTITIONS, 1, topic_configs=dict(settings)) for name in names]
        answer = await client.create_topics(topics)
        refused = [error for error in answer.topic_errors if error[1] != 0]
        if refused:
            raise RuntimeError(f"creating the topics failed: {refused}")


async def remove(broker: str, run: str) -> None:
    """Every topic of this run: those that we filled, and the contestants' changelogs."""
    async with admin(broker) as client:
        names = [name for name in await client.list_topics() if run in name]
        if names:
            await client.delete_topics(names)


@contextlib.asynccontextmanager
async def admin(broker: str):
    client = AIOKafkaAdminClient(bootstrap_servers=broker)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def committed(broker: str, group: str, topic: str) -> int:
    """The sum of the group's committed offsets of this topic: every partition began at 0."""
    async with admin(broker) as client:
        offsets = await client.list_consumer_group_offsets(group)
    return sum(max(found.offset, 0) for partition, found in offsets.items() if partition.topic == topic)
