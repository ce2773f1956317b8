"""From event to committed output, for several commit intervals; and what exactly once costs.

``python -m tests.bench.latency [--quick]`` starts one real Kafka and, on it, one worker after another:

1. *latency*: an agent sends each event on to another topic; a reader of committed records says how long
   after its sending each event was there. 200 events a second.
2. *cost*: CPU of a worker that counts a backlog by key in windows, at the default interval, exactly once
   beside at least once, in turns; from ready to the last offset committed.

It prints two tables in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, Producer, TopicPartition

from tests.integration.workers import PARTITIONS, Events, WorkerProcess, create_topics, wait_for
from tests.support import kafka_server

INTERVALS_S = (0.05, 0.1, 0.25, 0.5, 1.0)
RATE = 200
WARM_UP = 600  # events
APP = """
import os
from streamflow import App, Event

app = App("latency")
events = app.topic(os.environ["STREAMFLOW_BENCH_TOPIC"], key_type=str, value_type={value}, partitions=6)
out = app.topic(os.environ["STREAMFLOW_BENCH_TOPIC"] + "-out", key_type=str, partitions=6)
counts = app.Table("counts", default=int).tumbling(10)

@app.agent(events)
async def run(stream):
    async for key, event in stream.items():
        {work}
"""
FORWARD = APP.format(value="dict", work="await out.send(key=key, value=event)")
COUNT = APP.format(value="Event", work="counts[key] += 1")


@dataclass
class Cost:
    guarantee: str
    cpu_us: float  # for each event
    events_per_s: float


@contextlib.contextmanager
def worker(kafka: str, app: str, **settings: str) -> Iterator[tuple[WorkerProcess, str]]:
    """A ready worker, and its topic."""
    topic = f"latency-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        module = folder / "latency_app.py"
        module.write_text(app)
        create_topics(kafka, {topic: PARTITIONS, f"{topic}-out": PARTITIONS})
        options = {"id": topic, "broker": f"kafka://{kafka}", "bench_topic": topic, **settings}
        process = WorkerProcess(module, folder / "log", **options)
        try:
            process.start()
            process.wait_ready()
            yield process, topic
        finally:
            process.end()


def latencies_ms(kafka: str, interval_s: float, count: int) -> list[float]:
    """Of each event, sorted; the first ones warm up and do not count."""
    with worker(kafka, FORWARD, commit_interval=str(interval_s)) as (_, topic):
        group = {"group.id": secrets.token_hex(5), "isolation.level": "read_committed"}
        consumer = Consumer({"bootstrap.servers": kafka, "fetch.wait.max.ms": 10, **group})
        consumer.assign([TopicPartition(f"{topic}-out", p, 0) for p in range(PARTITIONS)])
        producer = Producer({"bootstrap.servers": kafka, "linger.ms": 0})
        found: list[float] = []
        began = time.monotonic()
        sent = 0
        count += WARM_UP
        while len(found) < count:
            now = time.monotonic()
            while sent < count and now - began >= sent / RATE:
                producer.produce(topic, json.dumps({"at": time.monotonic()}).encode(), b"k%d" % (sent % 50))
                sent += 1
            producer.poll(0)
            message = consumer.poll(0.002)
            if message is not None and message.error() is None:
                found.append((time.monotonic() - json.loads(message.value())["at"]) * 1_000)
            if now - began > 60 + count / RATE:
                raise TimeoutError(f"{len(found)} of {count} events came through")
        consumer.close()
    return sorted(found[WARM_UP:])


def cost(kafka: str, guarantee: str, count: int) -> Cost:
    with worker(kafka, COUNT, processing_guarantee=guarantee) as (process, topic):
        events = Events(kafka, topic)
        group = Consumer({"bootstrap.servers": kafka, "group.id": topic})
        asked = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        before_s, began = process.cpu_s(), time.monotonic()
        events.send(count, span_ms=600_000)

        def done() -> bool:
            return bool(sum(max(0, at.offset) for at in group.committed(asked, 10)) >= count)

        wait_for("everything is committed", done, 120)
        took_s = time.monotonic() - began
        group.close()
        return Cost(guarantee, (process.cpu_s() - before_s) / count * 1e6, count / took_s)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="only to see that it runs")
    quick = parser.parse_args(arguments).quick
    count, backlog, rounds = (200, 20_000, 1) if quick else (2_000, 300_000, 3)
    with kafka_server.KafkaServer() as server:
        kafka = server.bootstrap
        print("| commit interval | median | 95 % | 99 % |\n|---|---|---|---|")
        for interval_s in INTERVALS_S:
            found = latencies_ms(kafka, interval_s, count)
            shown = " | ".join(f"{found[int(len(found) * share)]:.0f} ms" for share in (0.5, 0.95, 0.99))
            print(f"| {interval_s * 1_000:.0f} ms | {shown} |", flush=True)
        costs = [
            cost(kafka, guarantee, backlog)
            for _ in range(rounds)
            for guarantee in ("at_least_once", "exactly_once")
        ]
        print("\n| guarantee | CPU for an event | events/s, filled meanwhile |\n|---|---|---|")
        for guarantee in ("at_least_once", "exactly_once"):
            mine = [each for each in costs if each.guarantee == guarantee]
            cpu_us = statistics.median(each.cpu_us for each in mine)
            rate = statistics.median(each.events_per_s for each in mine)
            print(f"| {guarantee} | {cpu_us:.2f} us | {rate:,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
