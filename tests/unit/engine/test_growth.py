"""State that is brought to the partitions of a topic that has grown: exactly, whoever is killed when."""

from __future__ import annotations

import asyncio
import itertools
import operator
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

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
from streamflow.engine.growth import Growth, TableGrowth
from streamflow.engine.whole_logs import whole_logs
from streamflow.errors import ConfigurationError
from streamflow.partitioner import fnv1a
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.event_stream import EventStream
from streamflow.processing.retries import Retry
from streamflow.settings import Settings
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.state.global_table import GlobalTableView
from streamflow.state.partition import TableSpec
from streamflow.state.stores.base import NO_WINDOW
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from streamflow.transports.memory.faults import Faults
from streamflow.transports.memory.process import ClientKilled
from streamflow.verify.recount import Verifier
from streamflow.windows import SessionWindow, SlidingWindow, TumblingWindow, Window

WAIT_S = 20.0
KEYS = [f"k{number}" for number in range(24)]
WINDOW = TumblingWindow(10, idle_close_s=None)
T0 = 1_767_225_600  # a whole minute

Row = tuple[Any, int]
"""(key or group, start of the window in s)"""


async def _nobody() -> None:
    """No worker runs."""


class App:
    """An app with tables of every form over one topic, its broker, and what it was given."""

    def __init__(self, partitions: int = 2, *, scattered: bool = False, key_type: object = str) -> None:
        self.scattered = scattered
        self.key_type = key_type
        self.clock = SystemClock()
        self.broker = MemoryBroker(self.clock)
        self.client = MemoryTransport(self.broker, "outside", "client")
        self.partitions = partitions
        self.broker.create_topics([TopicSpec("events", partitions)])
        self.at_s = T0
        self.number = 0
        self.counted: list[tuple[str, str, int]] = []  # key, type, event time in s
        self.late: list[tuple[str, str, int]] = []
        self.engine: Engine | None = None
        self.counts: AgentTable | None = None
        self.windowed: AgentTable | None = None

    def declare(self, name: str = "worker") -> Engine:
        transport = MemoryTransport(self.broker, "app", name)
        engine = Engine(Settings(id="app", commit_interval=0.02), transport, self.clock)
        topology = engine.topology
        source = TopicSource("events", KeyCodec(self.key_type), ValueCodec(Event))
        key_bytes = KeyCodec(str).encode
        counts = topology.add_table(TableSpec("counts", None, RowCodec(None), "", 0), int, key_bytes)
        in_windows = TableSpec("windowed", WINDOW, RowCodec(WINDOW), "", 0)
        windowed = topology.add_table(in_windows, int, key_bytes)
        spec_of_all = TableSpec("everywhere", None, RowCodec(None), "", 0)
        everywhere = topology.add_table(spec_of_all, int, key_bytes, is_global=True)
        self.counts, self.windowed = counts, windowed

        async def run(stream: EventStream) -> None:
            async for key, one in stream.items():
                counts.change("sum" if self.scattered else key, operator.add, 1)
                everywhere.change(key, operator.add, 1)
                at_ms = round(one.timestamp.timestamp() * 1_000)
                windowed.change_in(key, operator.add, 1, [WINDOW.start_of(at_ms)])

        retry = Retry(attempts=2, first_wait_s=0.001)
        topology.add_agent(AgentSpec("agent", "events", run, retry, "events-dead-letters"), source)
        for spec in specs():
            topology.add_aggregate(spec, source)
        return engine

    async def start(self) -> None:
        self.engine = self.declare()
        await self.engine.start("http://worker")
        await self.until(lambda: self.engine is not None and self.engine.live)

    async def stop(self) -> None:
        assert self.engine is not None
        await self.engine.stop()
        self.engine = None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                if self.engine is not None and self.engine.failure is not None:
                    raise self.engine.failure
                await asyncio.sleep(0.005)

    async def send(self, records: list[tuple[str, str, int]]) -> None:
        batch = []
        for key, kind, at_s in records:
            value = {"id": str(self.number), "type": kind, "timestamp": time_text(at_s), "data": {}}
            batch.append(
                Record("events", fnv1a(key.encode(), self.partitions), key.encode(), orjson.dumps(value))
            )
            self.number += 1
        await self.client.send(batch)

    async def in_order(self, seconds: int) -> None:
        """One event of each key in each second: time goes on alike in every partition."""
        for _ in range(seconds):
            one = [(key, f"t{(number + self.at_s) % 7}", self.at_s) for number, key in enumerate(KEYS)]
            await self.send(one)
            self.counted += one
            self.at_s += 1

    async def too_late(self, at_s: int) -> None:
        """One event of each key for a window that was closed long ago."""
        one = [(key, "t1", at_s) for key in KEYS]
        await self.send(one)
        self.late += one

    async def taken(self) -> None:
        """Everything is taken, and durable."""
        assert self.engine is not None
        engine, total = self.engine, len(self.counted) + len(self.late)

        def done() -> bool:
            active = engine.active
            if active is None or active.unopened:
                return False
            taken: Counter[str] = Counter()
            for one in active.shown.values():
                taken[one.consumer] += one.counters.get("in", 0)
            consumers = ["agent:agent", *(spec.consumer for spec in specs())]
            return all(taken[consumer] == total for consumer in consumers)

        def followed() -> bool:
            active = engine.active
            return active is not None and all(
                stage.position >= self.broker.log((stage.topic, stage.partition)).end
                for stage in active.stages
            )

        await self.until(done)
        for _ in range(2):  # partial results, and what their owners make of them
            await self.until(followed)
            await engine.checkpoint()
        await self.until(followed)

    def grow_topic(self, partitions: int) -> None:
        self.broker.grow_topic("events", partitions)
        self.partitions = partitions

    def growth(self, name: str = "grower", **options: Any) -> tuple[Growth, MemoryTransport]:
        engine = self.declare(name)
        transport = engine.transport
        assert isinstance(transport, MemoryTransport)
        return Growth(engine.topology, transport, _nobody, **options), transport

    async def grow(self) -> list[TableGrowth]:
        growth, transport = self.growth()
        await transport.start()
        tables = await growth.plan()
        await growth.run()
        await transport.stop()
        return tables

    # -- what there is -------------------------------------------------------------------------

    async def read(self, topic: str) -> list[tuple[bytes | None, bytes | None]]:
        count = (await self.client.partition_counts([topic])).get(topic, 0)
        reader = self.client.log_reader()
        await reader.assign({(topic, partition): 0 for partition in range(count)})
        found: list[tuple[bytes | None, bytes | None]] = []
        while batches := await reader.read(20):
            for batch in batches:
                found += list(zip(batch.keys, batch.values, strict=True))
        await reader.close()
        return found

    def agent_rows(self, table: AgentTable | None) -> list[tuple[int, Row, int]]:
        """(partition, (key, start), value) of every row."""
        assert table is not None
        return [
            (partition, (key, start // 1_000), value)
            for partition, part in table.parts.items()
            for start, key, value in part.store.scan()
        ]

    def aggregate_rows(self, name: str) -> Counter[Row]:
        """What a declared table without sessions and sliding windows says."""
        assert self.engine is not None
        aggregate, found = self.engine.topology.aggregates[name], Counter[Row]()
        active = self.engine.active
        assert active is not None
        if aggregate.spec.is_shuffled:
            for stage in active.stages:
                if stage.spec.name == name:
                    for start, group in stage.rows():
                        row = None if group == b"null" else group, start // 1_000
                        assert row not in found
                        found[row] = aggregate.spec.values.result(stage.state(start, group))
        else:
            for partition, part in aggregate.parts.items():
                for start, key, state in part.store.scan():
                    assert (key, start // 1_000) not in found, f"{key} has two rows"
                    assert fnv1a(key.encode(), self.partitions) == partition
                    found[key, start // 1_000] = aggregate.spec.values.result(state)
        return found

    async def closed(self, name: str) -> dict[Row, list[Any]]:
        """(key, start) -> what was told of the row, in order; revisions are marked by a negative number."""
        found: dict[Row, list[Any]] = {}
        for _, value in await self.read(f"{name}-closed"):
            assert value is not None
            row = orjson.loads(value)
            start = seconds_of(row["window_start"])
            n = -row["value"] if row.get("revised") else row["value"]
            found.setdefault((row.get("key"), start), []).append(n)
        return found

    async def closed_all(self, name: str, number: int) -> dict[Row, list[Any]]:
        """`closed`, when so many rows are: their owners are told of time no more than once in a second."""
        found: dict[Row, list[Any]] = {}
        async with asyncio.timeout(WAIT_S):
            while len(found) < number:
                await asyncio.sleep(0.02)
                found = await self.closed(name)
        return found

    def late_events(self, name: str) -> Iterator[tuple[int, Any]]:
        assert self.engine is not None
        for partition, late_store in self.engine.topology.aggregates[name].late_stores.items():
            for event in late_store.events():
                yield partition, event


def time_text(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat()


def seconds_of(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp())


def specs() -> list[AggregateSpec]:
    def spec(name: str, by: By, window: Window | None) -> AggregateSpec:
        closed = None if window is None else f"{name}-closed"
        return AggregateSpec(name, "events", by, window, RowFunctions(Count()), emit_closed=closed)

    return [
        spec("total-by-key", Key(), None),
        spec("total-by-type", "type", None),
        spec("total", None, None),
        spec("by-key", Key(), WINDOW),
        spec("by-type", "type", WINDOW),
        spec("all", None, WINDOW),
        spec("sliding-by-key", Key(), SlidingWindow(5, idle_close_s=None)),
        spec("sessions-by-type", "type", SessionWindow(3, idle_close_s=None)),
        spec("sessions-by-key", Key(), SessionWindow(3, idle_close_s=None)),
    ]


def oracle(events: list[tuple[str, str, int]], name: str) -> Counter[Row]:
    """What a table without sessions and sliding windows has to say of these events."""
    found: Counter[Row] = Counter()
    for key, kind, at_s in events:
        group = kind if "type" in name else key if "key" in name else None
        start = NO_WINDOW // 1_000 if name.startswith("total") else at_s // 10 * 10
        found[group, start] += 1
    return found


async def check(app: App, *, applied: bool = False) -> None:
    """Everything is as the oracle has it, each closed window told of once, and `verify` agrees."""
    everything = app.counted + app.late
    assert app.counts is not None
    found = app.agent_rows(app.counts)
    assert Counter({row[0]: value for _, row, value in found}) == Counter(key for key, _, _ in everything)
    assert len(found) == len(KEYS)
    assert all(fnv1a(row[0].encode(), app.partitions) == partition for partition, row, _ in found)
    assert app.engine is not None
    view = app.engine.topology.global_tables["everywhere"]
    assert {key: view.get(NO_WINDOW, key)[1] for key in view.keys(NO_WINDOW)} == Counter(
        key for key, _, _ in everything
    )
    rows = app.agent_rows(app.windowed)
    assert {row: value for _, row, value in rows} == oracle(app.counted, "windowed by-key")
    assert all(fnv1a(row[0].encode(), app.partitions) == partition for partition, row, _ in rows)
    for name in ("total-by-key", "total-by-type", "total"):
        assert app.aggregate_rows(name) == oracle(everything, name), name
    for name in ("by-key", "by-type", "all"):
        assert app.aggregate_rows(name) == oracle(everything if applied else app.counted, name), name
        known = oracle(app.counted, name)
        ended = {row for row in known if row[1] + 10 <= app.at_s - 1}
        closed = await app.closed_all(name, len(ended))
        assert {(None if name == "all" else row[0], row[1]) for row in ended} == closed.keys(), name
        for (key, start), told in closed.items():
            assert told[0] == known[key, start], (name, key, start, told)
            assert len(told) == 1 or applied, (name, key, start, told)
        if not applied:
            kept = [event for _, event in app.late_events(name)]
            assert Counter(event.time_ms for event in kept) == Counter(at_s * 1_000 for *_, at_s in app.late)
    await verify(app)


async def verify(app: App) -> None:
    """`streamflow verify` of every declared table."""
    source = TopicSource("events", KeyCodec(str), ValueCodec(Event))
    for spec in specs():
        verifier = Verifier(app.client, Settings(id="app"), app.clock, spec, source)
        report = await verifier.run()
        assert report.ok, (spec.name, report)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    made = App()
    await made.client.start()
    yield made
    if made.engine is not None:
        await made.stop()
    await made.client.stop()


async def first_life(app: App) -> None:
    await app.start()
    await app.in_order(23)
    await app.taken()
    await app.too_late(T0 + 1)
    await app.taken()
    await app.stop()


async def second_life(app: App) -> None:
    await app.start()
    await app.taken()
    await check(app)
    await app.in_order(24)
    await app.taken()
    await app.too_late(T0 + 2)
    await app.taken()
    await check(app)


@pytest.mark.parametrize("before, after", [(2, 4), (1, 3), (2, 6)])
async def test_everything_goes_on_as_if_it_had_always_had_so_many(before: int, after: int) -> None:
    app = App(before)
    await app.client.start()
    await first_life(app)
    app.grow_topic(after)
    tables = await app.grow()
    assert {(table.before, table.after) for table in tables} == {(before, after)}
    assert not await app.grow()
    await second_life(app)
    await app.stop()
    await app.client.stop()


async def test_late_events_go_with_their_rows_and_are_applied_once(app: App) -> None:
    await first_life(app)
    app.grow_topic(4)
    await app.grow()
    await app.start()
    await app.taken()
    assert app.engine is not None
    assert app.engine.active is not None
    found = [
        (event.partition, event.offset)
        for _, event in app.late_events("by-key")
        if event.partition is not None
    ]
    moved = [key for key in KEYS if fnv1a(key.encode(), 4) != fnv1a(key.encode(), 2)]
    assert len(found) == len(set(found)) == len(moved) > 0
    await app.in_order(5)
    await app.taken()
    for aggregate in app.engine.active.aggregate_partitions:
        if aggregate.revisions is not None and aggregate.aggregate.spec.window == WINDOW:
            aggregate.revisions.apply()
    await app.engine.checkpoint()
    await app.taken()
    assert not list(app.late_events("by-key"))
    await check(app, applied=True)
    window = T0
    for name in ("by-key", "by-type", "all"):
        known = oracle(app.counted + app.late, name)
        async with asyncio.timeout(WAIT_S):
            while True:
                told = {row: said for row, said in (await app.closed(name)).items() if row[1] == window}
                revised = {row: said for row, said in told.items() if len(said) > 1}
                touched = {row for row in oracle(app.late, name) if row[1] == window}
                if revised.keys() == touched:
                    break
                await asyncio.sleep(0.05)
        for row, said in revised.items():
            assert said[-1] == -known[row], (name, row, said)
            assert len(said) == 2, (name, row, said)
    await app.stop()


async def test_a_topic_may_grow_again(app: App) -> None:
    await first_life(app)
    for partitions in (4, 8):
        app.grow_topic(partitions)
        await app.grow()
        await second_life(app)
        await app.stop()


async def refusal(app: App) -> str:
    """Why a worker does not start."""
    with pytest.raises(ConfigurationError) as told:
        await app.start()
    await app.stop()
    return str(told.value)


def killing(transport: MemoryTransport, left: int) -> Callable[[Any, str], Awaitable[None]]:
    """Kills this client at its ``left``-th step from now on."""
    steps = itertools.count(1)

    async def on_point(client: object, point: str) -> None:
        if client is transport and next(steps) == left:
            transport.kill()

    return on_point


async def test_killed_at_any_step_it_is_ended_by_the_same_command_and_no_worker_starts_before(
    app: App,
) -> None:
    await first_life(app)
    app.grow_topic(4)
    killed = 0
    while True:
        growth, transport = app.growth(f"grower-{killed}", send_records=10)
        await transport.start()
        await growth.plan()
        if not growth.tables:
            break
        app.broker.faults = Faults(on_point=killing(transport, killed + 1))
        try:
            await growth.run()
            break
        except ClientKilled:
            killed += 1
        finally:
            app.broker.faults = None
        if killed % 10 == 2:  # at the first step nothing was written yet
            assert "streamflow grow" in await refusal(app)
    assert killed > 50
    await second_life(app)
    await app.stop()


async def planned(app: App, **options: Any) -> list[TableGrowth]:
    growth, transport = app.growth(**options)
    await transport.start()
    tables = await growth.plan()
    await growth.run()
    return tables


async def everything_in(app: App) -> list[Any]:
    engine = app.declare()
    return [await app.read(topic) for topic in engine.topology.state_topics()]


async def test_rows_of_several_partitions_never_meet_in_one(app: App) -> None:
    await first_life(app)
    app.grow_topic(3)
    before = await everything_in(app)
    with pytest.raises(ConfigurationError, match=r"needs 3, which is no multiple.*Give events 4 partitions"):
        await planned(app)
    assert await everything_in(app) == before


async def test_what_was_not_taken_is_in_the_way_if_its_key_lies_elsewhere_now(app: App) -> None:
    await first_life(app)
    stays = next(key for key in KEYS if fnv1a(key.encode(), 4) == 0)
    moves = next(key for key in KEYS if fnv1a(key.encode(), 4) == 2)
    app.counted.append((stays, "t1", app.at_s))
    await app.send(app.counted[-1:])
    app.grow_topic(4)
    app.counted.append((moves, "t1", app.at_s))
    await app.send(app.counted[-1:])
    value = orjson.dumps({"id": "1", "type": "t1", "timestamp": time_text(app.at_s), "data": {}})
    await app.client.send([Record("events", 0, moves.encode(), value)])
    before = await everything_in(app)
    with pytest.raises(ConfigurationError, match=r"events\[0\]@.* has not taken it yet .* partition 2 of 4"):
        await planned(app)
    assert await everything_in(app) == before


async def test_what_was_not_taken_and_stays_where_it_is_counts_afterwards(app: App) -> None:
    await first_life(app)
    app.grow_topic(4)
    await app.in_order(3)  # as producers do that know of it
    await app.grow()
    await second_life(app)
    await app.stop()


async def test_a_producer_that_places_keys_by_another_rule_is_noticed(app: App) -> None:
    await first_life(app)
    app.grow_topic(4)
    key = next(key for key in KEYS if fnv1a(key.encode(), 4) == 2)
    await app.client.send([Record("events", 3, key.encode(), b"{}")])
    with pytest.raises(ConfigurationError, match=r"events\[3\]@0: its key lies in 2 of 4 .* by another rule"):
        await planned(app)


async def test_rows_under_other_keys_than_their_events_stay_where_they_are_if_that_is_said() -> None:
    app = App(scattered=True)
    await app.client.start()
    await app.start()
    await app.in_order(3)
    await app.taken()
    await app.stop()
    app.grow_topic(4)
    with pytest.raises(ConfigurationError, match="'counts': the row of key 'sum' lies in partition"):
        await planned(app)
    assert await planned(app, scattered_stay=True)
    await app.start()
    await app.in_order(3)
    await app.taken()
    rows = app.agent_rows(app.counts)
    assert sum(value for *_, value in rows) == len(app.counted)
    await app.stop()


async def test_keys_that_may_be_written_in_several_ways_are_refused() -> None:
    app = App(key_type=list[str])
    await app.client.start()
    await app.start()
    await app.client.send([Record("events", 0, b'["a", "b"]', b"{}")])
    await app.until(lambda: app.engine is not None and bool(app.engine.active and app.engine.active.shown))
    await app.stop()
    app.grow_topic(4)
    with pytest.raises(ConfigurationError, match="can be written in several ways"):
        await planned(app)


async def test_a_worker_that_starts_before_the_command_takes_what_is_left_in_the_old_partitions(
    app: App,
) -> None:
    await first_life(app)
    await app.in_order(3)  # nobody takes it before the topic grows
    app.grow_topic(4)
    with pytest.raises(ConfigurationError, match="has not taken it yet"):
        await planned(app)
    await app.start()
    await app.taken()
    assert app.engine is not None
    assert app.engine.active is not None
    assert app.engine.active.source_partitions() == [("events", 0), ("events", 1)]
    await app.stop()
    await verify(app)
    await app.grow()
    await second_life(app)
    await app.stop()


async def test_a_worker_does_not_start_for_a_number_that_is_no_multiple(app: App) -> None:
    await first_life(app)
    app.grow_topic(3)
    assert "needs 3: its source topic was given another number" in await refusal(app)


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_global_table_is_the_same_in_whatever_order_its_partitions_are_read(
    app: App, *, backwards: bool
) -> None:
    await first_life(app)
    app.grow_topic(4)
    growth, transport = app.growth()
    await transport.start()
    await growth.plan()
    app.broker.faults = Faults(delay_chance=1, delay_ms_max=5)  # so that each step has a time of its own
    await growth.run()
    app.broker.faults = None
    view = GlobalTableView(TableSpec("everywhere", None, RowCodec(None), "", 4))
    for partition in sorted(range(4), reverse=backwards):
        async for batch in whole_logs(transport, [("app-everywhere-changelog", partition)]):
            view.read(batch)
    wanted = Counter(key for key, _, _ in app.counted + app.late)
    assert {key: view.get(NO_WINDOW, key)[1] for key in view.keys(NO_WINDOW)} == wanted
