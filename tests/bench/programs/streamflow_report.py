"""Watches a running streamflow app from inside and reports when it has counted the whole topic.

What the other contestants do in their own loop has no place in an agent or an aggregate, so this reads
the engine's own figures instead, 50 times a second; the counts come through the same reader as HTTP's.
"""

from __future__ import annotations

import asyncio
import importlib.metadata

from streamflow import App
from streamflow.query.reader import TableReaderBase
from streamflow.query.readers import make_readers
from tests.bench.meter import Job, Meter, now
from tests.bench.workload import Rows

POLL_S = 0.02
START_POLL_S = 0.002


def report(app: App, job: Job, table: str) -> None:
    """To be called when the app has declared everything, ``table`` among it."""

    async def watch() -> None:
        meter = Meter(job)
        await first(app, meter)
        while not all_taken(app, job.events):
            await asyncio.sleep(POLL_S)
        meter.last()
        reader = make_readers(app.engine)[table]
        # Of checkpointed rows; where shares go through a shuffle: of what has come out at its end.
        while not committed(reader, job):
            await asyncio.sleep(POLL_S)
        meter.committed()
        names = ("faust-streamflow", "aiokafka", "msgspec")
        meter.report(rows(reader), {name: importlib.metadata.version(name) for name in names})

    app.task()(watch)


async def first(app: App, meter: Meter) -> None:
    """The last moment at which partitions were not yet served."""
    moment = now()
    while not app.engine.live:
        moment = now()
        await asyncio.sleep(START_POLL_S)
    meter.first(moment)


def all_taken(app: App, events: int) -> bool:
    """Everything was fetched, and no agent has any of it left."""
    engine = app.engine
    return engine.metrics.records_total.value >= events and all(
        agent.processed >= events for agent in engine.topology.agents
    )


def committed(reader: TableReaderBase, job: Job) -> bool:
    """Does what is checkpointed reach to the end?"""
    positions = reader.status().positions
    if job.ends:
        return all(positions.get(int(partition), 0) >= end for partition, end in job.ends.items())
    return sum(positions.values()) >= job.events


def rows(reader: TableReaderBase) -> Rows:
    """Every checkpointed row; the worker is alone, so it serves all partitions."""
    return {
        ("" if row.key is None else row.key, row.start_ms or 0): row.value
        for partition in sorted(reader.owned)
        for row in reader.rows(partition)
    }
