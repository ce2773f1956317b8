"""A source topic that was deleted and made again: told, and counted whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.engine.engine import Engine
from streamflow.errors import ConfigurationError
from streamflow.settings import Settings
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import MemoryTransport
from streamflow.verify.recount import Verifier
from streamflow.verify.report import Report, VerifyError
from streamflow.windows import TumblingWindow, Window
from tests.support.declared import Declared, events, raw


class WithoutIds(MemoryTransport):
    """As a broker that is too old to tell ids: nothing but the length of a log says that it is another."""

    async def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        return {}


class World(Declared):
    """One partition, an aggregate, and what is done with a topic that was made anew."""

    def __init__(
        self, policy: str, *, by: Any = None, window: Window | None = None, ids: bool = True
    ) -> None:
        self._policy = policy
        self._kind = MemoryTransport if ids else WithoutIds
        spec = AggregateSpec("table", "events", by or Key(), window, RowFunctions(Count()))
        super().__init__(spec, partitions=1)

    def new_engine(self, name: str = "worker") -> Engine:
        settings = Settings(id="app", commit_interval=0.01, fetch_wait_ms=5, on_recreated_topic=self._policy)
        engine = Engine(settings, self._kind(self.broker, "app", name), self.clock)
        for spec in self.specs:
            engine.topology.add_aggregate(spec, self.source)
        return engine

    def recreate(self, partitions: int = 1) -> None:
        self.broker.delete_topic("events")
        self.broker.create_topics([TopicSpec("events", partitions)])
        self.ends = {}

    def of(self, *times_ms: int) -> list[Record]:
        return [Record("events", 0, b"k", raw(value)) for value in events(times_ms)]

    def records(self, number: int) -> list[Record]:
        return self.of(*range(number))

    def counters(self) -> dict[str, int]:
        """Of the aggregate, as they are durable."""
        active = self.engine.active
        assert active is not None
        return active.shown[self.specs[0].consumer, "events", 0].counters

    async def failure(self) -> BaseException:
        await asyncio.wait_for(self.engine.failed.wait(), 10)
        assert self.engine.failure is not None
        return self.engine.failure

    async def counted(self, number: int) -> None:
        """The rows say so, in all, and nothing more comes."""
        await self.until(lambda: sum(self.rows("table").values()) >= number)
        await asyncio.sleep(0.05)
        assert sum(self.rows("table").values()) == number

    async def verified(self) -> Report:
        (declared,) = self.specs
        return await Verifier(self.client, Settings(id="app"), self.clock, declared, self.source).run()


@pytest.fixture(params=[True, False], ids=["running", "stopped"])
def running(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def made_anew(world: World, running: bool, records: int) -> None:
    """100 are counted; then the topic is another one, under the worker or while it is away."""
    await world.start()
    await world.write(0, *events(range(100)))
    if running:
        world.recreate()
        await world.client.send(world.records(records))
        return
    await world.engine.stop()
    world.recreate()
    await world.client.send(world.records(records))
    world.engine = world.new_engine()
    await world.engine.start("http://worker")


async def test_by_default_the_worker_ends_and_says_what_to_do(running: bool) -> None:
    world = World("stop")
    try:
        await made_anew(world, running, 300)
        failure = await world.failure()
        assert isinstance(failure, ConfigurationError)
        for word in ("'events' was deleted and made again", "on_recreated_topic", "reset"):
            assert word in str(failure)
        with pytest.raises(VerifyError, match="was deleted and made again"):
            await world.verified()
    finally:
        await world.close()


@pytest.mark.parametrize("records", [60, 300], ids=["shorter", "longer"])
async def test_restart_keeps_the_tables_and_counts_the_new_log_whole(running: bool, records: int) -> None:
    world = World("restart")
    try:
        await made_anew(world, running, records)
        await world.counted(100 + records)
        await world.client.send(world.records(60))
        await world.counted(160 + records)
        report = await world.verified()
        assert report.ok, report.partitions
        assert not report.rows_compared
        assert "made again" in " ".join(report.notes)
        assert [count.counters["in"] for count in report.partitions] == [160 + records]

        # It is the new log by now: another start finds nothing to do.
        await world.restart()
        await world.counted(160 + records)
    finally:
        await world.close()


@pytest.mark.parametrize("by", ["type", None], ids=["field", "none"])
async def test_rows_of_windows_that_go_through_a_shuffle_count_both_logs(by: str | None) -> None:
    window = TumblingWindow(10, grace_s=0, retain_s=600, idle_close_s=None)
    world = World("restart", by=by, window=window)
    try:
        await made_anew(world, True, 60)
        await world.counted(160)
        report = await world.verified()
        assert report.ok, report.partitions
    finally:
        await world.close()


async def test_late_events_of_the_former_log_are_not_taken_for_those_of_the_new_one() -> None:
    window = TumblingWindow(10, grace_s=0, retain_s=0, idle_close_s=None)
    world = World("restart", window=window)
    try:
        await world.start()
        await world.write(0, *events([0, 60_000, 1, 2, 60_001]))
        world.recreate()
        await world.client.send(world.records(0) + world.of(60_002, 60_003, 60_004, 3, 60_005))
        await world.until(lambda: world.engine.active and world.counters().get("in") == 10)
        assert world.counters()["late"] == 3
        await world.restart()
        report = await world.verified()
        assert report.ok, report.partitions
    finally:
        await world.close()


async def test_without_ids_a_log_that_ends_before_the_position_is_another_one() -> None:
    world = World("restart", ids=False)
    try:
        await made_anew(world, False, 60)
        await world.counted(160)
    finally:
        await world.close()


async def test_a_topic_that_is_away_for_a_while_stops_nothing() -> None:
    world = World("restart")
    try:
        await world.start()
        await world.write(0, *events(range(100)))
        world.broker.delete_topic("events")
        await asyncio.sleep(0.3)
        world.broker.create_topics([TopicSpec("events", 1)])
        await world.client.send(world.records(7))
        await world.counted(107)
    finally:
        await world.close()
