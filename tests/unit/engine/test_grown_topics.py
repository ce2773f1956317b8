"""Topics that get another number of partitions under a running worker."""

from __future__ import annotations

import logging
import operator
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from streamflow.processing.event_stream import EventStream
from streamflow.transports.base import Record, TopicSpec
from tests.unit.engine.test_engine import PARTITIONS, World, counting, event


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


async def write(world: World, partition: int, *numbers: int) -> None:
    await world.client.send([Record("events", partition, b"ann", event(number)) for number in numbers])


async def test_the_partitions_that_there_were_go_on_and_the_cause_is_said_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    table = world.table()
    world.agent(counting(table))
    await world.start()
    await write(world, 0, *range(10))
    await world.until(lambda: world.row(table, "ann") == 10)
    with caplog.at_level(logging.WARNING):
        world.broker.grow_topic("events", 2 * PARTITIONS)
        await write(world, 2, *range(5))
        for step in range(2, 5):
            await write(world, 0, *range(10))
            await world.until(lambda step=step: world.row(table, "ann") == 10 * step)  # type: ignore[misc]
            # Each rebalance brings the new partitions again.
            world.broker.create_topics([TopicSpec(f"other-{step}", 1)])
            world.broker.grow_topic("events", 2 * PARTITIONS)
        await world.until(lambda: world.engine.live)
    active = world.engine.active
    assert active is not None
    assert active.source_partitions() == [("events", 0), ("events", 1)]
    told = [record.getMessage() for record in caplog.records if "has 4 partitions now" in record.message]
    assert len(told) == 1
    assert "'events'" in told[0]
    assert "2 to 3 are not read" in told[0]
    assert not await world.read("events-dead-letters")


async def test_agents_without_tables_take_up_new_partitions_at_once(world: World) -> None:
    seen: Counter[int] = Counter()

    async def run(stream: EventStream) -> None:
        async for _ in stream.items():
            seen[0] += 1

    world.agent(run)
    await world.start()
    await write(world, 0, *range(10))
    await world.until(lambda: seen[0] == 10)
    world.broker.grow_topic("events", 2 * PARTITIONS)
    await write(world, 3, *range(10))
    await world.until(lambda: seen[0] == 20)

    # What holds their progress has as many partitions as it had: that is no reason not to start.
    await world.engine.stop()
    world.engine = world.new_engine()
    world.agent(run)
    await world.engine.start("http://worker")
    await write(world, 3, *range(5))
    await world.until(lambda: seen[0] == 25)


async def test_what_was_for_a_partition_of_an_output_that_is_gone_goes_to_one_that_is_there(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    table = world.table()
    engine = world.engine

    async def run(stream: EventStream) -> None:
        async for key, one in stream.items():
            table.change(key, operator.add, 1)
            out = engine.topology.topics.place("out", one.id.encode())
            await engine.send(Record("out", out, one.id.encode(), b"x"))

    world.agent(run)
    engine.topology.topics.want("out", 8)
    await world.start()
    await write(world, 0, *range(20))
    await world.until(lambda: world.row(table, "ann") == 20)
    world.broker.delete_topic("out")
    world.broker.create_topics([TopicSpec("out", 2)])
    with caplog.at_level(logging.WARNING):
        await write(world, 0, *range(20, 60))
        await world.until(lambda: world.row(table, "ann") == 60)
    assert Counter(key for key, _, _ in await world.read("out")) == Counter(
        str(number).encode() for number in range(20, 60)
    )
    assert any("'out' has 2 partitions and had 8" in record.getMessage() for record in caplog.records)
