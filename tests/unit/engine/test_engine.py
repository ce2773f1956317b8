"""The engine over the memory transport: agents, undo, retries, dead letters, sends, bad input."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import orjson
import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import SystemClock
from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.codecs.event import Event
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.errors import ConfigurationError, StreamflowError
from streamflow.partitioner import fnv1a
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.buffer import Buffer
from streamflow.processing.event_stream import EventStream
from streamflow.processing.retries import Retry
from streamflow.settings import Settings
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TableSpec
from streamflow.state.stores.base import NO_WINDOW
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from streamflow.windows import TumblingWindow

PARTITIONS = 2
WAIT_S = 10.0


class World:
    """One broker, one engine, one client that writes and reads."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.broker = MemoryBroker(self.clock)
        self.client = MemoryTransport(self.broker, "outside", "client")
        self.source = TopicSource("events", KeyCodec(str), ValueCodec(Event), PARTITIONS)
        self.engine = self.new_engine()

    def new_engine(self) -> Engine:
        transport = MemoryTransport(self.broker, "app", "worker")
        return Engine(Settings(id="app", commit_interval=0.02), transport, self.clock)

    def table(self, name: str = "counts") -> AgentTable:
        spec = TableSpec(name, None, RowCodec(None), "", 0)
        return self.engine.topology.add_table(spec, int, KeyCodec(str).encode)

    def agent(self, run: Callable[[EventStream], Any], **options: Any) -> None:
        retry = options.pop("retry", Retry(attempts=2, first_wait_s=0.001))
        letters = options.pop("dead_letter", "events-dead-letters")
        spec = AgentSpec("agent", "events", run, retry, letters, **options)
        self.engine.topology.add_agent(spec, self.source)

    async def start(self) -> None:
        await self.client.start()
        await self.engine.start("http://worker")
        await self.until(lambda: self.engine.live)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits, bounded, until the condition holds; an engine that fails ends the wait with its error."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                if self.engine.failure is not None:
                    raise self.engine.failure
                await asyncio.sleep(0.005)

    async def write(self, *values: bytes | None, key: bytes | None = b"ann") -> None:
        partition = 0 if key is None else fnv1a(key, PARTITIONS)
        await self.client.send([Record("events", partition, key, value) for value in values])

    async def read(self, topic: str) -> list[tuple[bytes | None, bytes | None, dict[str, bytes | None]]]:
        """Everything committed in a topic: key, value, headers."""
        count = (await self.client.partition_counts([topic])).get(topic, 0)
        reader = self.client.log_reader()
        await reader.assign({(topic, partition): 0 for partition in range(count)})
        found = []
        while batches := await reader.read(20):
            for batch in batches:
                headers = batch.headers or [()] * len(batch.offsets)
                found += [(k, v, dict(h)) for k, v, h in zip(batch.keys, batch.values, headers, strict=True)]
        await reader.close()
        return found

    def row(self, table: AgentTable, key: str) -> Any:
        """The checkpointed value."""
        for part in table.parts.values():
            value = part.store.window(NO_WINDOW).get(key)
            if value is not None:
                return value
        return None

    async def close(self) -> None:
        await self.engine.stop()
        await self.client.stop()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.close()


def event(number: int = 0, kind: str = "click", at: Any = "2026-01-01T00:00:00Z") -> bytes:
    return orjson.dumps({"id": str(number), "type": kind, "timestamp": at, "data": {"n": number}})


def counting(table: AgentTable) -> Callable[[EventStream], Any]:
    async def run(stream: EventStream) -> None:
        async for key, _ in stream.items():  # noqa: PERF102 - a stream
            table.change(key, operator.add, 1)

    return run


async def test_an_agent_counts_and_the_rows_survive_a_restart(world: World) -> None:
    table = world.table()
    world.agent(counting(table))
    await world.start()
    await world.write(*map(event, range(1_000)))
    await world.until(lambda: world.row(table, "ann") == 1_000)
    await world.engine.stop()

    world.engine = world.new_engine()
    table = world.table()
    world.agent(counting(table))
    await world.engine.start("http://worker")
    await world.until(lambda: world.engine.live)
    assert world.row(table, "ann") == 1_000
    await world.write(event(1))
    await world.until(lambda: world.row(table, "ann") == 1_001)


async def test_a_failing_event_is_undone_tried_again_and_set_aside_and_the_next_one_follows(
    world: World,
) -> None:
    table = world.table()
    tries: list[int] = []

    async def run(stream: EventStream) -> None:
        async for key, value in stream.items():
            table.change(key, operator.add, 1)
            if value.data["n"] == 3:
                tries.append(3)
                raise ValueError("three")

    world.agent(run, retry=Retry(attempts=3, first_wait_s=0.001))
    await world.start()
    await world.write(*map(event, range(10)))
    await world.until(lambda: world.row(table, "ann") == 9)
    assert len(tries) == 3
    letters = await world.read("events-dead-letters")
    assert [(key, value) for key, value, _ in letters] == [(b"ann", event(3))]
    headers = letters[0][2]
    assert headers["reason"] == b"agent-failed"
    assert headers["source-topic"] == b"events"
    assert headers["error"] == b"ValueError: three"


async def test_what_the_event_in_flight_wrote_stays_out_of_a_checkpoint(world: World) -> None:
    table = world.table()
    go_on = asyncio.Event()

    async def run(stream: EventStream) -> None:
        async for key, value in stream.items():
            table.change(key, operator.add, 1)
            if value.data["n"] == 5:
                await go_on.wait()

    world.agent(run)
    await world.start()
    await world.write(*map(event, range(8)))
    await world.until(lambda: world.row(table, "ann") == 5)
    await world.write(event(100), key=b"bob")
    for _ in range(5):
        await world.engine.checkpoint()
    assert world.row(table, "ann") == 5
    go_on.set()
    await world.until(lambda: world.row(table, "ann") == 8)


async def test_an_event_that_fails_after_a_cut_was_made_around_it_takes_back_only_its_own_write(
    world: World,
) -> None:
    table = world.table()
    go_on = asyncio.Event()
    failed: list[int] = []

    async def run(stream: EventStream) -> None:
        async for key, value in stream.items():
            table.change(key, operator.add, 1)
            if value.data["n"] == 5 and not failed:
                await go_on.wait()
                failed.append(5)
                raise ValueError("once")

    world.agent(run)
    await world.start()
    await world.write(*map(event, range(8)))
    await world.until(lambda: world.row(table, "ann") == 5)
    go_on.set()
    await world.until(lambda: world.row(table, "ann") == 8)
    assert failed == [5]


async def test_what_an_agent_sends_goes_out_with_the_checkpoint_and_not_when_its_event_fails(
    world: World,
) -> None:
    async def run(stream: EventStream) -> None:
        async for value in stream.values():
            await world.engine.send(Record("out", 0, None, b"%d" % value.data["n"]))
            if value.data["n"] == 2:
                raise ValueError("two")

    world.engine.topology.topics.want("out", 1)
    world.agent(run)
    await world.start()
    await world.write(*map(event, range(5)))
    await world.until(lambda: world.engine.topology.agents[0].processed == 4)
    await world.engine.checkpoint()
    assert [value for _, value, _ in await world.read("out")] == [b"0", b"1", b"3", b"4"]


async def test_a_table_can_not_be_written_outside_an_event(world: World) -> None:
    table = world.table()
    world.agent(counting(table))
    await world.start()
    with pytest.raises(TypeError, match="holds an event"):
        table.write("ann", 1, NO_WINDOW)


BAD = {
    "not json": (b"ann", b"{nope", b"not-json"),
    "an array": (b"ann", b"[1, 2]", b"wrong-type"),
    "a missing field": (
        b"ann",
        b'{"type":"a","timestamp":"2026-01-01T00:00:00Z","data":{}}',
        b"missing-field",
    ),
    "a missing type": (b"ann", b'{"id":"1","timestamp":"2026-01-01T00:00:00Z","data":{}}', b"missing-type"),
    "a wrong type": (
        b"ann",
        b'{"id":1,"type":"a","timestamp":"2026-01-01T00:00:00Z","data":{}}',
        b"wrong-type",
    ),
    "data that is no object": (
        b"ann",
        b'{"id":"1","type":"a","timestamp":"2026-01-01T00:00:00Z","data":3}',
        b"wrong-type",
    ),
    "year 1": (b"ann", event(at="0001-01-01T00:00:00Z"), b"bad-timestamp"),
    "year 9999": (b"ann", event(at="9999-12-31T23:59:59Z"), b"bad-timestamp"),
    "a naive time": (b"ann", event(at="2026-01-01T00:00:00"), b"bad-timestamp"),
    "far out of range": (b"ann", event(at=10**17), b"bad-timestamp"),
    "NaN": (b"ann", b'{"id":"1","type":"a","timestamp":NaN,"data":{}}', b"not-json"),
    "null": (b"ann", None, b"null-value"),
    "a key that is not UTF-8": (b"\xff\xfe", event(), b"bad-key"),
    "900 KB of broken JSON": (b"ann", b'{"id":"' + b"x" * 900_000, b"not-json"),
    "deep nesting": (
        b"ann",
        b'{"id":"1","type":"a","timestamp":"2026-01-01T00:00:00Z","data":' + b'{"a":' * 100_000,
        b"not-json",
    ),
}


@pytest.mark.parametrize("form", ["agent", "aggregate"])
async def test_bad_input_is_set_aside_untouched_and_the_good_events_count_exactly(
    world: World, form: str
) -> None:
    if form == "agent":
        table = world.table()
        world.agent(counting(table))
    else:
        window = TumblingWindow(10)
        world.engine.topology.add_aggregate(
            AggregateSpec("counts", "events", Key(), window, RowFunctions(Count())), world.source
        )
    await world.start()
    for key, value, _ in BAD.values():
        await world.write(event(1))
        await world.write(value, key=key)
    await world.write(event(at=1_767_225_600_000))
    decoder = "decoder:Event:str"
    await world.until(
        lambda: (
            sum(
                p.counters.get("in", 0)
                for (consumer, _, _), p in (
                    world.engine.active.progress.items() if world.engine.active else ()
                )
                if consumer == decoder
            )
            == 2 * len(BAD) + 1
        )
    )
    await asyncio.sleep(0.05)
    await world.engine.checkpoint()
    letters = await world.read("events-dead-letters")
    found = sorted((key or b"", value or b"", headers["reason"]) for key, value, headers in letters)
    assert found == sorted((key or b"", value or b"", reason) for key, value, reason in BAD.values())
    for _, _, headers in letters:
        assert headers["source-topic"] == b"events"
        assert int(headers["source-partition"] or b"") in range(PARTITIONS)
        assert (headers["source-offset"] or b"").isdigit()
        assert headers["error"]
    good = len(BAD) + 1
    if form == "agent":
        await world.until(lambda: world.row(table, "ann") == good)
    else:
        active = world.engine.active
        assert active is not None
        counts = [
            count for aggregate in active.aggregate_partitions for _, _, count in aggregate.part.store.scan()
        ]
        assert sum(counts) == good


async def test_a_changed_declaration_over_old_state_is_refused_with_what_differs(world: World) -> None:
    window = TumblingWindow(10)
    world.engine.topology.add_aggregate(
        AggregateSpec("counts", "events", "type", window, RowFunctions(Count())), world.source
    )
    await world.start()
    await world.write(event(1))
    await world.until(lambda: world.engine.board.declarations != {})
    await world.engine.stop()

    world.engine = world.new_engine()
    other = TumblingWindow(60)
    world.engine.topology.add_aggregate(
        AggregateSpec("counts", "events", "type", other, RowFunctions(Count())), world.source
    )
    await world.engine.start("http://worker")
    with pytest.raises(StreamflowError, match="window"):
        await world.until(lambda: world.engine.live)


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest"])
async def test_what_a_buffer_drops_is_in_the_progress_and_in_the_metrics(world: World, policy: Any) -> None:
    go_on, seen = asyncio.Event(), 0

    async def run(stream: EventStream) -> None:
        nonlocal seen
        async for _ in stream.values():
            await go_on.wait()
            seen += 1

    world.agent(run, buffer=Buffer(50, policy))
    await world.start()
    metrics = world.engine.metrics
    for _ in range(3):
        await world.write(*map(event, range(1_000)))
    dropped = metrics.events_dropped_total.labels("agent", policy)
    await world.until(lambda: dropped.value == 2_949)
    go_on.set()
    partition = fnv1a(b"ann", PARTITIONS)

    def shown() -> dict[str, int]:
        active = world.engine.active
        assert active is not None
        found = active.shown.get(("agent:agent", "events", partition))
        return {} if found is None else found.counters

    await world.until(lambda: shown().get("in") == 3_000)
    assert shown() == {"in": 3_000, "counted": 51, "dropped": 2_949}
    assert seen == 51
    active = world.engine.active
    assert active is not None
    assert active.offsets()["events", partition] == 3_000


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_reading_that_goes_back_while_events_wait_counts_none_twice(
    world: World, concurrency: int
) -> None:
    go_on, seen = asyncio.Event(), 0

    async def run(stream: EventStream) -> None:
        nonlocal seen
        async for _ in stream.values():
            await go_on.wait()
            seen += 1

    def has_come(count: int) -> bool:
        return records.value == count

    world.agent(run, concurrency=concurrency)
    await world.start()
    at = ("events", fnv1a(b"ann", PARTITIONS))
    records = world.engine.metrics.records_total
    for burst in range(3):
        await world.write(b"no event", *map(event, range(100)))
        await world.until(partial(has_come, 101 * (burst + 1)))
    world.engine.transport.seek(at, 0)
    await world.write(event(1))
    await world.until(partial(has_come, 607))
    go_on.set()
    await world.until(lambda: bool(world.engine.active and world.engine.active.offsets()[at] == 304))
    assert seen == 301
    active = world.engine.active
    assert active is not None
    counters = [progress.counters for progress in active.progress.values() if progress.counters]
    assert counters == [{"in": 304, "counted": 301, "bad": 3}, {"in": 301, "counted": 301}]


@pytest.mark.parametrize("name", ["app-counts-changelog", "app-progress"])
async def test_state_in_a_topic_whose_records_are_deleted_is_refused_with_what_to_do(
    world: World, name: str
) -> None:
    world.agent(counting(world.table()))
    await world.client.start()
    await world.client.create_topics([TopicSpec(name, PARTITIONS)])
    with pytest.raises(ConfigurationError, match=rf"'{name}' .*'delete'.*cleanup\.policy=compact"):
        await world.engine.start("http://worker")
