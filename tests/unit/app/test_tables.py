"""Tables in Faust's form: what agents write and read, what others may."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import faust
import pytest

from streamflow import App, ConfigurationError, Event, Record, Retry, TumblingWindow
from streamflow.query.worker_view import WorkerView
from tests.support.running import T0_MS, event, make_app, running, until

Use = Callable[[str, Event], Any]


class Harness:
    """Runs one function on each event of a topic, in an agent; what it raises is remembered."""

    def __init__(self, use: Use | None = None, **options: Any) -> None:
        self.app: App = make_app(**options)
        self.topic = self.app.topic("in", key_type=str, value_type=Event, partitions=1)
        self.use: Use = use or (lambda key, each: None)
        self.results: list[Any] = []

        @self.app.agent(self.topic, retry=Retry(attempts=1))
        async def agent(stream: Any) -> None:
            async for key, each in stream.items():
                try:
                    self.results.append(self.use(key, each))
                except Exception as exc:  # noqa: BLE001  # what it raises is the result
                    self.results.append(exc)

    async def each(self, use: Use, key: str = "ann", at_ms: int = T0_MS) -> Any:
        """What ``use`` gives inside of an event."""
        self.use = use
        count = len(self.results)
        await self.topic.send(key=key, value=event(at_ms=at_ms))
        await until(lambda: len(self.results) > count)
        return self.results[-1]

    def rows(self, table: str) -> dict[tuple[Any, int | None], Any]:
        """(key, window start) -> value, as it is shown."""
        watcher = self.app.engine_service.watcher
        assert isinstance(watcher, WorkerView)
        reader: Any = watcher.tables[table]
        return {(row.key, row.start_ms): row.value for p in reader.owned for row in reader.rows(p)}


async def test_counting_in_windows_counts_in_the_window_of_the_event() -> None:
    harness = Harness()
    counts = harness.app.Table("counts", default=int).tumbling(10, expires=timedelta(hours=1))

    def count(key: str, _: Event) -> None:
        counts[key] += 1

    async with running(harness.app):
        for at_ms in (T0_MS, T0_MS + 9_999, T0_MS + 10_000):
            await harness.each(count, at_ms=at_ms)
        await harness.each(count, key="bob")
        wanted = {("ann", T0_MS): 2, ("ann", T0_MS + 10_000): 1, ("bob", T0_MS): 1}
        await until(lambda: harness.rows("counts") == wanted)
    assert harness.results == [None] * 4


async def test_a_windowed_row_has_values_and_operators() -> None:
    harness = Harness()
    table = harness.app.Table("amounts", default=float).tumbling(10.0)

    def change(key: str, _: Event) -> list[Any]:
        row = table[key]
        values = [row.value(), key in table]
        table[key] = 8
        table[key] -= 2
        table[key] *= 4
        table[key] /= 3
        table[key].apply(max, 5)
        values += [table[key].current(), row.value(), key in table, list(table.items()), len(table)]
        table["copy"] = table[key]
        values.append(table["copy"].value())
        del table[key]
        return [*values, key in table, list(table.keys())]

    def later(key: str, _: Event) -> Any:
        return table["copy"].value(), table["copy"].delta(10)

    async with running(harness.app):
        told = await harness.each(change)
        assert told == [0.0, False, 8.0, 8.0, True, [("ann", 8.0)], 1, 8.0, False, ["copy"]]
        assert await harness.each(later, at_ms=T0_MS + 10_000) == (0.0, 8.0)
        assert isinstance(await harness.each(lambda k, e: table.__delitem__("none")), KeyError)


async def test_a_late_event_changes_nothing_and_is_counted() -> None:
    harness = Harness()
    window = TumblingWindow(size_s=10, grace_s=0)
    counts = harness.app.Table("counts", default=int, window=window)

    def count(key: str, _: Event) -> None:
        counts[key] += 1

    async with running(harness.app):
        await harness.each(count, at_ms=T0_MS + 60_000)
        await harness.each(count, at_ms=T0_MS)
        await until(lambda: harness.rows("counts") == {("ann", T0_MS + 60_000): 1})
        late = harness.app.engine.metrics.late_events_total.labels("counts")
        assert late.value == 1


async def test_a_plain_table_is_a_mapping() -> None:
    harness = Harness()
    table = harness.app.Table("plain", default=list)

    def use(key: str, _: Event) -> list[Any]:
        told = [table[key], key in table, table.get(key, "none")]
        table[key] = [1]
        table[key].append(2)  # counts too
        told += [table[key], table.get(key), dict(table), len(table), list(table)]
        table["other"] = {"a": 1}
        told += [table.pop("other"), table.pop("other", None), table.setdefault("third", 3)]
        del table["third"]
        return [*told, sorted(table)]

    async with running(harness.app):
        told = await harness.each(use)
        more = [1, ["ann"], {"a": 1}, None, 3, ["ann"]]
        assert told == [[], False, "none", [1, 2], [1, 2], {"ann": [1, 2]}, *more]
        await until(lambda: harness.rows("plain") == {("ann", None): [1, 2]})
        assert isinstance(await harness.each(lambda k, e: table.__delitem__("none")), KeyError)


async def test_elsewhere_tables_are_read_only_and_show_what_is_checkpointed() -> None:
    harness = Harness()
    plain = harness.app.Table("plain", default=int)
    counts = harness.app.Table("counts", default=int).tumbling(10)

    def use(key: str, _: Event) -> None:
        plain[key] = 7
        counts[key] += 1

    with pytest.raises(TypeError, match="running worker"):
        _ = plain["ann"]
    async with running(harness.app):
        await harness.each(use)
        await until(lambda: plain.get("ann"))
        assert dict(plain) == {"ann": 7}
        assert plain["nobody"] == 0
        assert counts["ann"].now() == 0  # the event lies in the past
        with pytest.raises(TypeError):
            plain["ann"] = 8
        with pytest.raises(TypeError):
            counts["ann"] += 1
        with pytest.raises(TypeError):
            counts["ann"] = 1


async def test_rows_of_a_model_come_back_as_the_model() -> None:
    class Basket(Record):
        items: list[str]

    harness = Harness()
    baskets = harness.app.Table("baskets", value_type=Basket)

    def use(key: str, _: Event) -> Any:
        known = baskets.get(key)
        baskets[key] = Basket(items=[*(known.items if known else []), "lamp"])
        return known

    async with running(harness.app):
        assert await harness.each(use) is None
        assert (await harness.each(use)).items == ["lamp"]
        await until(lambda: harness.rows("baskets") == {("ann", None): {"items": ["lamp", "lamp"]}})
        spec = harness.app.engine.topology.tables["baskets"].spec
        stored = spec.codec.encode_value(Basket(items=["x"]))
        assert spec.codec.decode_value(stored).items == ["x"]


def test_a_table_says_what_it_cannot_do() -> None:
    app = make_app()
    table = app.Table("one")
    with pytest.raises(ConfigurationError, match="two tables"):
        app.Table("one")
    with pytest.raises(ConfigurationError, match="changelog_topic"):
        app.Table("two", changelog_topic=app.topic("other"))
    with pytest.raises(ConfigurationError, match="no_such_option"):
        app.Table("two", no_such_option=1)
    table.tumbling(10)
    with pytest.raises(ConfigurationError, match="a window already"):
        table.tumbling(10)


@pytest.mark.parametrize("start", ["earliest", "latest", 1_760_000_000])
@pytest.mark.parametrize("kind", ["Table", "SetTable", "GlobalTable", "SetGlobalTable"])
def test_a_table_that_agents_write_begins_with_its_agent(kind: str, start: object) -> None:
    with pytest.raises(
        ConfigurationError, match=r"'two': start is not .* give the agent that writes it start="
    ):
        getattr(make_app(), kind)("two", start=start)


def test_fausts_own_tumbling_window_will_do() -> None:
    table = make_app().Table("counts", default=int, window=faust.TumblingWindow(10.0, expires=60.0))
    assert table.window == TumblingWindow(10, grace_s=60, retain_s=0)
