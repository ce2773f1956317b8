"""Checkpoints come by time, by number of records and by bytes, whichever is first."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import SystemClock, sleep_unless
from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.codecs.event import Event
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.settings import Settings
from streamflow.state.changelog import RowCodec
from streamflow.state.cut import Cut
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.stores.memory import MemoryStore
from streamflow.testing import ManualClock
from streamflow.transports.base import Record
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import until

NEVER_S = 60.0


@pytest.mark.parametrize(
    "bounds",
    [{"commit_every": 50}, {"commit_bytes": 2_000}, {"commit_events_max": 10, "commit_every": 10}],
    ids=["records", "bytes", "held back"],
)
async def test_a_checkpoint_comes_before_its_time_when_much_was_taken(bounds: dict[str, Any]) -> None:
    clock = SystemClock()
    broker = MemoryBroker(clock)
    client = MemoryTransport(broker, "outside", "client")
    settings = Settings(id="app", commit_interval=NEVER_S, fetch_wait_ms=5, **bounds)
    engine = Engine(settings, MemoryTransport(broker, "app", "worker"), clock)
    source = TopicSource("events", KeyCodec(str), ValueCodec(Event), 1)
    aggregate = engine.topology.add_aggregate(
        AggregateSpec("counts", "events", Key(), None, RowFunctions(Count())), source
    )
    await client.start()
    await engine.start("http://worker")
    value = orjson.dumps({"id": "1", "type": "click", "timestamp": 0, "data": {}})
    try:
        await until(lambda: engine.live)
        await client.send([Record("events", 0, b"ann", value)] * 100)
        await until(lambda: aggregate.parts[0].store.get(0, "ann") == 100)
    finally:
        await engine.stop()
        await client.stop()


async def test_waiting_ends_with_the_time_or_with_the_event() -> None:
    clock, event = ManualClock(), asyncio.Event()
    waiting = asyncio.ensure_future(sleep_unless(clock, 100, event))
    await clock.advance(99)
    assert not waiting.done()
    await clock.advance(2)
    await asyncio.wait_for(waiting, 5)
    event.set()
    await asyncio.wait_for(sleep_unless(clock, 100, event), 5)


def test_a_cut_takes_time_for_its_rows_and_not_for_rows_times_expired_windows() -> None:
    many = 30_000  # sessions that each end at a time of their own
    part = TablePartition(TableSpec("t", None, RowCodec(None), "log", 1), 0, MemoryStore())
    part.cut = {start: {"k": 1} for start in range(many)}
    part.drops = list(range(many, 2 * many))
    cut = Cut()
    started = time.process_time()
    part.emit(cut)
    assert time.process_time() - started < 2
    assert len(cut.effects) == many
