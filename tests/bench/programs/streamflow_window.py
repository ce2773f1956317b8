"""streamflow, declared form, one row for each window: combined, then shuffled, exactly once."""

from __future__ import annotations

from streamflow import App, Count, Event, TumblingWindow
from tests.bench.meter import Job
from tests.bench.programs.streamflow_report import report

job = Job()
app = App(job.group, broker=job.url)
events = app.topic(job.topic, key_type=str, value_type=Event)
counts = app.aggregate("counts", events, by=None, window=TumblingWindow(size_s=10), values=Count())
report(app, job, "counts")
