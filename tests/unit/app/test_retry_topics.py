"""Retry topics as a user writes them: `Retry(topics_s=...)` on an agent, with a table in Faust's form."""

from __future__ import annotations

from typing import Any

import pytest

from streamflow import App, Retry
from streamflow.clock import SystemClock
from streamflow.codecs.event import Event
from streamflow.transports.base import Record
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import running, until

T0_MS = 1_767_225_600_000


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_an_agent_takes_from_its_retry_topic_what_failed_and_sees_where_it_comes_from(
    concurrency: int,
) -> None:
    broker = MemoryBroker(SystemClock())
    transport = MemoryTransport(broker, "shop", "worker")
    app = App("shop", transport=transport, commit_interval=0.01, fetch_wait_ms=5, web_enabled=False, env={})
    orders = app.topic("orders", key_type=str, value_type=Event, partitions=2)
    thanked = app.Table("thanked", default=int)
    seen: list[tuple[str, str, float]] = []

    @app.agent(orders, concurrency=concurrency, retry=Retry(attempts=1, topics_s=(0.2,)))
    async def thank(stream: Any) -> None:
        async for key, order in stream.items():
            message = stream.current_event.message
            seen.append((message.topic, order.id, message.timestamp))
            thanked[key] += 1
            if order.type == "bad" and message.topic == "orders":
                raise ConnectionError("the mail server is away")

    client = MemoryTransport(broker, "outside", "client")
    await client.start()
    async with running(app):
        values = [
            b'{"id": "%d", "type": "%s", "timestamp": "2026-01-01T00:00:0%dZ", "data": {}}'
            % (number, kind, number)
            for number, kind in enumerate((b"good", b"bad", b"good"))
        ]
        await client.send([Record("orders", 0, b"ann", value, timestamp_ms=1_000) for value in values])
        view = app.worker_view
        assert view is not None

        def counters() -> dict[str, int]:
            return dict(view.tables["thanked"].status().counters)

        await until(lambda: sum(part.store.get(0, "ann") == 3 for part in parts(app)) == 1)
        assert counters() == {"in": 4, "counted": 3, "deferred": 1}, "once in each topic"
        await until(lambda: len(app.engine.board.of_topic("orders-retry-200ms")) > 0)
        status = view.tables["thanked"].status()
        assert status.watermark_ms == T0_MS + 2_000, (
            "of the source topic, though an older event was taken since"
        )
        assert set(status.lags.values()) == {0}
        assert sorted(seen) == [
            ("orders", "0", 1.0),
            ("orders", "1", 1.0),
            ("orders", "2", 1.0),
            ("orders-retry-200ms", "1", 1.0),
        ]
    await client.stop()


def parts(app: App) -> list[Any]:
    (table,) = app.engine.topology.tables.values()
    return list(table.parts.values())
