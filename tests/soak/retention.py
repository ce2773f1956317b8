"""Many windows that close and expire: what stays of them in memory and in the logs.

    python -m tests.soak.retention [--events N] [--windows N]

Prints a line for each tenth of the events: resident memory, rows of all tables, and live records (what
compaction would leave, tombstones not counted) of the internal topics. Two tables, grouped by the key and
by a field, over the memory transport, whose log of the source is bounded too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from streamflow.aggregates import Count, Sum
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import SystemClock
from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.settings import Settings
from streamflow.transports.base import Record
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from streamflow.windows import TumblingWindow

PARTITIONS = 2
WINDOW_MS = 1_000
KEPT_WINDOWS = 100
SHOPS = 5
LATE_EVERY = 1_000
CHUNK = 10_000
T0_MS = 1_760_000_000_000
WAIT_S = 60.0


@dataclass(frozen=True)
class Sample:
    """``memory_bytes`` is resident; ``rows`` and ``live`` are of all tables and internal topics together."""

    events: int
    memory_bytes: int
    rows: int
    live: int
    late: int


def specs() -> tuple[AggregateSpec, AggregateSpec]:
    window = TumblingWindow(WINDOW_MS / 1_000, retain_s=KEPT_WINDOWS * WINDOW_MS / 1_000, idle_close_s=None)
    values = RowFunctions({"n": Count(), "sum": Sum("n")})
    by_key = AggregateSpec("by_key", "events", Key(), window, values, time="at", emit_closed="closed")
    by_shop = AggregateSpec("by_shop", "events", "shop", window, values, time="at", emit_closed="closed")
    return by_key, by_shop


BY_SHOP = "aggregate:by_shop"
"""The consumer whose partial results go through a shuffle."""


def events(first: int, count: int, step_us: int) -> Iterator[Record]:
    """Event time moves by ``step_us`` for each; one in `LATE_EVERY` is ten windows late."""
    for number in range(first, first + count):
        at_ms = T0_MS + number * step_us // 1_000
        if number % LATE_EVERY == 0:
            at_ms -= 10 * WINDOW_MS
        partition = number % PARTITIONS
        value = b'{"at":%d,"shop":"s%d","n":%d}' % (at_ms, number % SHOPS, number % 7)
        yield Record("events", partition, b"k%d" % partition, value)


async def soak(count: int, windows: int, samples: int = 10) -> list[Sample]:
    """Runs ``count`` events over ``windows`` windows; returns what was seen after each part of them."""
    clock = SystemClock()
    broker = MemoryBroker(clock, records_max=4 * CHUNK, tombstone_ms=0)
    client = MemoryTransport(broker, "outside", "client")
    settings = Settings(id="soak", commit_interval=0.05, fetch_wait_ms=5)
    engine = Engine(settings, MemoryTransport(broker, "soak", "worker"), clock)
    source = TopicSource("events", KeyCodec(str), ValueCodec(dict), PARTITIONS)
    for spec in specs():
        engine.topology.add_aggregate(spec, source)
    await client.start()
    await engine.start("http://worker")
    step_us = windows * WINDOW_MS * 1_000 // count
    seen: list[Sample] = []
    try:
        for first in range(0, count, CHUNK):
            await client.send(list(events(first, min(CHUNK, count - first), step_us)))
            await _until_taken(engine, first + min(CHUNK, count - first))
            if (first + CHUNK) * samples // count > len(seen):
                await _until_closed(engine)
                seen.append(_sample(engine, broker, first + CHUNK))
    finally:
        await engine.stop()
        await client.stop()
    return seen


async def _until_taken(engine: Engine, count: int) -> None:
    """Until a checkpoint holds so many events of each table."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if engine.failure is not None:
                raise engine.failure
            shown = engine.active.shown.values() if engine.active is not None else ()
            taken = sum(p.counters.get("in", 0) for p in shown if p.consumer.startswith("aggregate:"))
            if taken >= 2 * count:
                return
            await asyncio.sleep(0.002)


async def _until_closed(engine: Engine) -> None:
    """Until the owners know how far each source partition has come, and have closed what that closes.

    Source watermarks go out once a second: a look at any other moment sees windows that only wait for them.
    """
    async with asyncio.timeout(WAIT_S):
        while True:
            if engine.failure is not None:
                raise engine.failure
            active = engine.active
            if active is not None and not active.due():
                came = {p.partition: p.watermark_ms for p in active.shown.values() if p.consumer == BY_SHOP}
                told = [stage.watermarks.get(p) for stage in active.stages for p in came]
                wanted = list(came.values()) * len(active.stages)
                if [watermark and watermark.watermark_ms for watermark in told] == wanted:
                    return
            await asyncio.sleep(0.002)


def _sample(engine: Engine, broker: MemoryBroker, count: int) -> Sample:
    active = engine.active
    assert active is not None
    rows = sum(len(part.store) for part in active.table_partitions())
    rows += sum(len(groups) for stage in active.stages for groups in stage.partials.values())
    live = 0
    for topic in broker.topics():
        if topic.startswith("soak-"):
            for partition in range(broker.partition_count(topic)):
                batch = broker.log((topic, partition)).read(0, 10**9)
                newest = dict(zip(batch.keys, batch.values, strict=True)) if batch is not None else {}
                live += sum(value is not None for value in newest.values())
    late = sum(p.counters.get("late", 0) for p in active.shown.values())
    return Sample(count, _resident_bytes(), rows, live, late)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.soak.retention")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--windows", type=int, default=100_000)
    options = parser.parse_args()
    for sample in asyncio.run(soak(options.events, options.windows)):
        sys.stdout.write(
            f"{sample.events:>12,} events  {sample.memory_bytes / 1e6:7.1f} MB  {sample.rows:>7,} rows"
            f"  {sample.live:>7,} live records  {sample.late:>7,} late\n"
        )


if __name__ == "__main__":
    main()
