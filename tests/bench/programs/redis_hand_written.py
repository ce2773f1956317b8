"""The ruler on Redis: the loop that a good user would write by hand on redis-py with hiredis.

At least once: a batch is acknowledged after its events were counted. No table that outlives it, no recovery.
"""

from __future__ import annotations

import collections
import datetime
import importlib.metadata

import msgspec
import redis

from tests.bench.meter import Job, Meter
from tests.bench.streams import connect, stream_of
from tests.bench.workload import PARTITIONS

WINDOW_S = 10
BATCH = 1_000  # entries of each stream in one answer


class Data(msgspec.Struct):
    user: str
    amount: float


class Event(msgspec.Struct):
    id: str
    type: str
    timestamp: datetime.datetime
    data: Data


def count(job: Job, meter: Meter) -> None:
    decode = msgspec.json.Decoder(Event).decode
    # (key, window start in s) -> count
    counts: collections.defaultdict[tuple[bytes, int], int] = collections.defaultdict(int)
    client = connect(job.broker)
    streams = {stream_of(job.topic, partition): ">" for partition in range(PARTITIONS)}
    for stream in streams:
        try:
            client.xgroup_create(stream, job.group, "0")
        except redis.ResponseError as exc:
            if "BUSYGROUP" not in str(exc):
                raise
    done = 0
    meter.first()
    while done < job.events:
        for stream, entries in client.xreadgroup(job.group, "one", streams, count=BATCH, block=500):
            for _, fields in entries:
                start = int(decode(fields[b"v"]).timestamp.timestamp()) // WINDOW_S * WINDOW_S
                counts[fields[b"k"], start] += 1
            client.xack(stream, job.group, *(entry for entry, _ in entries))
            done += len(entries)
    meter.last()
    meter.committed()
    rows = {(key.decode(), start * 1_000): number for (key, start), number in counts.items()}
    meter.report(rows, {name: importlib.metadata.version(name) for name in ("redis", "hiredis", "msgspec")})


if __name__ == "__main__":
    job = Job()
    count(job, Meter(job))
