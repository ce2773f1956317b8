"""streamflow, Faust's form with a Record: what an app of stock Faust has when only its import is changed."""

from __future__ import annotations

from streamflow import App, Record
from tests.bench.meter import Job
from tests.bench.programs.streamflow_report import report


class Event(Record, serializer="json"):
    id: str
    type: str
    timestamp: str
    data: dict


job = Job()
app = App(job.group, broker=job.url)
events = app.topic(job.topic, key_type=str, value_type=Event)
counts = app.Table("counts", default=int).tumbling(10)


@app.agent(events)
async def count_events(stream):
    async for user, _event in stream.items():  # noqa: PERF102 - a stream, not a dict
        counts[user] += 1


report(app, job, "counts")
