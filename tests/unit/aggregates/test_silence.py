"""Silence is not progress of time: what an idle tick closed takes what its own partition brings in order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import orjson
import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import rfc3339
from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.query.readers import make_reader
from streamflow.settings import Settings
from streamflow.testing import SimulationLoop, run_simulation
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window
from tests.simulation.checks import records_of
from tests.support.declared import T0_MS, Declared, event
from tests.support.loop_clock import LoopClock

TUMBLING = TumblingWindow(0.1, retain_s=3_600, idle_close_s=0.05)
HOPPING = HoppingWindow(0.1, 0.05, retain_s=3_600, idle_close_s=0.05)
BY: dict[str, Any] = {"key": Key(), "field": "data.shop", "none": None}


def spec(by: Any, window: Window = TUMBLING) -> AggregateSpec:
    return AggregateSpec("table", "events", by, window, RowFunctions(Count()), emit_closed="closed")


async def silence(world: Declared, until_ms: int) -> None:
    """Waits until silence has closed every window up to here, and the closing is durable."""

    def closed() -> bool:
        states = world.states("table")
        return bool(states) and all(
            state != "open" for (_, start), state in states.items() if start is not None and start < until_ms
        )

    await world.until(closed)


async def emitted(world: Declared) -> list[tuple[int, Any, bool]]:
    """(window start after T0, value, revised) of each closed row, in order."""
    rows = [orjson.loads(value or b"") for _, value in await world.read("closed")]
    starts = {rfc3339(T0_MS + at_ms): at_ms for at_ms in range(-1_000, 2_000, 50)}
    return [(starts[row["window_start"]], row["value"], row.get("revised", False)) for row in rows]


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_what_comes_in_order_after_a_silence_revises_the_row(by: Any) -> None:
    world = Declared(spec(by), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="a"), event(20, shop="a"))
        await silence(world, T0_MS + 100)
        assert await emitted(world) == [(0, 2, False)]
        await world.restart()  # what was assumed is durable, and so is what it is worth
        await world.write(0, event(30, shop="a"), event(40, shop="a"), event(110, shop="a"))
        await silence(world, T0_MS + 200)
        await world.until(lambda: world.reader("table").status().counters == {"in": 5, "counted": 5})
        rows = await emitted(world)
        assert rows[0] == (0, 2, False)
        assert [row for row in rows if row[0] == 0][-1] == (0, 4, True)
        assert [row for row in rows if row[0] == 100][-1][1] == 1
        assert all(revised for _, _, revised in rows[1:-1])
        assert set(world.rows("table").values()) == {4, 1}
        states = {start: state for (_, start), state in world.states("table").items()}
        assert states == {T0_MS: "revised", T0_MS + 100: "closed"}
    finally:
        await world.close()


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_what_is_late_by_the_partitions_own_events_stays_late(by: Any) -> None:
    world = Declared(spec(by), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="a"), event(120, shop="a"))
        await silence(world, T0_MS + 200)
        await world.write(0, event(2, shop="a"), event(130, shop="a"))
        await world.until(
            lambda: world.reader("table").status().counters == {"in": 4, "counted": 3, "late": 1}
        )
        assert sorted(world.rows("table").values()) == [1, 2]
    finally:
        await world.close()


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_hopping_windows_are_revised_one_by_one(by: Any) -> None:
    world = Declared(spec(by, HOPPING), partitions=1)
    await world.start()
    try:
        await world.write(0, event(60, shop="a"))
        await silence(world, T0_MS + 150)
        await world.write(0, event(101, shop="a"))
        await silence(world, T0_MS + 200)
        found = {start: value for (_, start), value in world.rows("table").items()}
        assert found == {T0_MS: 1, T0_MS + 50: 2, T0_MS + 100: 1}
        newest = {start: (value, revised) for start, value, revised in await emitted(world)}
        assert newest[0] == (1, False)
        assert newest[50] == (2, True)
        assert newest[100][0] == 1
    finally:
        await world.close()


@pytest.mark.parametrize("bursts", [1, 2], ids=["first revision", "second"])
@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_a_row_that_is_revised_and_expires_at_once_is_told_of(by: Any, bursts: int) -> None:
    """Time leaps past the row's retention in the very chunk that revises it."""
    world = Declared(spec(by, replace(TUMBLING, retain_s=0.3)), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="a"))
        await silence(world, T0_MS + 100)
        for burst in range(1, bursts):
            await world.write(0, event(1 + burst, shop="a"))
            await world.until(lambda: "revised" in world.states("table").values())
        await world.write(0, event(50, shop="a"), event(1_500, shop="a"))
        await world.until(lambda: [at_ms for _, at_ms in world.rows("table")] == [T0_MS + 1_500])
        counted = bursts + 2
        assert world.reader("table").status().counters == {"in": counted, "counted": counted}
        assert [row for row in await emitted(world) if row[0] == 0] == [
            (0, told, told > 1) for told in range(1, counted)
        ]
    finally:
        await world.close()


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_where_nothing_comes_each_window_is_written_once(by: Any) -> None:
    world = Declared(spec(by), partitions=2)
    await world.start()
    try:
        await world.write(0, event(1, shop="a"))
        await silence(world, T0_MS + 100)
        await world.write(0, event(300, shop="a"))
        await silence(world, T0_MS + 400)
        await world.restart()
        assert await emitted(world) == [(0, 1, False), (300, 1, False)]
    finally:
        await world.close()


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_a_bursty_source_loses_nothing(by: Any) -> None:
    """Each burst brings, in order, what happened since the one before; in between all is silent."""
    world = Declared(spec(by), partitions=1)
    await world.start()
    try:
        sent = 0
        for burst in range(4):
            times = range(burst * 250, (burst + 1) * 250, 7)
            await world.write(0, *(event(at_ms, shop="a") for at_ms in times))
            sent += len(times)
            await silence(world, T0_MS + times[-1])
        await world.until(lambda: world.reader("table").status().counters == {"in": sent, "counted": sent})
        newest = {start: value for start, value, _ in await emitted(world)}
        assert sum(newest.values()) == sent
        assert sum(world.rows("table").values()) == sent
    finally:
        await world.close()


@pytest.mark.parametrize("every_s", [25, 90])
@pytest.mark.parametrize("steady", [False, True], ids=["all silent", "others speak"])
def test_the_default_loses_nothing_of_what_comes_in_bursts(every_s: int, steady: bool) -> None:
    """Partition 0 is written every so many seconds, in order; 1 is silent too, or written each second."""

    async def run(loop: SimulationLoop) -> None:
        clock = LoopClock()
        broker = MemoryBroker(clock)
        broker.create_topics([TopicSpec("events", 2)])
        engine = Engine(Settings(id="app"), MemoryTransport(broker, "app", "worker", clock), clock)
        source = TopicSource("events", KeyCodec(str), ValueCodec(dict[str, Any]), 2)
        for name, by in BY.items():
            named = replace(spec(by, TumblingWindow(10)), name=name, emit_closed=f"{name}-closed", time="at")
            engine.topology.add_aggregate(named, source)
        await engine.start("http://worker")
        sent = 0
        waiting: list[Record] = []
        for second in range(1, 6 * every_s + 1):
            await asyncio.sleep(1)
            value = orjson.dumps({"at": clock.now_ms(), "data": {"shop": "a"}})
            waiting.append(Record("events", 0, b"k0", value))
            if second % every_s == 0:
                broker.write(waiting)
                sent += len(waiting)
                waiting = []
            if steady:
                broker.write([Record("events", 1, b"k1", value)])
                sent += 1
        await asyncio.sleep(120)
        assert engine.failure is None
        assert engine.active is not None
        for progress in engine.active.progress.values():
            assert "late" not in progress.counters
        for name in BY:
            found: dict[Any, int] = {}
            for _, _, closed in records_of(broker, f"{name}-closed"):
                row = orjson.loads(closed or b"")
                at = (row["window_start"], row.get("key"))
                assert row.get("revised") or at not in found, "told of once"
                found[at] = row["value"]
            assert sum(found.values()) == sent
            reader = make_reader(engine, name)
            assert sum(row.value for p in reader.owned for row in reader.rows(p)) == sent
        await engine.stop()

    run_simulation(run)


WINDOWS: dict[str, Window] = {
    "tumbling": TumblingWindow(10),
    "tumbling, long grace": TumblingWindow(10, grace_s=300),
    "hopping": HoppingWindow(60, 10, grace_s=300),
    "session": SessionWindow(gap_s=30, grace_s=300),
    "sliding": SlidingWindow(30, grace_s=300),
}


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
def test_a_silent_app_closes_in_time_and_writes_a_mark_a_minute(window: Window, by: Any) -> None:
    """Partition 0 has one event, 1 another one 25 s later, and then there is nothing more."""

    async def run(loop: SimulationLoop) -> None:
        clock = LoopClock()
        broker = MemoryBroker(clock)
        broker.create_topics([TopicSpec("events", 2)])
        engine = Engine(
            Settings(id="app", commit_interval=1, fetch_wait_ms=500),
            MemoryTransport(broker, "app", "worker", clock),
            clock,
        )
        source = TopicSource("events", KeyCodec(str), ValueCodec(dict[str, Any]), 2)
        engine.topology.add_aggregate(replace(spec(by, window), time="at"), source)
        await engine.start("http://worker")
        times_ms = []
        for partition in (0, 1):
            times_ms.append(clock.now_ms())
            value = orjson.dumps({"at": clock.now_ms(), "data": {"shop": "a"}})
            broker.write([Record("events", partition, b"k%d" % partition, value)])
            await asyncio.sleep(25)
        written = len(records_of(broker, "app-progress"))
        # The last one closes when its window and grace have passed in silence, or silence itself is sure.
        last_ms = max(window.last_end_of(time_ms) for time_ms in times_ms) + window.grace_ms
        await asyncio.sleep((last_ms - clock.now_ms()) / 1_000 + 15)
        told = [orjson.loads(closed or b"") for _, _, closed in records_of(broker, "closed")]
        reader = make_reader(engine, "table")
        assert {row.state for p in reader.owned for row in reader.rows(p)} == {"closed"}
        assert len(told) == len({(row["window_start"], row.get("key")) for row in told})
        assert sum(row.value for p in reader.owned for row in reader.rows(p)) >= 2
        await asyncio.sleep(900)
        assert engine.failure is None
        minutes = (clock.now_ms() - times_ms[0]) // 60_000
        marks = len(records_of(broker, "app-progress")) - written
        # Two partitions; and what closes is more than nothing: each event lies in so many windows.
        closings = 2 * 2 * 2 * max(2, len(window.windows_of(times_ms[0])))
        assert marks <= 2 * minutes + closings
        await engine.stop()

    run_simulation(run)
