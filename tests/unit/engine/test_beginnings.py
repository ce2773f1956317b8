"""Where a consumer begins that the app has not had before, and how it catches up beside the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import orjson
import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, By, Key
from streamflow.clock import SystemClock
from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.codecs.event import Event
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.event_stream import EventStream
from streamflow.settings import Settings
from streamflow.state.beginning import Start
from streamflow.state.progress import Progress, progress_from_record
from streamflow.transports.base import Record
from streamflow.transports.memory import MemoryBroker, MemoryTransport

EVENTS = "events"
T0_MS = 1_760_000_000_000


class World:
    """One broker, and the app as it is declared at each of its starts."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.broker = MemoryBroker(self.clock)
        self.client = MemoryTransport(self.broker, "outside", "client")
        self.taken: dict[str, list[int]] = {}  # agent -> events, in order
        self.hold = asyncio.Event()  # until it is set the agent "slow" waits at each event
        self.engine: Engine | None = None

    async def write(self, first: int, last: int, *, bad: bool = False) -> None:
        """Events with these numbers, one a second."""
        value = {"id": "1", "type": "click", "data": {}}
        await self.client.send(
            [
                Record(
                    EVENTS,
                    0,
                    b"ann",
                    b"{" if bad else orjson.dumps({**value, "id": str(n), "timestamp": T0_MS + n * 1_000}),
                    (),
                    T0_MS + n * 1_000,
                )
                for n in range(first, last)
            ]
        )

    def agent(self, name: str) -> Callable[[EventStream], object]:
        async def run(stream: EventStream) -> None:
            async for event in stream.values():
                if name == "slow":
                    await self.hold.wait()
                self.taken.setdefault(name, []).append(int(event.id))

        return run

    async def start(
        self,
        agents: dict[str, Start | None] | None = None,
        aggregates: dict[str, tuple[By, Start]] | None = None,
        value: ValueCodec | None = None,
    ) -> None:
        """A worker with these agents and aggregates; ``value`` is another schema, of the aggregates."""
        settings = Settings(id="app", commit_interval=0.02, fetch_wait_ms=5)
        engine = self.engine = Engine(settings, MemoryTransport(self.broker, "app", "worker"), self.clock)
        source = TopicSource(EVENTS, KeyCodec(str), ValueCodec(Event), 1)
        for name, start in (agents or {}).items():
            spec = AgentSpec(name, EVENTS, self.agent(name), start=start)  # type: ignore[arg-type]
            engine.topology.add_agent(spec, source)
        other = source if value is None else TopicSource(EVENTS, KeyCodec(str), value, 1)
        for name, (by, begins) in (aggregates or {}).items():
            spec_of = AggregateSpec(name, EVENTS, by, None, RowFunctions(Count()), start=begins)
            engine.topology.add_aggregate(spec_of, other)
        await engine.start("http://worker")
        await self.until(lambda: engine.live)

    async def stop(self) -> None:
        if self.engine is not None:
            await self.engine.stop()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                if self.engine is not None and self.engine.failure is not None:
                    raise self.engine.failure
                await asyncio.sleep(0.005)

    def count(self, name: str) -> int:
        """What a table counts, durably."""
        assert self.engine is not None
        part = self.engine.topology.aggregates[name].parts.get(0)
        return 0 if part is None else sum(state for _, _, state in part.store.scan())

    def durable(self, consumer: str) -> Progress | None:
        found = None
        batch = self.broker.log(("app-progress", 0)).read(0, 10**9)
        for key, value in zip(batch.keys, batch.values, strict=True) if batch else ():
            if key and value and orjson.loads(key)[0] == consumer:
                found = progress_from_record(key, value)
        return found

    def committed(self) -> int | None:
        return self.broker.coordinator("app").committed.get((EVENTS, 0))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.client.start()
    yield world
    await world.stop()


async def with_a_past(world: World) -> None:
    """An app with an agent that has taken a hundred events."""
    await world.start({"old": None})
    await world.write(0, 100)
    await world.until(lambda: world.committed() == 100)
    await world.stop()


@pytest.mark.parametrize("by", [Key(), "type"])
async def test_a_new_aggregate_in_a_running_app_counts_all_that_the_topic_holds(
    world: World, by: By, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await with_a_past(world)
    await world.start({"old": None}, {"counts": (by, "earliest")})
    await world.until(lambda: world.count("counts") == 100)
    await world.write(100, 130)
    await world.until(lambda: world.count("counts") == 130)
    await world.until(lambda: world.committed() == 130)
    assert world.taken["old"] == list(range(130))
    said = [record.getMessage() for record in caplog.records]
    assert any("aggregate:counts is new and begins in events [0] at offset 0" in text for text in said)
    assert any("aggregate:counts: has come up to the others in events[0]" in text for text in said)
    progress = world.durable("aggregate:counts")
    assert progress is not None
    assert (progress.began, progress.behind, progress.counters["counted"]) == (0, False, 130)


async def test_the_others_go_on_while_an_agent_is_back_filled(world: World) -> None:
    """The new agent waits at its first event; what comes goes through the old one."""
    await with_a_past(world)
    await world.start({"old": None, "slow": "earliest"})
    await world.write(100, 150)
    await world.until(lambda: len(world.taken["old"]) == 150)
    await world.until(lambda: world.committed() == 150)
    assert "slow" not in world.taken
    world.hold.set()
    await world.until(lambda: len(world.taken.get("slow", ())) == 150)
    await world.write(150, 160)
    await world.until(lambda: len(world.taken["slow"]) == 160)
    assert world.taken == {"old": list(range(160)), "slow": list(range(160))}


async def test_a_new_agent_begins_where_the_app_stands_and_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await with_a_past(world)
    await world.start({"old": None, "new": None})
    await world.write(100, 110)
    await world.until(lambda: len(world.taken.get("new", ())) == 10)
    assert world.taken["new"] == list(range(100, 110))
    assert "agent:new is new and begins in events [0] at offset 100" in caplog.text


async def test_latest_is_the_end_and_stays_where_it_was(world: World) -> None:
    await with_a_past(world)
    await world.start({"old": None}, {"counts": (Key(), "latest")})
    await world.until(lambda: world.durable("aggregate:counts") is not None)
    await world.stop()
    await world.write(100, 120)
    await world.start({"old": None}, {"counts": (Key(), "latest")})
    await world.until(lambda: world.count("counts") == 20)
    await world.until(lambda: world.committed() == 120)


async def test_a_time_is_the_first_record_that_is_not_older(world: World) -> None:
    await with_a_past(world)
    await world.start({"old": None}, {"counts": (Key(), T0_MS + 60_000)})
    await world.until(lambda: world.count("counts") == 40)
    progress = world.durable("aggregate:counts")
    assert progress is not None
    assert progress.began == 60


async def test_bad_records_of_the_past_are_told_by_a_schema_that_never_read_them(world: World) -> None:
    """They are set aside once for each schema, as if it had been there from the beginning."""
    await world.start({"old": None})
    await world.write(0, 10)
    await world.write(10, 13, bad=True)
    await world.until(lambda: world.committed() == 13)
    letters = world.broker.log(("events-dead-letters", 0))
    assert len(letters) == 3
    await world.stop()
    await world.start({"old": None}, {"same": (Key(), "earliest")})
    await world.until(lambda: world.count("same") == 10)
    await world.stop()
    assert len(letters) == 3
    await world.start({"old": None}, {"other": (Key(), "earliest")}, ValueCodec(dict))
    await world.until(lambda: world.count("other") == 10)
    await world.write(20, 22, bad=True)
    await world.until(lambda: world.committed() == 15)
    assert len(letters) == 3 + 3 + 2 * 2


async def test_in_an_app_without_a_past_nobody_is_behind(world: World) -> None:
    await world.start({"old": None}, {"counts": (Key(), "earliest")})
    await world.write(0, 5)
    await world.until(lambda: world.count("counts") == 5)
    progress = world.durable("aggregate:counts")
    assert progress is not None
    assert not progress.behind


async def test_who_is_behind_alone_is_read_as_usual(world: World) -> None:
    """Those who were ahead are gone from the app: nobody is left to be read beside."""
    await with_a_past(world)
    await world.start({"old": None, "slow": "earliest"})
    await world.until(
        lambda: world.durable("agent:slow") is not None or world.durable("agent:old") is not None
    )
    await world.stop()
    world.hold.set()
    await world.start({"slow": "earliest"})
    await world.until(lambda: len(world.taken.get("slow", ())) == 100)
    assert world.taken["slow"] == list(range(100))
