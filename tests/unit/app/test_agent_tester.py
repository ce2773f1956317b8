"""Agents tried without a worker: `agent.test_context`."""

from __future__ import annotations

from typing import Any

import faust
import pytest

from streamflow import App, Record
from tests.support.running import make_app, running


class Order(Record):
    n: int


class Shop:
    def __init__(self) -> None:
        self.app: App = make_app()
        self.topic = self.app.topic("in", key_type=str, value_type=Order)
        self.out = self.app.topic("out", key_type=str, value_type=int)
        self.counts = self.app.Table("counts", default=int)
        self.windows = self.app.Table("windows", default=int).tumbling(10, expires=60)
        self.names = self.app.SetTable("names")
        self.global_tables = self.app.GlobalTable("everywhere", default=int)

        @self.app.agent(self.topic)
        async def yields(stream: Any) -> Any:
            async for key, order in stream.items():
                self.counts[key] += order.n
                self.windows[key] += order.n
                self.names["all"].add(key)
                self.global_tables[key] += 1
                await self.out.send(key=key, value=self.counts[key])
                yield self.counts[key], self.windows[key].value()

        @self.app.agent(self.topic, name="plain")
        async def plain(stream: Any) -> None:
            async for order in stream:
                if order.n < 0:
                    raise ValueError("less than nothing")
                self.counts["all"] += order.n

        self.yields, self.plain = yields, plain


async def test_an_agent_on_the_bench_has_tables_and_results_and_sends_nothing() -> None:
    shop = Shop()
    async with shop.yields.test_context() as tried:
        event = await tried.put(Order(n=3), key="ann", timestamp=5.0)
        assert event.message.offset == 0
        assert tried.results[0] == (3, 3)
        await tried.put(Order(n=4), key="ann", timestamp=15.0)
        assert tried.results[1] == (7, 4)
        assert dict(shop.counts) == {"ann": 7}
        assert dict(shop.windows.items_at(5_000)) == {"ann": 3}
        assert set(shop.names["all"]) == {"ann"}
        assert shop.global_tables["ann"] == 2
        assert shop.app.bench is not None
        assert shop.app.bench.sent == [("out", b"ann", b"3"), ("out", b"ann", b"7")]
    assert dict(shop.counts) == {"ann": 7}  # to be looked at afterwards too


async def test_each_bench_begins_with_empty_tables_but_agents_on_it_together_share_them() -> None:
    shop = Shop()
    async with shop.yields.test_context() as first:
        await first.put(Order(n=3), key="ann")
        async with shop.plain.test_context() as second:
            await second.put(Order(n=5), key="x")
            await second.put(Order(n=0), key="x")
            assert shop.counts["ann"] == 3
            assert shop.counts["all"] == 5
    async with shop.yields.test_context():
        assert dict(shop.counts) == {}


async def test_what_an_agent_on_the_bench_raises_is_raised_by_put() -> None:
    shop = Shop()
    async with shop.plain.test_context() as tried:
        with pytest.raises(ValueError, match="less than nothing"):
            await twice(tried)


async def twice(tried: Any) -> None:
    """The first ``put`` may return as soon as the agent has its event in flight."""
    for _ in range(2):
        await tried.put(Order(n=-1), key="ann")


async def test_a_worker_takes_the_tables_from_the_bench() -> None:
    shop = Shop()
    async with shop.yields.test_context() as tried:
        await tried.put(Order(n=3), key="ann")
    async with running(shop.app):
        assert dict(shop.counts) == {}
        with pytest.raises(TypeError, match="worker"):
            shop.yields.test_context()


async def test_group_by_and_through_on_the_bench_pass_events_on_with_their_new_key() -> None:
    app = make_app()
    counts = app.Table("counts", default=int)

    @app.agent(app.topic("in", key_type=str, value_type=Order))
    async def grouped(stream: Any) -> Any:
        async for key, order in stream.group_by(Order.n).through("elsewhere").items():
            counts[order.n] += 1
            yield key, counts[order.n]

    async with grouped.test_context() as tried:
        for number in (5, 7, 5):
            await tried.put(Order(n=number), key="ann")
        assert list(tried.results.values()) == [(5, 1), (7, 1), (5, 2)]


async def test_the_function_of_a_group_sees_the_event_on_the_bench_too() -> None:
    app = make_app()

    def by_header(_: object) -> str:
        current: Any = faust.current_event()
        return str(current.headers["id"])

    @app.agent(app.topic("in", value_type=int))
    async def grouped(stream: Any) -> Any:
        async for key, value in stream.group_by(by_header, name="h").items():
            yield key, value

    async with grouped.test_context() as tried:
        await tried.put(1, headers={"id": "h1"})
        assert list(tried.results.values()) == [("h1", 1)]
