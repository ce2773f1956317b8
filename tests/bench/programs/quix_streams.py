"""Quix Streams: a tumbling count of its default kind (RocksDB, changelog, at least once)."""

from __future__ import annotations

import datetime
import importlib.metadata
from typing import Any

from quixstreams import Application

from tests.bench.meter import Job, Meter

WINDOW_S = 10


def main() -> None:
    job = Job()
    meter = Meter(job)
    # (key, window start in ms) -> count
    counts: dict[tuple[str, int], int] = {}
    seen = 0

    def event_time_ms(value: Any, _headers: Any, _timestamp: float, _kind: Any) -> int:
        return int(datetime.datetime.fromisoformat(value["timestamp"]).timestamp() * 1_000)

    def keep(row: dict[str, int], key: str, _timestamp: int, _headers: Any) -> None:
        nonlocal seen
        counts[key, row["start"]] = row["value"]
        seen += 1
        if seen == job.events:
            meter.last()
            app.stop()

    def begin(_value: Any) -> None:
        meter.first()

    app = Application(
        broker_address=job.broker,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        commit_interval=0.5,
        state_dir=job.state,
        loglevel="WARNING",
    )
    topic = app.topic(
        job.topic, key_deserializer="str", value_deserializer="json", timestamp_extractor=event_time_ms
    )
    frame = app.dataframe(topic)
    frame = frame.update(begin)
    frame = frame.tumbling_window(datetime.timedelta(seconds=WINDOW_S)).count().current()
    frame.update(keep, metadata=True)
    # Returns when stopped, after its last checkpoint.
    app.run()
    meter.committed()
    names = ("quixstreams", "confluent-kafka", "rocksdict")
    meter.report(counts, {name: importlib.metadata.version(name) for name in names})


if __name__ == "__main__":
    main()
