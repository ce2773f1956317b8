"""A log of state that ends before what was counted into it: an error, and no quiet loss."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.engine.engine import Engine
from streamflow.errors import LostWrites
from streamflow.settings import Settings
from streamflow.transports.base import TopicSpec
from streamflow.transports.memory import MemoryTransport
from streamflow.windows import TumblingWindow
from tests.support.declared import Declared, events
from tests.support.running import make_app, running, until

OPTIONS: dict[str, Any] = {"grace_s": 0, "retain_s": 600, "idle_close_s": None}


class World(Declared):
    """An aggregate by key and one by a field, over one partition."""

    def __init__(self) -> None:
        window = TumblingWindow(10, **OPTIONS)
        self.policy = "stop"
        super().__init__(
            AggregateSpec("by_key", "events", Key(), None, RowFunctions(Count())),
            AggregateSpec("by_type", "events", "type", window, RowFunctions(Count())),
            partitions=1,
        )

    def new_engine(self, name: str = "worker") -> Engine:
        settings = Settings(id="app", commit_interval=0.01, fetch_wait_ms=5, on_lost_state=self.policy)
        engine = Engine(settings, MemoryTransport(self.broker, "app", name), self.clock)
        for spec in self.specs:
            engine.topology.add_aggregate(spec, self.source)
        return engine

    async def lose(self, topic: str) -> None:
        """The topic is made anew, empty, while nobody runs."""
        await self.engine.stop()
        self.broker.delete_topic(topic)
        self.broker.create_topics([TopicSpec(topic, 1, compacted=True)])
        self.engine = self.new_engine()


@pytest.mark.parametrize("topic", ["app-by_key-changelog", "app-by_type-changelog", "app-by_type-shuffle"])
async def test_the_worker_ends_and_says_what_is_lost_and_what_to_do(topic: str) -> None:
    world = World()
    await world.start()
    try:
        await world.write(0, *events(range(100)))
        await world.write(0, *events(range(100)))
        await world.lose(topic)
        await world.engine.start("http://worker")
        await asyncio.wait_for(world.engine.failed.wait(), 10)
        failure = world.engine.failure
        assert isinstance(failure, LostWrites)
        for word in (topic, "empty", "reset", "on_lost_state", "topic_replication_factor"):
            assert word in str(failure)
    finally:
        await world.close()


async def test_one_checkpoint_is_enough_to_notice() -> None:
    world = World()
    await world.start()
    try:
        await world.write(0, *events([0]))
        await world.lose("app-by_key-changelog")
        await world.engine.start("http://worker")
        await asyncio.wait_for(world.engine.failed.wait(), 10)
        assert isinstance(world.engine.failure, LostWrites)
    finally:
        await world.close()


async def test_who_wants_to_go_on_does_so_with_what_is_left_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    await world.start()
    try:
        await world.write(0, *events(range(100)))
        world.policy = "go_on"
        await world.lose("app-by_key-changelog")
        with caplog.at_level(logging.ERROR):
            await world.begin()
            await world.write(0, *events(range(7)))
            assert world.rows("by_key") == {("k", None): 7}
            await world.restart()
        assert world.rows("by_key") == {("k", None): 7}
        assert len([record for record in caplog.records if "app-by_key-changelog" in record.message]) == 1
    finally:
        await world.close()


async def test_restarts_and_a_reset_with_an_older_store_are_no_loss() -> None:
    world = World()
    await world.start()
    try:
        for _ in range(3):
            await world.write(0, *events(range(100)))
            await world.restart()
        assert world.rows("by_key") == {("k", None): 300}
    finally:
        await world.close()


async def test_a_table_of_an_agent_notices_as_well() -> None:
    app = make_app()
    topic = app.topic("events", value_type=dict, partitions=1)
    counts = app.Table("counts", default=int, partitions=1)

    @app.agent(topic)
    async def count(stream: Any) -> None:
        async for _ in stream:
            counts["k"] += 1

    async with running(app):
        await topic.send(value={"n": 1})
        await until(lambda: counts.get("k") == 1)
        active = app.engine.active
        assert active is not None
        await until(
            lambda: active.shown["table:counts", "", 0].logs == {f"{app.conf.id}-counts-changelog": 1}
        )
