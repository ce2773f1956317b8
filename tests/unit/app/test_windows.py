"""Windowed tables in Faust's form: which windows a key stands for, and what becomes of windows that end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import faust
import pytest

from streamflow import (
    App,
    ConfigurationError,
    HoppingWindow,
    Record,
    Retry,
    SessionWindow,
    TumblingWindow,
    WindowError,
)
from streamflow.clock import SystemClock
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import T0_MS, end_engine, logged, make_app, running, until

T0_S = T0_MS / 1_000


class Order(Record):
    n: int
    made: float = 0.0
    day: str = ""


class Harness:
    """An app that runs ``use(key, value)`` on each event of its topic."""

    def __init__(self, use: Any = None, **options: Any) -> None:
        self.app: App = make_app(**options)
        self.topic = self.app.topic("in", key_type=str, value_type=Order, partitions=2)
        self.use = use
        self.seen: list[Any] = []

        @self.app.agent(self.topic)
        async def agent(stream: Any) -> None:
            async for key, value in stream.items():
                self.seen.append(self.use(key, value))

    async def put(self, key: str, at_s: float, **fields: Any) -> Any:
        """Sends one event; what ``use`` gave for it."""
        before = len(self.seen)
        await self.topic.send(key=key, value=Order(n=1, **fields), timestamp=at_s)
        await until(lambda: len(self.seen) > before)
        return self.seen[-1]


async def test_hopping_windows_take_an_event_as_often_as_they_overlap() -> None:
    harness = Harness()
    table = harness.app.Table("hop", default=int).hopping(10, 5, expires=60)

    def use(key: str, order: Order) -> Any:
        table[key] += order.n
        row = table[key]
        return row.current(), row.delta(5), row.value(), row[(T0_S - 5, T0_S + 4.9)]

    harness.use = use
    async with running(harness.app):
        assert await harness.put("ann", T0_S + 1) == (1, 1, 1, 1)
        assert await harness.put("ann", T0_S + 6) == (1, 2, 1, 1)


async def test_tables_relative_to_a_field_count_in_its_windows_whatever_the_records_say() -> None:
    harness = Harness()
    plain = harness.app.Table("by_made", default=int).tumbling(10, expires=3600)
    by_made = plain.relative_to_field(Order.made)
    by_day = harness.app.Table("by_day", default=int).tumbling(86_400, expires=1).relative_to_field(Order.day)

    def use(key: str, order: Order) -> Any:
        by_made[key] += 1
        by_day[key] += 1
        return by_made[key].value(), by_day[key].value(), by_made[key].current()

    harness.use = use
    async with running(harness.app):
        old = {"made": 1_000_000.0, "day": "2001-02-03T00:00:00Z"}
        assert await harness.put("ann", T0_S, **old) == (1, 1, 0)
        assert await harness.put("ann", T0_S + 100, **old) == (2, 2, 0)
        newer = {"made": 1_000_050.0, "day": "2001-02-03T23:00:00Z"}
        assert await harness.put("ann", T0_S + 200, **newer) == (1, 3, 0)
        assert await harness.put("ann", T0_S, **old) == (3, 4, 0)  # the hour has not passed


async def test_an_absurd_time_in_a_field_ends_no_windows_and_its_event_is_set_aside() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=Order, partitions=1)
    table = app.Table("by_made", default=int).tumbling(10, expires=3600).relative_to_field(Order.made)

    @app.agent(topic, retry=Retry(attempts=1))
    async def count(stream: Any) -> None:
        async for key, _ in stream.items():  # noqa: PERF102 - a stream
            table[key] += 1

    async with running(app):
        for made in (T0_S, 253_402_300_799.0, T0_S + 1):
            await topic.send(key="ann", value=Order(n=1, made=made))
        await until(lambda: table.table.find("ann", T0_MS) == 2)
        ((_, _, headers),) = await logged(app, "in-dead-letters", 1)
        assert dict(headers)["reason"] == b"bad-timestamp"


@pytest.mark.parametrize("kind", ["tumbling", "hopping", "session", "sliding"])
async def test_an_event_of_no_known_time_is_bad_input_for_windows_alone(kind: str) -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=Order, partitions=1)
    plain = app.Table("plain", default=int)
    made: Any = app.Table("windowed", default=int)
    made = made.hopping(10, 5) if kind == "hopping" else getattr(made, kind)(10)

    @app.agent(topic, retry=Retry(attempts=1))
    async def count(stream: Any) -> None:
        async for key, order in stream.items():
            plain[key] += 1
            if order.n:
                made[key] += 1

    async with running(app):
        for n, at_s in ((0, -0.001), (1, -0.001), (1, T0_S)):
            await topic.send(key="ann", value=Order(n=n), timestamp=at_s)
        await until(lambda: plain.get("ann") == 2)
        ((_, _, headers),) = await logged(app, "in-dead-letters", 1)
        assert dict(headers)["reason"] == b"bad-timestamp"
        assert b"no timestamp" in dict(headers)["error"]


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("kind", ["tumbling", "hopping"])
async def test_writes_that_come_in_order_after_a_silence_count(kind: str, concurrency: int) -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=Order, partitions=1)
    windows = {
        "tumbling": TumblingWindow(0.1, idle_close_s=0.05),
        "hopping": HoppingWindow(0.1, 0.1, idle_close_s=0.05),
    }
    table = app.Table("counts", default=int, window=windows[kind])

    @app.agent(topic, concurrency=concurrency)
    async def count(stream: Any) -> None:
        async for key, _ in stream.items():  # noqa: PERF102 - a stream
            table[key] += 1

    async with running(app):
        (agent,) = app.engine.topology.agents
        await topic.send(key="ann", value=Order(n=1), timestamp=T0_S + 0.01)
        await until(lambda: any((p.watermark_ms or 0) >= T0_MS + 100 for p in agent.progress.values()))
        for ms in (20, 30, 110, 40):
            await topic.send(key="ann", value=Order(n=1), timestamp=T0_S + ms / 1_000)
        await until(lambda: table.table.find("ann", T0_MS + 100) == 1)
        await until(lambda: sum(p.counters.get("late", 0) for p in agent.progress.values()) == 1)
        assert table.table.find("ann", T0_MS) == 3


async def test_tables_relative_to_now_count_in_the_window_that_holds_now() -> None:
    harness = Harness()
    table = harness.app.Table("now", default=int).tumbling(3600, expires=7200).relative_to_now()

    def use(key: str, _: Order) -> Any:
        table[key] += 1
        table["set"] = 5
        return table[key].value(), table[key].now(), table[key].current(), "set" in table

    harness.use = use
    async with running(harness.app):
        assert await harness.put("ann", T0_S) == (1, 1, 0, True)
        assert await harness.put("ann", T0_S + 7200) == (2, 2, 0, True)
        await until(lambda: table["ann"].value() == 2)  # outside of events too


async def test_a_table_may_be_relative_to_a_fixed_time_or_to_a_function() -> None:
    harness = Harness()
    base = harness.app.Table("fixed", default=int).tumbling(10, expires=60)
    fixed = base.relative_to(datetime.fromtimestamp(T0_S, UTC))
    shifted = base.relative_to(lambda event: event.message.timestamp - 10)

    def use(key: str, _: Order) -> Any:
        base[key] += 1
        return fixed[key].value(), shifted[key].value(), base.relative_to_stream()[key].value()

    harness.use = use
    async with running(harness.app):
        assert await harness.put("ann", T0_S) == (1, 0, 1)
        assert await harness.put("ann", T0_S + 10) == (1, 1, 1)


def test_sessions_have_no_other_time_than_the_events() -> None:
    app = make_app()
    sessions = app.Table("sessions", default=int, window=SessionWindow(gap_s=10))
    with pytest.raises(ConfigurationError, match="session"):
        sessions.relative_to_now()


async def test_keys_are_those_of_all_windows_and_items_those_of_one() -> None:
    harness = Harness()
    table = harness.app.Table("index", default=int).tumbling(10, expires=3600, key_index=True)

    def use(key: str, _: Order) -> Any:
        table[key] += 1
        return {
            "keys": sorted(table.keys()),
            "items": sorted(table.items()),
            "before": sorted(table.items().delta(10)),
            "values": sorted(table.values()),
            "current": sorted(table.keys().current()),
            "index": table.key_index_table,
            "len": len(table),
        }

    harness.use = use
    async with running(harness.app):
        await harness.put("ann", T0_S)
        told = await harness.put("bob", T0_S + 10)
        assert told == {
            "keys": ["ann", "bob"],
            "items": [("ann", 0), ("bob", 1)],
            "before": [("ann", 1), ("bob", 0)],
            "values": [0, 1],
            "current": ["ann", "bob"],
            "index": {"ann": 1, "bob": 1},
            "len": 2,
        }
        await until(lambda: sorted(table.keys()) == ["ann", "bob"])
        text = table.relative_to(T0_S).as_ansitable(title="counts")
        assert "ann" in text
        assert "counts" in text.lower()


async def test_a_row_by_an_event_is_the_row_at_its_time() -> None:
    harness = Harness()
    table = harness.app.Table("at", default=int).tumbling(10, expires=3600)
    kept: list[Any] = []

    async def agent(stream: Any) -> None:
        async for event in stream.events():
            table[event.key] += 1
            kept.append(event)
            harness.seen.append((table[event.key][kept[0]].value(), table[event.key].value(event=kept[0])))

    other = harness.app.topic("events", key_type=str, value_type=Order, partitions=2)
    harness.app.agent(other)(agent)
    async with running(harness.app):
        await other.send(key="ann", value=Order(n=1), timestamp=T0_S)
        await other.send(key="ann", value=Order(n=1), timestamp=T0_S + 10)
        await other.send(key="ann", value=Order(n=1), timestamp=T0_S + 11)
        await until(lambda: harness.seen == [(1, 1), (1, 1), (1, 1)])


class Closing:
    """An app that counts in windows of 10 s, and sends what each closed window held."""

    def __init__(self, broker: MemoryBroker, name: str) -> None:
        self.transport = MemoryTransport(broker, "closing", name)
        options = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}}
        self.app = App("closing", transport=self.transport, **options)
        self.topic = self.app.topic("in", key_type=str, value_type=int, partitions=2)
        self.out = self.app.topic("out", key_type=str, value_type=list, partitions=1)
        self.closed: list[Any] = []
        self.seen = 0
        self.table = self.app.Table("counts", default=int, on_window_close=self.on_close).tumbling(
            10, expires=5
        )

        @self.app.agent(self.topic)
        async def count(stream: Any) -> None:
            async for key, n in stream.items():
                self.table[key] += n
                self.seen += 1

    async def on_close(self, key: Any, value: int) -> None:
        self.closed.append((key[0], key[1][0], round(key[1][1], 1), value))
        await self.out.send(key=key[0], value=[key[0], key[1][0], value])

    async def put(self, *events: tuple[str, int, float]) -> None:
        wanted = self.seen + len(events)
        for key, n, at_s in events:
            await self.topic.send(key=key, value=n, timestamp=at_s)
        await until(lambda: self.seen == wanted)


FIRST = [("ann", 1, T0_S), ("ann", 2, T0_S + 3), ("eva", 5, T0_S + 1), ("cleo", 7, T0_S + 2)]
LATER = [("ann", 1, T0_S + 16), ("eva", 1, T0_S + 16)]
TOLD = [("ann", T0_S, T0_S + 9.9, 3), ("cleo", T0_S, T0_S + 9.9, 7), ("eva", T0_S, T0_S + 9.9, 5)]


async def test_each_key_of_a_window_that_expires_is_told_once_in_every_partition() -> None:
    one = Closing(MemoryBroker(SystemClock()), "one")
    async with running(one.app):
        await one.put(*FIRST)
        await one.put(("ann", 1, T0_S + 14))  # the first window has ended, but takes events for five seconds
        await asyncio.sleep(0.05)
        assert one.closed == []
        await one.put(*LATER)
        records = await logged(one.app, "out", 3)
        assert sorted(one.closed) == TOLD
        assert sorted(key for key, _, _ in records) == [b"ann", b"cleo", b"eva"]
        # What came too late opens the window no more.
        await one.put(("ann", 9, T0_S + 1), ("eva", 1, T0_S + 17))
        await until(lambda: one.app.engine.metrics.late_events_total.labels("counts").value == 1)
        assert len(one.closed) == 3


async def test_a_worker_that_is_killed_while_it_tells_ends_each_window_once_all_the_same() -> None:
    broker = MemoryBroker(SystemClock(), session_timeout_ms=200, transaction_timeout_ms=200)
    one = Closing(broker, "one")
    await one.app.start()
    await one.put(*FIRST)
    await until(lambda: len(one.table) == 3)
    inside = asyncio.Event()

    async def stuck(key: Any, value: int) -> None:
        await Closing.on_close(one, key, value)
        inside.set()
        await asyncio.Event().wait()

    one.table.on_window_close(stuck)
    await one.put(*LATER)
    await inside.wait()  # sent, but not in a checkpoint yet
    one.transport.kill()
    two = Closing(broker, "two")
    async with running(two.app):
        records = await logged(two.app, "out", 3)
        assert sorted(two.closed) == TOLD
        assert len(records) == 3
        assert dict(two.table.items_at(T0_MS + 16_000)) == {"ann": 1, "eva": 1}
    await stop_dead(one.app)
    three = Closing(broker, "three")
    async with running(three.app):
        await three.put(("ann", 1, T0_S + 17))
        await asyncio.sleep(0.1)
        assert three.closed == []


async def stop_dead(app: App) -> None:
    """What is left of a worker whose transport was killed."""
    end_engine()
    await asyncio.wait({asyncio.ensure_future(app.stop())}, timeout=5)


async def test_windows_of_silent_partitions_close_when_the_others_have_gone_on() -> None:
    harness = Harness()
    closed: list[Any] = []
    window = TumblingWindow(size_s=10, grace_s=0, retain_s=0, idle_close_s=0.2)
    table = harness.app.Table(
        "idle", default=int, window=window, on_window_close=lambda key, value: closed.append((key[0], value))
    )

    def use(key: str, _: Order) -> None:
        table[key] += 1

    harness.use = use
    async with running(harness.app):
        await harness.put("ann", T0_S)
        await harness.put("eva", T0_S)
        await harness.put("ann", T0_S + 50)
        await until(lambda: sorted(closed) == [("ann", 1), ("eva", 1)])


def test_windows_that_close_need_windows() -> None:
    app = make_app()
    app.Table("plain", on_window_close=print)
    with pytest.raises(ConfigurationError, match="needs windows"):
        app.prepare_engine()


def test_windows_may_be_made_as_fausts_are() -> None:
    assert TumblingWindow(10, expires=60) == TumblingWindow(size_s=10, grace_s=60, retain_s=0)
    assert TumblingWindow(size=timedelta(seconds=10)) == TumblingWindow(10)
    hopping = HoppingWindow(size=10, step=5, expires=timedelta(minutes=1))
    assert hopping == HoppingWindow(10, 5, grace_s=60, retain_s=0)
    assert replace(hopping, retain_s=5) == HoppingWindow(10, 5, grace_s=60, retain_s=5)
    with pytest.raises(WindowError, match="not both"):
        TumblingWindow(10, size=10)
    with pytest.raises(WindowError, match="besides"):
        TumblingWindow(10, expires=60, grace_s=5)
    with pytest.raises(WindowError, match="needs size_s"):
        TumblingWindow()
    for window in (faust.TumblingWindow(10, expires=60), faust.HoppingWindow(10, 5, expires=60)):
        table = make_app().Table("t", window=window)
        assert (table.window.size_ms, table.window.grace_ms) == (10_000, 60_000)
    with pytest.raises(ConfigurationError, match="sliding"):
        make_app().Table("t", window=faust.SlidingWindow(5, 5, 60))
