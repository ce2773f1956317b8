"""Every metric that is declared tells something of a worker that does everything."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from streamflow import Buffer, CircuitBreaker, Count, Event, Retry
from streamflow.windows import TumblingWindow
from tests.support.running import T0_MS, event, make_app, running, until


async def test_every_metric_has_a_sample_and_those_of_agents_and_tables_are_right() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    events = app.topic("events", value_type=Event, partitions=1)
    elsewhere = app.topic("elsewhere", key_type=str, value_type=int, partitions=2)
    counts = app.Table("counts", default=int, partitions=2)
    sums = app.aggregate("sums", events, by="type", window=TumblingWindow(10), values=Count())
    go_on, tries = asyncio.Event(), 0

    breaker = CircuitBreaker("shop", failures_max=1)

    @app.agent(topic, name="counting", retry=Retry(attempts=3, first_wait_s=0.001))
    async def counting(stream: Any) -> None:
        nonlocal tries
        async for key, value in stream.items():
            counts[key] += value
            if value == 7:
                tries += 1
                raise ValueError(value)

    @app.agent(topic, name="dropping", buffer=Buffer(1, "drop_oldest"))
    async def dropping(stream: Any) -> None:
        async for _ in stream:
            await go_on.wait()

    @app.agent(elsewhere, name="scattering")
    async def scattering(stream: Any) -> None:
        async for key, value in stream.items():
            counts[f"{key}-{value}"] += 1

    del counting, dropping, scattering, sums
    async with running(app):
        metrics = app.engine.metrics
        for value in range(10):
            await topic.send(key=f"key {value}", value=value)
        for value in range(10):
            await elsewhere.send(key="ann", value=value, partition=0)
            await elsewhere.send(key="ann", value=value, partition=1)
        for at_ms in (T0_MS, T0_MS + 3_600_000, T0_MS):
            await events.send(value=event(at_ms=at_ms))
        dropped = metrics.events_dropped_total.labels("dropping", "drop_oldest")
        await until(lambda: dropped.value == 8)
        go_on.set()
        processed = metrics.events_processed_total
        await until(lambda: metrics.render()[0] != b"" and processed.labels("dropping").value == 2)
        await until(lambda: metrics.end_to_end_seconds.labels("dropping").count)
        await until(lambda: metrics.end_to_end_seconds.labels("sums").count)
        assert app.worker_view is not None
        topics = app.worker_view.topics
        owned = [("in", 0), ("events", 0), ("elsewhere", 1)]
        assert await topics.unowned_lags(owned) == {("elsewhere", 0): 0}
        assert await topics.unowned_lags([*owned, ("elsewhere", 0)]) == {}
        metrics.unowned_lag_records.labels("elsewhere", 0).set(0)  # as a scrape does
        text = metrics.render()[0].decode()
        with pytest.raises(OSError, match="down"), breaker:
            raise OSError("down")
        assert b'streamflow_circuit_state{name="shop"} 2' in metrics.render()[0]
    assert tries == 3
    assert metrics.events_failed_total.labels("counting", "ValueError").value == 3
    assert metrics.retries_total.value == 2
    assert processed.labels("counting").value == 9
    assert processed.labels("sums").value == 3
    assert metrics.late_events_total.labels("sums").value == 1
    became = {
        labels: child.value for labels, child in metrics.consumer_events.children.items() if child.value
    }
    assert became["aggregate:sums", "in"] == 3
    assert (became["aggregate:sums", "counted"], became["aggregate:sums", "late"]) == (2, 1)
    assert (became["agent:counting", "in"], became["agent:counting", "failed"]) == (10, 1)
    assert (became["agent:dropping", "counted"], became["agent:dropping", "dropped"]) == (2, 8)
    assert metrics.batch_seconds.labels("counting").count >= 1
    rows = metrics.table_rows.labels("counts").value
    assert 9 * len('["key 0",1]') <= metrics.table_bytes.labels("counts").value <= rows * len('["ann-0",10]')
    types = re.findall(r"^# TYPE streamflow_(\w+) ", text, re.MULTILINE)
    declared = set(types)
    assert len(types) == len(declared), "a family that stands twice makes the whole page unreadable"
    silent = {
        name
        for name in declared
        if not re.search(rf"^streamflow_{name}(_count|_total)?[{{ ]", text, re.MULTILINE)
    }
    assert silent == set()
