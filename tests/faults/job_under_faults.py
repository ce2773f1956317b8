"""The app of the fault tests: a table and outputs by an agent, windows by a declared aggregate."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import msgspec

from streamflow import App, Count, Sum, TumblingWindow
from tests.faults.points import Points
from tests.faults.workload import PARTITIONS, WINDOW_MS

TOPIC = os.environ["STREAMFLOW_FAULTS_TOPIC"]
points = Points(pathlib.Path(os.environ["STREAMFLOW_FAULTS_FOLDER"]))
points.install()


class Input(msgspec.Struct):
    key: str
    seq: int
    amount: int
    group: str
    time_ms: int


app = App("faults")
inputs = app.topic(TOPIC, key_type=str, value_type=Input, partitions=PARTITIONS)
outputs = app.topic(f"{TOPIC}-out", key_type=str, partitions=PARTITIONS)
closed = app.topic(f"{TOPIC}-closed", partitions=PARTITIONS)
sums = app.Table("sums", default=int)


@app.agent(inputs)
async def add_up(stream: Any) -> None:
    async for key, event in stream.items():  # a stream, not a dict
        points.hang_at("block")
        sums[key] += event.amount
        if event.seq >= 0:
            await outputs.send(key=key, value={"seq": event.seq, "total": sums[key]})


# No idle tick: silence is part of the faults, and must not make what comes after it late.
app.aggregate(
    "by_group",
    inputs,
    by="group",
    time="time_ms",
    window=TumblingWindow(size_s=WINDOW_MS / 1_000, idle_close_s=None, retain_s=10_000_000),
    values={"n": Count(), "amount": Sum("amount")},
    emit_closed=closed,
)
