"""A source that writes in transactions: one that is open is no silence."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import orjson
from aiokafka import AIOKafkaProducer

from streamflow import App, Count, Event, Key, SessionWindow, SlidingWindow, TumblingWindow
from tests.support.running import T0_MS, until

OPEN_S = 8.0


async def test_what_an_open_transaction_holds_is_late_in_no_window(kafka: str) -> None:
    """It stays open for longer than `idle_close_s`; sliding windows and sessions could not be revised."""
    name = f"open-{uuid4().hex[:8]}"
    app = App(name, broker=f"kafka://{kafka}", web_enabled=False, commit_interval=0.05, env={})
    topic = app.topic(f"{name}-in", key_type=str, value_type=Event, partitions=1)
    windows = {
        "tumbling": TumblingWindow(5, idle_close_s=1),
        "sliding": SlidingWindow(5, idle_close_s=1),
        "session": SessionWindow(5, idle_close_s=1),
    }
    for kind, window in windows.items():
        app.aggregate(f"by_{kind}", topic, by=Key(), window=window, values=Count())
    async with asyncio.timeout(30):
        await app.start()
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=name)
    await producer.start()

    async def write(at_ms: int) -> None:
        value = {"id": "1", "type": "a", "timestamp": T0_MS + at_ms, "data": {}}
        await producer.send_and_wait(f"{name}-in", orjson.dumps(value), key=b"k", partition=0)

    def counters(kind: str) -> dict[str, int]:
        active = app.engine.active
        shown = None if active is None else active.shown.get((f"aggregate:by_{kind}", f"{name}-in", 0))
        return {} if shown is None else shown.counters

    try:
        async with producer.transaction():
            await write(0)
        await until(lambda: all(counters(kind).get("counted") == 1 for kind in windows))
        async with producer.transaction():
            await write(0)
            await asyncio.sleep(OPEN_S)
        await until(lambda: all(counters(kind).get("in") == 2 for kind in windows))
        assert {kind: counters(kind).get("late", 0) for kind in windows} == dict.fromkeys(windows, 0)
    finally:
        await producer.stop()
        await app.stop()
