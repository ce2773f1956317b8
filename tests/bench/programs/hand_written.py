"""The ruler, 1.0: the loop that a good user would write by hand on aiokafka.

At least once: offsets are committed every 500 ms, after the events before them were counted. No
changelog, no recovery, no queries: a restart would begin with empty counts.
"""

from __future__ import annotations

import asyncio
import collections
import datetime
import importlib.metadata
import sys
import time

import msgspec
from aiokafka import AIOKafkaConsumer

from tests.bench.meter import Job, Meter

WINDOW_S = 10
COMMIT_INTERVAL_S = 0.5


class Data(msgspec.Struct):
    user: str
    amount: float


class Event(msgspec.Struct):
    id: str
    type: str
    timestamp: datetime.datetime
    data: Data


class OnlyTime(msgspec.Struct):
    """The only field that this count needs; msgspec skips over the others."""

    timestamp: datetime.datetime


async def count(job: Job, meter: Meter, model: type[Event] | type[OnlyTime]) -> None:
    decode = msgspec.json.Decoder(model).decode
    # (key, window start in s) -> count
    counts: collections.defaultdict[tuple[bytes, int], int] = collections.defaultdict(int)
    done = 0
    async with AIOKafkaConsumer(
        job.topic,
        bootstrap_servers=job.broker,
        group_id=job.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    ) as consumer:
        while not consumer.assignment():
            await asyncio.sleep(0.005)
        meter.first()
        commit_at = time.monotonic() + COMMIT_INTERVAL_S
        while done < job.events:
            batches = await consumer.getmany(timeout_ms=500)
            for records in batches.values():
                for record in records:
                    start = int(decode(record.value).timestamp.timestamp()) // WINDOW_S * WINDOW_S
                    counts[record.key, start] += 1
                done += len(records)
            if time.monotonic() >= commit_at:
                await consumer.commit()
                commit_at = time.monotonic() + COMMIT_INTERVAL_S
        meter.last()
        await consumer.commit()
        meter.committed()
    rows = {(key.decode(), start * 1_000): number for (key, start), number in counts.items()}
    meter.report(rows, {name: importlib.metadata.version(name) for name in ("aiokafka", "msgspec")})


if __name__ == "__main__":
    job = Job()
    asyncio.run(count(job, Meter(job), OnlyTime if "--only-time" in sys.argv else Event))
