"""Writes the events to streams of its own, in batches, and counts afterwards what the server has.

``--packed``: XADD commands packed by hand into one piece for each batch, as redis-benchmark writes them: the
least that a client can do. ``--streamflow``: `send` of streamflow's transport.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import importlib.metadata
import json
import socket
import sys

import hiredis

from streamflow.clock import SystemClock
from streamflow.transports.base import Record
from streamflow.transports.redis_streams import RedisSettings, RedisTransport
from tests.bench import streams
from tests.bench.meter import Job, Meter
from tests.bench.workload import PARTITIONS, WINDOW_MS
from tests.bench.workload import Record as Event

BATCH = 1_000

Batches = list[list[Event]]


def packed(job: Job, meter: Meter, topic: str, batches: Batches) -> None:
    host, _, port = job.broker.rpartition(":")
    names = [streams.stream_of(topic, partition).encode() for partition in range(PARTITIONS)]
    heads = [b"*7\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$1\r\nv\r\n" % (len(n), n) for n in names]
    with socket.create_connection((host, int(port))) as connection:
        replies = hiredis.Reader()
        gc.collect()
        gc.freeze()
        meter.first()
        for batch in batches:
            parts: list[bytes] = []
            for event in batch:
                parts += (
                    heads[event.partition],
                    b"$%d\r\n%b\r\n$1\r\nk\r\n$%d\r\n%b\r\n"
                    % (len(event.value), event.value, len(event.key), event.key),
                )
            connection.sendall(b"".join(parts))
            left = len(batch)
            while left:
                replies.feed(connection.recv(65_536))
                while replies.gets() is not False:
                    left -= 1
        meter.last()
        meter.committed()


async def by_transport(job: Job, meter: Meter, topic: str, batches: Batches) -> None:
    host, _, port = job.broker.rpartition(":")
    transport = RedisTransport(RedisSettings("bench", host=host, port=int(port)), SystemClock())
    await transport.start()
    wanted = [[Record(topic, e.partition, e.key, e.value) for e in batch] for batch in batches]
    try:
        gc.collect()
        gc.freeze()  # as the ruler does, and as a worker does when it has started
        meter.first()
        for records in wanted:
            await transport.send(records)
        meter.last()
        meter.committed()
    finally:
        await transport.stop()


def main(way: str) -> None:
    job = Job()
    meter = Meter(job)
    topic = f"{job.topic}-{job.group}"
    asyncio.run(streams.create(job.broker, [topic]))
    events = list(source(job))
    batches = [events[at : at + BATCH] for at in range(0, len(events), BATCH)]
    if way == "--packed":
        packed(job, meter, topic, batches)
    else:
        asyncio.run(by_transport(job, meter, topic, batches))
    counts: collections.Counter[tuple[str, int]] = collections.Counter()
    for key, value in streams.entries(job.broker, topic):
        counts[key.decode(), window(value)] += 1
    meter.report(counts, {name: importlib.metadata.version(name) for name in ("redis", "hiredis")})
    with streams.connect(job.broker) as client:
        client.unlink(*(streams.stream_of(topic, partition) for partition in range(PARTITIONS)))


def source(job: Job) -> list[Event]:
    """The events of the job, as its topic has them."""
    found = []
    for partition in range(PARTITIONS):
        with streams.connect(job.broker) as client:
            for _, fields in client.xrange(streams.stream_of(job.topic, partition)):
                found.append(Event(partition, fields[b"k"], fields[b"v"], 0))
    found.sort(key=lambda event: event.value)  # by number: batches go to all partitions
    return found


def window(value: bytes) -> int:
    from datetime import datetime

    time_ms = round(datetime.fromisoformat(json.loads(value)["timestamp"]).timestamp() * 1_000)
    return time_ms // WINDOW_MS * WINDOW_MS


if __name__ == "__main__":
    main(sys.argv[1])
