"""Fills the streams of one run on Redis, and says what a group has committed there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import redis

from streamflow.clock import SystemClock
from streamflow.transports.base import TopicSpec
from streamflow.transports.redis_streams import RedisSettings, RedisTransport
from tests.bench.topics import GROUPINGS, topic_name
from tests.bench.workload import PARTITIONS, Answer, Expected, Workload

BATCH = 1_000


async def fill(broker: str, run: str, sizes: Sequence[int], keys: int) -> dict[int, dict[str, Answer]]:
    """As `topics.fill`. Entries are what a producer of streamflow writes: fields ``v`` and ``k``."""
    await create(broker, [topic_name(run, size) for size in sizes])
    expected = {size: Expected() for size in sizes}
    with connect(broker) as client:
        pipeline = client.pipeline(transaction=False)
        for number, record in enumerate(Workload(max(sizes), keys).records()):
            for size in sizes:
                if number < size:
                    expected[size].add(record)
                    stream = stream_of(topic_name(run, size), record.partition)
                    pipeline.xadd(stream, {"v": record.value, "k": record.key})
            if len(pipeline) >= BATCH:
                pipeline.execute()
        pipeline.execute()
    return {
        size: {grouping: counts.answer(grouping) for grouping in GROUPINGS}
        for size, counts in expected.items()
    }


async def create(broker: str, names: Sequence[str]) -> None:
    """The app must know how many partitions its topic has."""
    host, _, port = broker.rpartition(":")
    transport = RedisTransport(RedisSettings("bench", host=host, port=int(port)), SystemClock())
    await transport.start()
    try:
        await transport.create_topics(TopicSpec(name, PARTITIONS) for name in names)
    finally:
        await transport.stop()


async def remove(broker: str, run: str) -> None:
    """Every key of this run."""
    with connect(broker) as client:
        for key in client.scan_iter(f"*{run}*", count=1_000):
            client.unlink(key)


async def committed(broker: str, group: str, topic: str) -> int:
    """Entries that the group has done with: read, and not pending."""
    with connect(broker) as client:
        groups = [
            found
            for partition in range(PARTITIONS)
            for found in client.xinfo_groups(stream_of(topic, partition))
            if found["name"] == group.encode()
        ]
    return sum((found["entries-read"] or 0) - found["pending"] for found in groups)


def ends(broker: str, run: str, events: int) -> dict[str, int]:
    """partition -> the offset of its last entry."""
    with connect(broker) as client:
        found = {}
        for partition in range(PARTITIONS):
            stream = stream_of(topic_name(run, events), partition)
            for entry, _ in client.xrevrange(stream, count=1):
                ms, _, sequence = entry.decode().partition("-")
                found[str(partition)] = int(ms) << 20 | int(sequence)
    return found


def entries(broker: str, topic: str) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of every entry, partition by partition."""
    with connect(broker) as client:
        for partition in range(PARTITIONS):
            for _, fields in client.xrange(stream_of(topic, partition)):
                yield fields[b"k"], fields[b"v"]


def stream_of(topic: str, partition: int) -> str:
    return f"{topic}:{partition}"


def connect(broker: str) -> Any:
    host, _, port = broker.rpartition(":")
    return redis.Redis(host=host, port=int(port))
