"""Counts events by user, by type and in all, in tumbling windows of event time.

Run it: ``faust -A agents.events worker -l info``
"""

import os

from streamflow import App, Count, CountBy, Event, TumblingWindow

WINDOW_S = float(os.environ.get("STREAMFLOW_WINDOW_S", "10"))

app = App("events")
events = app.topic("events", key_type=str, value_type=Event, partitions=6)  # keyed by user
window_results = app.topic("window-results", partitions=1)

# A window closes when event time has passed its end; its rows are kept for a day.
window = TumblingWindow(size_s=WINDOW_S, grace_s=0, retain_s=86_400, idle_close_s=10)

# Faust's form: an agent writes a table. The table's key is the topic's key, so that a row lies in the
# partition of its events.
events_by_user = app.Table("events_by_user", default=int, window=window)


@app.agent(events)
async def count_by_user(stream):  # type: ignore[no-untyped-def]  # as people write it
    async for user, _event in stream.items():  # noqa: PERF102  # a stream, not a dict
        events_by_user[user] += 1


# Declared form: no agent, whole columns at a time, right whatever the topic is keyed by.
events_by_type = app.aggregate("events_by_type", events, by="type", window=window, values=Count())

# One row for each window. When it closes it goes to the topic `window-results`, once.
window_totals = app.aggregate(
    "window_totals",
    events,
    by=None,
    window=window,
    values={"total_events": Count(), "event_types": CountBy("type")},
    emit_closed=window_results,
)
