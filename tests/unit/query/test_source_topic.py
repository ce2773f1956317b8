"""Which topic an agent's table is ascribed to, where several would fit."""

from __future__ import annotations

from typing import Any

import msgspec

from streamflow import App
from streamflow.clock import SystemClock
from streamflow.query.worker_view import WorkerView
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import running, until

OPTIONS = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}}


class Place(msgspec.Struct, frozen=True):
    city: str


def two_topics(broker: MemoryBroker, key_type: Any, name: str = "one") -> tuple[App, Any, Any]:
    """Agents read alpha and beta, with as many partitions, and the one of beta writes the table."""
    app = App("two", transport=MemoryTransport(broker, "two", name), **OPTIONS)
    alpha = app.topic("alpha", key_type=int, value_type=int, partitions=1)
    beta = app.topic("beta", key_type=key_type, value_type=int, partitions=1)
    table = app.Table("table", default=int, partitions=1)

    @app.agent(alpha)
    async def nothing(stream: Any) -> None:
        async for _ in stream:
            pass

    @app.agent(beta)
    async def count(stream: Any) -> None:
        async for key, value in stream.items():
            table[key] += value

    return app, alpha, beta


def reader_of(app: App) -> Any:
    view = app.worker_view
    assert isinstance(view, WorkerView)
    return view.tables["table"]


async def test_a_table_is_ascribed_to_the_topic_of_the_agent_that_writes_it() -> None:
    app, alpha, beta = two_topics(MemoryBroker(SystemClock()), str)
    async with running(app):
        await alpha.send(key=1, value=1)
        for number in range(40):
            await beta.send(key=f"k{number % 10}", value=1)
        reader = reader_of(app)
        await until(lambda: reader.status().positions == {0: 40})
        assert reader.source_topic == "beta"
        assert reader.status().lags == {0: 0}
        assert reader.status().watermark_ms is not None
        assert reader.get(reader.parse_key("k3")).value == 4


async def test_a_table_stays_with_its_topic_through_a_restart_without_new_events() -> None:
    broker = MemoryBroker(SystemClock())
    app, _, beta = two_topics(broker, Place)
    async with running(app):
        await beta.send(key=Place("Ulm"), value=3)
        await until(lambda: reader_of(app).status().positions == {0: 1})
    app, _, _ = two_topics(broker, Place, "two")
    async with running(app):
        reader = reader_of(app)
        assert reader.source_topic == "beta"
        assert reader.status().positions == {0: 1}
        key = reader.parse_key('{"city":"Ulm"}')
        assert reader.get(key).value == 3
