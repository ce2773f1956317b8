"""``table[key].append(x)``: what an agent changes in place is a write of its event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from streamflow import App, Record, Retry
from streamflow.clock import SystemClock
from streamflow.query.readers import make_reader
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import log, running, until

OPTIONS = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}}


class Basket(Record):
    items: list[int]


class Harness:
    """An app with one agent, that runs ``use(key, value)``."""

    def __init__(self, broker: MemoryBroker | None = None, concurrency: int = 1) -> None:
        self.broker = broker or MemoryBroker(SystemClock())
        self.app = App("places", transport=MemoryTransport(self.broker, "places", "one"), **OPTIONS)
        self.topic = self.app.topic("in", key_type=str, partitions=1)
        self.use: Callable[[Any, Any], Any] = lambda key, value: None
        self.done = 0
        retry = Retry(attempts=4, first_wait_s=0.01, jitter=False)

        @self.app.agent(self.topic, retry=retry, concurrency=concurrency)
        async def agent(stream: Any) -> None:
            async for key, value in stream.items():
                found = self.use(key, value)
                if found is not None:
                    await found
                self.done += 1

    async def feed(self, *values: int, timestamp: float = 1_000.0) -> None:
        before = self.done
        for value in values:
            await self.topic.send(key="a", value=value, timestamp=timestamp)
        await until(lambda: self.done == before + len(values))

    async def changelog(self, table: str) -> list[Any]:
        """What the newest record of the key ``a`` says, of each window."""
        found: dict[Any, Any] = {}
        for key, value, _ in await log(self.app, f"places-{table}-changelog"):
            assert key is not None
            found[key] = None if value is None else orjson.loads(value)
        return list(found.values())


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_what_is_changed_in_place_counts(concurrency: int) -> None:
    harness = Harness(concurrency=concurrency)
    app = harness.app
    lists, dicts = app.Table("lists", default=list), app.Table("dicts", default=dict)
    baskets = app.Table("baskets", default=lambda: Basket(items=[]), value_type=Basket)
    none = app.Table("none")

    def use(key: str, value: int) -> None:
        lists[key].append(value)
        assert lists[key][-1] == value, "one copy for each event"
        assert key in lists
        dicts[key].setdefault("n", {})[str(value)] = value
        baskets[key].items.append(value)
        none.setdefault(key, []).append(value)

    harness.use = use
    async with running(app):
        await harness.feed(*range(20))
        want = list(range(20))
        await until(
            lambda: sorted(lists["a"]) == sorted(none.get("a") or ()) == sorted(baskets["a"].items) == want
        )
        assert set(dicts["a"]["n"].values()) == set(want)
        assert [sorted(row) for row in await harness.changelog("lists")] == [want]
    again = Harness(harness.broker)
    lists = again.app.Table("lists", default=list)
    async with running(again.app):
        assert sorted(lists["a"]) == want


async def test_what_a_failed_event_changed_in_place_is_undone() -> None:
    harness = Harness()
    table = harness.app.Table("lists", default=list)
    failures = iter([True, True, False, False])

    def use(key: str, value: int) -> None:
        table[key].append(value)
        if next(failures):
            raise ValueError(value)

    harness.use = use
    async with running(harness.app):
        await harness.feed(1, 2)
        await until(lambda: table["a"] == [1, 2])


async def test_what_is_only_read_is_not_written() -> None:
    harness = Harness()
    table = harness.app.Table("lists", default=lambda: {"tags": {"x", "y"}})

    def use(key: str, value: int) -> None:
        assert table[key]["tags"] == {"x", "y"}
        if value == 1:
            table[key] = table[key]

    harness.use = use
    async with running(harness.app):
        await harness.feed(0)
        assert not await harness.changelog("lists")
        await harness.feed(1, 2, 3)
        await until(lambda: "a" in table)
        await harness.feed(4)
        assert len(await log(harness.app, "places-lists-changelog")) == 1


async def test_an_event_sees_and_may_overwrite_what_it_changed_in_place() -> None:
    harness = Harness()
    table = harness.app.Table("lists", default=list)
    windowed = harness.app.Table("recent", default=list).tumbling(10)
    seen: list[Any] = []

    def use(key: str, value: int) -> None:
        mine = table[key]
        mine.append(value)
        seen.append((key in table, list(table), list(table.get(key))))
        table[key].append(value + 1)
        mine.append(value + 2)
        windowed[key].value().append(value)
        windowed[key] += [value + 1]
        windowed[key].value().append(value + 2)
        if value == 10:
            table[key] = [0]
            mine.append(99)  # no row's any more
        if value == 20:
            table[key].append(7)
            del table[key]

    harness.use = use
    async with running(harness.app):
        await harness.feed(1)
        await until(lambda: table.get("a") == [1, 2, 3])
        assert seen == [(True, ["a"], [1])]
        await harness.feed(10)
        await until(lambda: table["a"] == [0])
        await harness.feed(20)
        await until(lambda: "a" not in table)
        rows = [n for first in (1, 10, 20) for n in range(first, first + 3)]
        await until(lambda: windowed["a"][1_000.0, 1_010.0] == rows)


async def test_sets_in_windows_count_too_and_windows_that_events_make_say_what_to_write() -> None:
    harness = Harness()
    sets = harness.app.SetTable("sets").tumbling(10)
    hops = harness.app.Table("hops", default=list).hopping(10, 5)
    session = harness.app.Table("sessions", default=list).session(10)
    errors: list[str] = []

    def use(key: str, value: int) -> None:
        sets[key].value().add(value)
        hops[key].value().append(value)
        session[key] += [value]
        assert session[key].value()[-1] == value
        if value == 2:
            session[key].value().append(value)
            try:
                session[key] += [value]
            except TypeError as exc:
                errors.append(str(exc))
        if value == 3:
            session[key].value().append(value)  # told when the event ends

    harness.use = use
    async with running(harness.app):
        await harness.feed(1)
        await until(lambda: sets["a"][1_000.0, 1_010.0] == {1})
        await until(lambda: hops["a"][1_000.0, 1_010.0] == [1])
        assert hops["a"][995.0, 1_005.0] == [], "only the window that was read"
        for value in (2, 3):
            await harness.topic.send(key="a", value=value, timestamp=1_000.0)
        await harness.feed(4)
        assert "table 'sessions'" in errors[0]
        assert "apply()" in errors[0]
        rows = make_reader(harness.app.engine, "sessions")
        await until(lambda: [row.value for row in rows.rows(0)] == [[1, 4]])
        assert len(await log(harness.app, "in-dead-letters")) == 2


async def test_what_cannot_be_written_fails_its_event() -> None:
    harness = Harness()
    table = harness.app.Table("lists", default=list)

    def use(key: str, value: int) -> None:
        table[key].append(object() if value == 1 else value)

    harness.use = use
    async with running(harness.app):
        await harness.topic.send(key="a", value=1)
        await harness.topic.send(key="a", value=2)
        await until(lambda: table["a"] == [2])
        assert len(await log(harness.app, "in-dead-letters")) == 1


async def test_events_in_flight_together_lose_nothing_of_a_row() -> None:
    harness = Harness(concurrency=4)
    table = harness.app.Table("lists", default=list)

    def use(key: str, value: int) -> Any:
        table[key].append(value)
        return asyncio.sleep(0.005)

    harness.use = use
    async with running(harness.app):
        await harness.topic.send(key="a", value=0)
        for value in range(1, 8):
            await harness.topic.send(key="a", value=value)
        await until(lambda: sorted(table["a"]) == list(range(8)))
