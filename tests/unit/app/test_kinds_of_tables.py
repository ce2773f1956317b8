"""Set tables, global tables, and what rows are when they come back from the log."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamflow import App, Record, Retry
from streamflow.clock import SystemClock
from streamflow.errors import StoreError
from streamflow.state.changelog import ChangelogError
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import make_app, running, until

OPTIONS = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}}


class Place(Record):
    city: str


class Person(Record):
    name: str
    place: Place


class Item(msgspec.Struct):
    n: int


@dataclass
class Point:
    x: int


class Worker:
    """One of several workers of one app over one broker; runs ``use(key, value)`` on each event."""

    def __init__(self, broker: MemoryBroker, name: str, *, partitions: int = 2) -> None:
        self.app = App("shared", transport=MemoryTransport(broker, "shared", name), **OPTIONS)
        self.topic = self.app.topic("in", key_type=str, partitions=partitions)
        self.use: Callable[[Any, Any], Any] = lambda key, value: None
        self.seen: list[Any] = []

        @self.app.agent(self.topic, retry=Retry(attempts=1))
        async def agent(stream: Any) -> None:
            async for key, value in stream.items():
                self.seen.append(self.use(key, value))


async def test_a_set_table_writes_what_its_sets_do_to_themselves() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=str, partitions=1)
    friends = app.SetTable("friends")
    told: list[Any] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for key, _ in stream.items():  # noqa: PERF102  # a stream, not a dict
            row = friends[key]
            row.add("bob")
            row.add("bob")
            row.update(["cleo", "dan"], {"eva"})
            row.discard("nobody")
            row.remove("dan")
            row |= {"finn"}
            friends[key] -= {"eva"}
            row.intersection_update({"bob", "cleo", "finn", "gina"})
            row.symmetric_difference_update({"finn", "hugo"})
            told.append((sorted(row), "bob" in row, len(row), row | {"x"}, row == {"bob", "cleo", "hugo"}))
            friends["other"] = {"ann"}
            friends["other"].clear()
            friends["gone"].add("x")
            told.append((friends.pop("gone"), "gone" in friends, friends.get("none")))

    async with running(app):
        await topic.send(key="ann", value="go")
        await until(lambda: len(told) == 2)
        assert told[0] == (["bob", "cleo", "hugo"], True, 3, {"bob", "cleo", "hugo", "x"}, True)
        assert told[1] == ({"x"}, False, None)
        await until(lambda: set(friends["ann"]) == {"bob", "cleo", "hugo"})
        assert sorted(friends) == ["ann", "other"]
        with pytest.raises(TypeError):
            friends["ann"].add("zoe")


async def test_sets_in_windows_and_sets_that_are_changed_from_elsewhere() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=str, partitions=1)
    seen = app.SetTable("seen").tumbling(10, expires=60)
    managed = app.SetTable("managed", start_manager=True, partitions=1)
    told: list[Any] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for key, value in stream.items():
            seen[key].add(value)
            seen[key].discard("b")
            told.append(sorted(seen[key].value()))

    async with running(app):
        for value in "abc":
            await topic.send(key="k", value=value, timestamp=1_000.0)
        await until(lambda: told == [["a"], ["a"], ["a", "c"]])
        await managed.manager.add("k", "x")
        await managed.manager.update("k", ["y", "z"])
        await managed.manager.discard("k", "x")
        await managed.manager.intersection_update("k", ["y", "w"])
        await managed.manager.symmetric_difference_update("k", ["w"])
        await until(lambda: set(managed["k"]) == {"y", "w"})
        await managed.manager.clear("k")
        await until(lambda: len(managed["k"]) == 0)
        plain = app.SetTable("plain")
        with pytest.raises(RuntimeError, match="start_manager"):
            await plain.manager.add("k", "x")


def test_a_set_table_does_not_go_on_from_the_operations_of_stock_faust() -> None:
    codec = make_app().SetTable("sets").row_codec(None)
    assert codec.decode_key(b'["a",1]') == (0, ("a", 1))
    with pytest.raises(ChangelogError, match=r"another name|can't be read"):
        codec.decode_key(b'[1,"key"]')


def holds(table: Any, rows: dict[Any, Any]) -> bool:
    return dict(table) == rows


async def test_every_worker_reads_all_rows_of_a_global_table() -> None:
    broker = MemoryBroker(SystemClock())
    workers = [Worker(broker, "one"), Worker(broker, "two")]
    tables = [worker.app.GlobalTable("rates", default=int) for worker in workers]
    sets = [worker.app.SetGlobalTable("names") for worker in workers]
    windows = [worker.app.GlobalTable("recent", default=int).tumbling(10, expires=60) for worker in workers]
    for worker, rates, names, recent in zip(workers, tables, sets, windows, strict=True):

        def use(key: str, value: Any, rates: Any = rates, names: Any = names, recent: Any = recent) -> Any:
            rates[key] += value
            names["all-" + key].add(key)
            recent[key] += value
            return rates[key], dict(rates)

        worker.use = use
    async with running(workers[0].app):
        async with running(workers[1].app):
            await until(lambda: all(len(worker.app.consumer.assignment()) == 1 for worker in workers))
            for key, value in (("ann", 1), ("eva", 2)):
                await workers[0].topic.send(key=key, value=value, timestamp=1_000.0)
            for rates, names, recent in zip(tables, sets, windows, strict=True):
                await until(partial(holds, rates, {"ann": 1, "eva": 2}))
                await until(partial(holds, names, {"all-ann": {"ann"}, "all-eva": {"eva"}}))
                assert dict(recent.items_at(1_000_000)) == {"ann": 1, "eva": 2}
            assert sorted(len(worker.seen) for worker in workers) == [1, 1]
            # Inside of events too; and what the agent itself wrote is there at once.
            await workers[0].topic.send(key="ann", value=5, timestamp=1_000.0)
            await until(lambda: sum(len(worker.seen) for worker in workers) == 3)
            assert (6, {"ann": 6, "eva": 2}) in [told for worker in workers for told in worker.seen]
        # A worker that starts later has everything before its agents begin.
        late = Worker(broker, "three")
        rates = late.app.GlobalTable("rates", default=int)
        found: list[Any] = []

        @rates.on_recover  # type: ignore[untyped-decorator]  # a table is Any to users
        async def recovered() -> None:
            found.append(dict(rates))

        async with running(late.app):
            assert found[0] == {"ann": 6, "eva": 2}


async def test_of_a_key_that_two_partitions_wrote_the_newest_counts_everywhere() -> None:
    broker = MemoryBroker(SystemClock())
    worker = Worker(broker, "one")
    table = worker.app.GlobalTable("last", default=str)

    def use(key: str, value: Any) -> None:
        table["shared"] = value

    worker.use = use
    async with running(worker.app):
        for key, value in (("ann", "first"), ("eva", "second"), ("ann", "third")):
            await worker.topic.send(key=key, value=value)
            await until(partial(holds, table, {"shared": value}))


async def test_a_global_table_is_read_from_every_partition_of_a_topic_that_has_more() -> None:
    broker = MemoryBroker(SystemClock())
    worker = Worker(broker, "one", partitions=4)
    app = worker.app
    feed = app.topic("rates-in", key_type=str, partitions=1)
    rates = app.GlobalTable("rates", default=int, partitions=1)
    sets = app.SetGlobalTable("names", partitions=1)
    recent = app.GlobalTable("recent", default=int, partitions=1).tumbling(10, expires=60)

    @app.agent(feed)
    async def fill(stream: Any) -> None:
        async for key, value in stream.items():
            rates[key] = value
            sets[key].add("member")
            recent[key] += value

    def use(key: str, value: Any) -> Any:
        there = "usd" in rates, list(rates), len(rates), rates.get("none"), rates["none"]
        windows = recent["usd"].value(), "usd" in recent, list(recent)
        return rates["usd"], there, set(sets["usd"]), windows

    worker.use = use
    async with running(app):
        await feed.send(key="usd", value=3, timestamp=1_000.0)
        await until(partial(holds, rates, {"usd": 3}))
        for partition in range(4):
            await worker.topic.send(key="any", value=1, partition=partition, timestamp=1_000.0)
        await until(lambda: len(worker.seen) == 4)
        want = 3, (True, ["usd"], 1, None, 0), {"member"}, (3, True, ["usd"])
        assert worker.seen == [want] * 4
        # Only what is written needs a partition of its own; that says what to do.
        errors: list[str] = []

        def write(key: str, value: Any) -> None:
            try:
                rates[key] = value
            except TypeError as exc:
                errors.append(str(exc))

        worker.use = write
        await worker.topic.send(key="any", value=1, partition=3)
        await until(lambda: errors)
        assert "'rates'" in errors[0]
        assert "partitions=4" in errors[0]


VALUES: list[tuple[dict[str, Any], Any]] = [
    ({"default": int}, 7),
    ({"default": list}, [1, [2]]),
    ({"default": dict}, {"a": {"b": 1}}),
    ({"default": set}, {1, 2}),
    ({"default": lambda: {"first"}}, {"second"}),
    ({"default": deque}, deque([1, 2])),
    ({"default": Counter}, Counter({"a": 2})),
    ({"default": lambda: defaultdict(int)}, defaultdict(int, {"a": 2})),
    ({"default": Decimal}, Decimal("1.10")),
    ({"value_type": Decimal}, Decimal("2.50")),
    ({"value_type": bytes}, b"raw"),
    ({"value_type": tuple}, (1, (2, 3))),
    ({"value_type": Person}, Person(name="ann", place=Place(city="rome"))),
    ({}, Person(name="ann", place=Place(city="rome"))),
    ({}, {"people": [Person(name="ann", place=Place(city="rome"))]}),
    ({"value_type": Item}, Item(n=1)),
    ({"value_type": Point}, Point(x=1)),
]


@pytest.mark.parametrize("options, value", VALUES)
async def test_a_row_comes_back_from_the_log_as_what_it_was(options: dict[str, Any], value: Any) -> None:
    broker = MemoryBroker(SystemClock())
    keys: list[Any] = ["text", 5, ("a", 1), b"\xff\x00"]
    one = Worker(broker, "one", partitions=1)
    table = one.app.Table("values", **options)

    def use(key: str, _: Any) -> None:
        for each in keys:
            table[each] = value

    one.use = use
    async with running(one.app):
        await one.topic.send(key="k", value=1)
        await until(lambda: len(table) == len(keys))
    two = Worker(broker, "two", partitions=1)
    again = two.app.Table("values", **options)
    async with running(two.app):
        for each in keys:
            found = again[each]
            assert found == value
            assert type(found) is type(value)
        if isinstance(value, defaultdict):
            assert again["text"]["new"] == 0


async def test_what_cannot_be_written_fails_its_event_and_not_the_worker() -> None:
    worker = Worker(MemoryBroker(SystemClock()), "one", partitions=1)
    table = worker.app.Table("values")
    windows = worker.app.Table("windows").tumbling(10)

    def use(key: str, value: Any) -> None:
        (windows if value == 1 else table)[key] = {"no": object()} if value < 3 else "yes"

    worker.use = use
    async with running(worker.app):
        for value in (1, 2, 3):
            await worker.topic.send(key="k", value=value)
        await until(lambda: table.get("k") == "yes")
        assert (
            worker.app.engine.metrics.dead_letters_total.labels("in-dead-letters", "agent-failed").value == 2
        )


async def test_subclasses_of_a_table_are_told_of_its_keys() -> None:
    from streamflow import Table

    told: list[Any] = []

    class Telling(Table):
        def on_key_get(self, key: Any) -> None:
            told.append(("get", key))

        def on_key_set(self, key: Any, value: Any) -> None:
            told.append(("set", key, value))

        def on_key_del(self, key: Any) -> None:
            told.append(("del", key))

    app = make_app(Table=Telling)
    topic = app.topic("in", key_type=str, partitions=1)
    table, windows = app.Table("t", default=int), app.Table("w", default=int).tumbling(10)

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for key, _ in stream.items():  # noqa: PERF102  # a stream, not a dict
            table[key] += 1
            del table[key]
            windows[key] = 3
            told.append(windows[key].value())

    async with running(app):
        await topic.send(key="k", value=1)
        wanted = [("get", "k"), ("set", "k", 1), ("del", "k"), ("set", "k", 3), ("get", "k"), 3]
        await until(lambda: told == wanted)


async def test_what_a_machine_keeps_of_a_table_can_be_forgotten_while_no_worker_runs(tmp_path: Path) -> None:
    pytest.importorskip("rocksdict")
    broker = MemoryBroker(SystemClock())
    options = {**OPTIONS, "store": "rocksdb://", "data_dir": str(tmp_path)}
    app = App("kept", transport=MemoryTransport(broker, "kept", "one"), **options)
    topic = app.topic("in", key_type=str, partitions=1)
    table = app.Table("t", default=int)

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for key, value in stream.items():
            table[key] += value

    async with running(app):
        await topic.send(key="k", value=2)
        await until(lambda: table["k"] == 2)
        with pytest.raises(StoreError, match="stop it first"):
            table.reset_state()
    assert list(tmp_path.glob("kept/*/t"))  # noqa: ASYNC240  # a test
    table.reset_state()
    assert not list(tmp_path.glob("kept/*/t"))  # noqa: ASYNC240  # likewise
