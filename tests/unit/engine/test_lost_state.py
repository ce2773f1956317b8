"""A log of state that ends before what was counted into it: an error, and no quiet loss."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.engine import state_watch
from streamflow.engine.engine import Engine
from streamflow.errors import LostWrites
from streamflow.settings import Settings
from streamflow.transports.base import Record, TopicSpec
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


STATE = {
    "app-by_key-changelog": b'"other"',
    "app-by_type-changelog": b'["other",[0,10]]',
    "app-by_type-shuffle": b'["share",0,"other",0]',
    "app-by_type-late": b"1",
}
"""topic -> the key of a record that it may hold"""


def lose_under(world: World, topic: str, records: int = 0) -> None:
    """The topic is made anew under a running worker, and somebody has written so much to it."""
    world.broker.delete_topic(topic)
    world.broker.create_topics([TopicSpec(topic, 1, compacted=True)])
    world.broker.write([Record(topic, 0, STATE[topic], None) for _ in range(records)])


@pytest.mark.parametrize("records", [0, 1_000], ids=["empty", "longer than it was"])
@pytest.mark.parametrize("topic", STATE)
async def test_a_running_worker_notices(topic: str, records: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_watch, "LOOK_MS", 20)
    world = World()
    await world.start()
    try:
        await world.write(0, *events(range(100)))
        await world.until(lambda: world.engine.watches_state)
        lose_under(world, topic, records)
        await asyncio.wait_for(world.engine.failed.wait(), 10)
        failure = world.engine.failure
        assert isinstance(failure, LostWrites)
        for word in (topic, "reset", "on_lost_state", "topic_replication_factor"):
            assert word in str(failure)
    finally:
        await world.close()


async def test_a_running_worker_notices_that_a_log_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_watch, "LOOK_MS", 20)
    world = World()
    world.policy = "go_on"
    world.engine = world.new_engine()
    await world.start()
    try:
        await world.write(0, *events(range(100)))
        await world.until(lambda: world.engine.watches_state)
        world.broker.delete_topic("app-by_key-changelog")
        await asyncio.wait_for(world.engine.failed.wait(), 10)
        assert "is gone" in str(world.engine.failure)
    finally:
        await world.close()


@pytest.mark.parametrize("records", [0, 1_000], ids=["empty", "longer than it was"])
async def test_a_running_worker_that_is_to_go_on_has_what_is_left(
    records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_watch, "LOOK_MS", 20)
    world = World()
    world.policy = "go_on"
    world.engine = world.new_engine()
    await world.start()
    try:
        await world.write(0, *events(range(100)))
        await world.until(lambda: world.engine.watches_state)
        for topic in STATE:
            lose_under(world, topic, records)
        await world.until(lambda: world.engine.active is None)
        await world.until(lambda: world.engine.live and world.ready())
        await world.write(0, *events(range(7)))
        await world.until(lambda: world.rows("by_key") == {("k", None): 7})
        await world.until(lambda: sum(world.rows("by_type").values()) == 7)
        await world.restart()
        assert world.rows("by_key") == {("k", None): 7}
        assert sum(world.rows("by_type").values()) == 7
    finally:
        await world.close()
