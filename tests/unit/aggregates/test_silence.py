"""Silence is not progress of time: what an idle tick closed takes what its own partition brings in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
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
from tests.property.oracle import OracleEvent, ask
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


def kept(told: Iterable[dict[str, Any]]) -> dict[tuple[int, int, Any], Any]:
    """(start, end, key) -> value, as a reader of closed rows keeps the newest of each key and start."""
    found: dict[tuple[int, Any], tuple[int, Any]] = {}
    for row in told:
        start, end = bounds(row)
        at = start, row.get("key")
        if row.get("withdrawn"):
            assert found.pop(at)[0] == end, "what was told of is withdrawn"
            continue
        assert row.get("revised") or at not in found, "told of once"
        found[at] = end, row["value"]
    return {(start, end, key): value for (start, key), (end, value) in found.items()}


def bounds(row: dict[str, Any]) -> tuple[int, int]:
    """Start and end of a closed row's window in ms."""
    start, end = (
        round(datetime.fromisoformat(row[f"window_{which}"]).timestamp() * 1_000)
        for which in ("start", "end")
    )
    return start, end


BURSTY: list[Window] = [TumblingWindow(10), SessionWindow(5), SessionWindow(0.5), SlidingWindow(3)]
"""With the default of `idle_close_s`."""


@pytest.mark.parametrize("window", BURSTY, ids=["tumbling", "session", "short session", "sliding"])
@pytest.mark.parametrize("every_s", [25, 90])
@pytest.mark.parametrize("steady", [False, True], ids=["all silent", "others speak"])
def test_the_default_loses_nothing_of_what_comes_in_bursts(
    every_s: int, steady: bool, window: Window
) -> None:
    """Partition 0 is written every so many seconds, in order; 1 is silent too, or written each second."""

    async def run(loop: SimulationLoop) -> None:
        clock = LoopClock()
        broker = MemoryBroker(clock)
        broker.create_topics([TopicSpec("events", 2)])
        engine = Engine(Settings(id="app"), MemoryTransport(broker, "app", "worker", clock), clock)
        source = TopicSource("events", KeyCodec(str), ValueCodec(dict[str, Any]), 2)
        for name, by in BY.items():
            named = replace(spec(by, window), name=name, emit_closed=f"{name}-closed", time="at")
            engine.topology.add_aggregate(named, source)
        await engine.start("http://worker")
        times_ms: list[list[int]] = [[], []]
        waiting: list[Record] = []
        for second in range(1, 6 * every_s + 1):
            await asyncio.sleep(1)
            value = orjson.dumps({"at": clock.now_ms(), "data": {"shop": "a"}})
            times_ms[0].append(clock.now_ms())
            waiting.append(Record("events", 0, b"k0", value))
            if second % every_s == 0:
                broker.write(waiting)
                waiting = []
            if steady:
                times_ms[1].append(clock.now_ms())
                broker.write([Record("events", 1, b"k1", value)])
        await asyncio.sleep(120)
        assert engine.failure is None
        assert engine.active is not None
        for progress in engine.active.progress.values():
            assert "late" not in progress.counters
        groups: dict[str, tuple[Any, Any]] = {"key": ("k0", "k1"), "field": ("a", "a"), "none": (None, None)}
        for name in BY:
            streams = [
                [OracleEvent(t, group, 1) for t in times]
                for group, times in zip(groups[name], times_ms, strict=True)
            ]
            want = {at: len(values) for at, values in ask(window, streams).rows.items()}
            told = [orjson.loads(value or b"") for _, _, value in records_of(broker, f"{name}-closed")]
            assert kept(told) == want
            reader = make_reader(engine, name)
            rows = [row for p in reader.owned for row in reader.rows(p)]
            assert {(row.start_ms, row.end_ms, row.key): row.value for row in rows} == want
            assert {row.state for row in rows} <= {"closed", "revised"}
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


SESSION = SessionWindow(0.1, retain_s=3_600, idle_close_s=0.05)
GRACIOUS = SessionWindow(0.1, grace_s=0.2, retain_s=3_600, idle_close_s=0.05)
SLIDING = SlidingWindow(0.1, retain_s=3_600, idle_close_s=0.05)
Told = tuple[int, int, Any, str]


async def told(world: Declared) -> list[Told]:
    """(start and end after T0, value, how it was told of) of each record of the closed rows, in order."""
    found = []
    for _, value in await world.read("closed"):
        row = orjson.loads(value or b"")
        start, end = bounds(row)
        how = "withdrawn" if row.get("withdrawn") else "revised" if row.get("revised") else ""
        found.append((start - T0_MS, end - T0_MS, row.get("value"), how))
    return found


async def closes(world: Declared, rows: int) -> None:
    """Waits until silence has closed so many rows, durably, and all of them are."""

    def closed() -> bool:
        states = list(world.states("table").values())
        return len(states) == rows and "open" not in states

    await world.until(closed)


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_session_that_silence_closed_goes_on(by: Any, restarts: bool) -> None:
    world = Declared(spec(by, SESSION), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="a"), event(50, shop="a"))
        await closes(world, 1)
        assert await told(world) == [(1, 151, 2, "")]
        if restarts:
            await world.restart()
        await world.write(0, event(60, shop="a"), event(120, shop="a"))
        await closes(world, 1)
        await world.until(lambda: world.reader("table").status().counters == {"in": 4, "counted": 4})
        await world.until(lambda: list(world.states("table").values()) == ["revised"])
        if restarts:
            await world.restart()
        assert await told(world) == [(1, 151, 2, ""), (1, 221, 4, "revised")]
        assert list(world.rows("table").values()) == [4]
        assert list(world.states("table").values()) == ["revised"]
    finally:
        await world.close()


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_sessions_that_were_told_of_and_become_one_are_withdrawn_but_for_the_first(by: Any) -> None:
    world = Declared(spec(by, GRACIOUS), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="a"), event(181, shop="a"))
        await closes(world, 2)
        assert await told(world) == [(1, 102, 1, ""), (181, 282, 1, "")]
        await world.write(0, event(95, shop="a"))  # within the grace of its partition's events
        await world.until(lambda: list(world.states("table").values()) == ["revised"])
        assert (await told(world))[2:] == [(181, 282, None, "withdrawn"), (1, 282, 3, "revised")]
        await world.restart()
        await world.write(0, event(5_000, shop="a"))
        await closes(world, 2)
        assert len(await told(world)) == 5, "each is told of once more, and no more"
    finally:
        await world.close()


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_a_session_that_begins_earlier_than_it_was_told_is_withdrawn(by: Any) -> None:
    world = Declared(spec(by, GRACIOUS), partitions=1)
    await world.start()
    try:
        await world.write(0, event(181, shop="a"))
        await closes(world, 1)
        await world.write(0, event(120, shop="a"))
        await world.until(lambda: list(world.states("table").values()) == ["revised"])
        assert await told(world) == [
            (181, 282, 1, ""),
            (181, 282, None, "withdrawn"),
            (120, 282, 2, ""),
        ]
        keys = {key for key, _ in await world.read("closed")}
        assert len(keys) == (2 if by is None else 1), "a row without key goes by its window's start"
    finally:
        await world.close()


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_a_session_whose_bounds_stay_is_revised_in_its_place(by: Any) -> None:
    world = Declared(spec(by, GRACIOUS), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="a"), event(90, shop="a"))
        await closes(world, 1)
        for number in range(2):
            await world.write(0, event(40, shop="a"))
            await world.until(lambda n=number: list(world.rows("table").values()) == [3 + n])  # type: ignore[misc]
            await world.until(lambda: list(world.states("table").values()) == ["revised"])
        await world.restart()
        rows = [(1, 191, 2, ""), (1, 191, 3, "revised"), (1, 191, 4, "revised")]
        await world.until(lambda: all(not stage.due() for stage in world.stages()))
        assert await told(world) == rows
    finally:
        await world.close()


@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_sliding_windows_take_what_comes_in_order_after_a_silence(by: Any) -> None:
    world = Declared(spec(by, SLIDING), partitions=1)
    await world.start()
    try:
        await world.write(0, event(0, shop="a"), event(50, shop="a"))
        await closes(world, 3)
        assert await told(world) == [(-99, 1, 1, ""), (-49, 51, 2, ""), (1, 101, 1, "")]
        await world.restart()
        await world.write(0, event(60, shop="a"))
        await closes(world, 5)
        await world.until(lambda: "revised" in world.states("table").values())
        counted = {start: value for (_, start), value in world.rows("table").items()}
        assert {(start or 0) - T0_MS: v for start, v in counted.items()} == {
            -99: 1,
            -49: 2,
            -39: 3,
            1: 2,
            51: 1,
        }
        newest = {(start, end): (value, how) for start, end, value, how in await told(world)}
        assert newest[-49, 51] == (2, ""), "it ended before the event"
        assert newest[1, 101] == (2, "revised")
        assert {at: value for at, (value, _) in newest.items()} == {
            (-99, 1): 1,
            (-49, 51): 2,
            (-39, 61): 3,
            (1, 101): 2,
            (51, 151): 1,
        }
        before = await told(world)
        await world.restart()
        await world.until(lambda: all(not stage.due() for stage in world.stages()))
        assert await told(world) == before
    finally:
        await world.close()


@pytest.mark.parametrize("window", [SESSION, SLIDING], ids=["session", "sliding"])
@pytest.mark.parametrize("by", BY.values(), ids=BY.keys())
async def test_moving_windows_are_written_once_where_nothing_comes(by: Any, window: Window) -> None:
    world = Declared(spec(by, window), partitions=2)
    await world.start()
    try:
        await world.write(0, event(1, shop="a"))
        await closes(world, 1)
        await world.write(0, event(300, shop="a"))
        await closes(world, 2)
        await world.write(0, event(2, shop="a"))  # late by its own partition's events
        await world.restart()
        assert [(value, how) for _, _, value, how in await told(world)] == [(1, ""), (1, "")]
        counters = world.reader("table").status().counters
        assert counters == {"in": 3, "counted": 2, "late": 1}
    finally:
        await world.close()
