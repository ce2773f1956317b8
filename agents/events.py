"""Counts events by user, by type and in total, in tumbling windows of event time.

Run it: ``faust -A agents.events worker -l info``
"""

import os

from streamflow import App, Count, CountBy, Event, TumblingWindow

WINDOW_S = float(os.environ.get("STREAMFLOW_WINDOW_S", "10"))
DAY_S = 86_400

app = App("events")
events = app.topic("events", key_type=str, value_type=Event, partitions=6)
window_results = app.topic("window-results", partitions=1)

# Faust's form: the table's key is the topic's key, so rows stay in their events' partition.
events_by_user = app.Table("events_by_user", default=int).tumbling(WINDOW_S, expires=DAY_S)


@app.agent(events)
async def count_events(stream):  # type: ignore[no-untyped-def]  # as a newcomer writes it
    async for user, _event in stream.items():  # noqa: PERF102 - a stream, not a dict
        events_by_user[user] += 1


# Declared form: no agent, whole columns at a time, right whatever the topic is keyed by.
window = TumblingWindow(WINDOW_S, retain_s=DAY_S)
events_by_type = app.aggregate("events_by_type", events, by="type", window=window, values=Count())
window_totals = app.aggregate(
    "window_totals",
    events,
    by=None,
    window=window,
    values={"total_events": Count(), "event_types": CountBy("type")},
    emit_closed=window_results,
)
