"""streamflow, Faust's form, with windows that close within the event time of one chunk."""

from __future__ import annotations

from streamflow import App, Event, TumblingWindow
from tests.bench.meter import Job
from tests.bench.programs.streamflow_report import report

job = Job()
app = App(job.group, broker=job.url)
events = app.topic(job.topic, key_type=str, value_type=Event)
counts = app.Table("counts", default=int).using_window(TumblingWindow(10, grace_s=10))


@app.agent(events)
async def count_events(stream):
    async for user, _event in stream.items():  # noqa: PERF102 - a stream, not a dict
        counts[user] += 1


report(app, job, "counts")
