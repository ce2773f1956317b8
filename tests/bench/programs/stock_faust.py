"""Stock Faust: the memory store and a tumbling table, as its documentation has it.

Run by ``python -m faust -A tests.bench.programs.stock_faust worker``.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib.metadata

import faust

from tests.bench.meter import Job, Meter

WINDOW_S = 10

job = Job()
meter = Meter(job)
seen = 0

app = faust.App(
    job.group,
    broker=f"kafka://{job.broker}",
    store="memory://",
    topic_partitions=4,
    broker_commit_interval=0.5,
    datadir=str(job.state),
    # Nobody asks it anything, and its port may be taken.
    web_enabled=False,
)


class Event(faust.Record, coerce=True):
    id: str
    type: str
    timestamp: datetime.datetime
    data: dict


events = app.topic(job.topic, key_type=str, value_type=Event)
counts = (
    app.Table("counts", default=int)
    .tumbling(WINDOW_S)
    .relative_to_field(
        Event.timestamp  # type: ignore[arg-type]  # on the class it is the field, which faust's types do not say
    )
)


@app.agent(events)
async def count_events(stream):
    global seen
    async for key, _event in stream.items():  # noqa: PERF102 - a stream, not a dict
        meter.first() if not seen else None
        counts[key] += 1
        seen += 1


@app.task
async def report():
    while seen < job.events:
        await asyncio.sleep(0.02)
    meter.last()
    await app.producer.flush()
    await app.consumer.commit()
    meter.committed()
    # The key of a row is (key, (start, end)).
    rows = {(key, int(window[0]) * 1_000): number for (key, window), number in counts.table.items()}
    meter.report(rows, {"faust-streaming": importlib.metadata.version("faust-streaming")})
