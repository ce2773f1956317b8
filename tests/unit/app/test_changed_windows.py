"""Rows are not read in other windows than those that they were written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamflow import App, ConfigurationError, Count, HoppingWindow, Key
from streamflow.aggregates.spec import AggregateSpec
from streamflow.clock import SystemClock
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import log, running, until

Declare = Callable[[Any], Any]

CHANGES: list[tuple[Declare, Declare, str]] = [
    (lambda table: table.tumbling(60), lambda table: table.tumbling(10), "60000"),
    (lambda table: table.tumbling(60), lambda table: table.hopping(60, 10), "tumbling"),
    (lambda table: table.hopping(60, 10), lambda table: table.hopping(60, 20), "10000"),
    (lambda table: table, lambda table: table.tumbling(10), "None before"),
    (lambda table: table.tumbling(10), lambda table: table, "None now"),
    (lambda table: table.session(10), lambda table: table.session(20), "10000"),
    (lambda table: table.sliding(10), lambda table: table.sliding(20), "10000"),
    (lambda table: table.sliding(10), lambda table: table.tumbling(10), "sliding"),
]


def boot(broker: MemoryBroker, declare: Declare) -> tuple[App, Any]:
    transport = MemoryTransport(broker, "changing", "worker")
    app = App(
        "changing", transport=transport, commit_interval=0.02, fetch_wait_ms=5, web_enabled=False, env={}
    )
    topic = app.topic("in", key_type=str, partitions=1)
    table = declare(app.Table("counts", default=int))

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for key, _ in stream.items():  # noqa: PERF102 - a stream
            table[key] += 1

    return app, topic


async def counted(app: App, topic: Any, records: int) -> None:
    async with running(app):
        await topic.send(key="a", value=1, timestamp=1_000.0)

        async def written() -> bool:
            return len(await log(app, "changing-counts-changelog")) >= records

        await until(written)


@pytest.mark.parametrize("before, now, told", CHANGES)
async def test_other_windows_than_those_of_the_rows_are_refused(
    before: Declare, now: Declare, told: str
) -> None:
    broker = MemoryBroker(SystemClock(), session_timeout_ms=200, transaction_timeout_ms=200)
    await counted(*boot(broker, before), records=1)
    app, _ = boot(broker, now)
    await app.start()
    try:
        failure = await until(lambda: app.engine.failure)
    finally:
        await app.stop()
    assert isinstance(failure, ConfigurationError)
    assert "table 'counts'" in str(failure)
    assert told in str(failure)
    assert "streamflow reset" in str(failure)


async def test_another_retention_is_no_other_window() -> None:
    broker = MemoryBroker(SystemClock(), session_timeout_ms=200, transaction_timeout_ms=200)
    await counted(*boot(broker, lambda table: table.tumbling(10, expires=60)), records=1)
    await counted(*boot(broker, lambda table: table.tumbling(10, expires=600)), records=2)


async def test_a_row_for_each_hopping_window_is_not_read_as_panes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier version kept them so, and nothing tells which events several of them have in common."""
    broker = MemoryBroker(SystemClock(), session_timeout_ms=200, transaction_timeout_ms=200)

    def boot() -> tuple[App, Any]:
        transport = MemoryTransport(broker, "changing", "worker")
        app = App(
            "changing", transport=transport, commit_interval=0.02, fetch_wait_ms=5, web_enabled=False, env={}
        )
        topic = app.topic("in", key_type=str, partitions=1)
        app.aggregate("counts", topic, by=Key(), window=HoppingWindow(60, 10), values=Count())
        return app, topic

    with monkeypatch.context() as earlier:
        earlier.setattr(AggregateSpec, "hopping_panes", None)
        await counted(*boot(), records=6)
    app, _ = boot()
    await app.start()
    try:
        failure = await until(lambda: app.engine.failure)
    finally:
        await app.stop()
    assert isinstance(failure, ConfigurationError)
    assert "pane_ms: None before, 10000 now" in str(failure)
    assert "streamflow reset" in str(failure)
