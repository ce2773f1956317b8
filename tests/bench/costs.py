"""What windows, time and partitions cost: ``python -m tests.bench.costs [--events N] [--only TEXT]``.

One worker on memory for each case, in this process: CPU of the process for each event, from the start of the
engine to the commit of the last event, with the memory broker's share in it, and the longest time for which a
callback held the event loop, in CPU time of its thread. So the figures are to be read against the first row,
and not against a worker on Kafka.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from streamflow import App, Count, HoppingWindow, Key, SessionWindow, SlidingWindow, TumblingWindow
from streamflow.app.worker.process import QuietCollector
from streamflow.clock import SystemClock
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.bench.workload import START_MS, fnv1a

EVENTS = 200_000
KEYS = 1_000
LIMIT_S = 600.0
IDLE_S = 5.0
TOPIC = "events"


@dataclass(frozen=True)
class Case:
    """One declared table over one topic. ``per_s``: events in a second of event time."""

    name: str
    window: Any
    per_s: float = 10_000
    disorder_ms: int = 0
    late_share: float = 0.0
    partitions: int = 4
    by: Any = None  # by the key
    tables: int = 1
    share: int = 1  # counts so many times fewer events

    def records(self, events: int) -> Iterator[Record]:
        chance = random.Random(7)
        users = [f"user-{number:05d}".encode() for number in range(KEYS)]
        homes = [fnv1a(user, self.partitions) for user in users]
        for number in range(events):
            at_ms = START_MS + int(number * 1_000 / self.per_s)
            if self.disorder_ms:
                at_ms -= chance.randrange(self.disorder_ms)
            elif chance.random() < self.late_share:
                at_ms -= 600_000
            user = chance.randrange(KEYS)
            value = b'{"id":"%012d","type":"type-%d","timestamp":%d,"data":{"n":%d}}' % (
                number,
                user % 50,
                at_ms,
                number % 100,
            )
            yield Record(TOPIC, homes[user], users[user], value)


def cases() -> list[Case]:
    """Each row grows one thing."""
    hour = 3_600
    found = [Case("tumbling 10", TumblingWindow(10))]
    for per_s in (10_000, 333):
        for size, step in ((10, 10), (10, 1), (60, 1)):
            found.append(Case(f"hopping {size}/{step}, {per_s}/s", HoppingWindow(size, step), per_s))
        found.append(Case(f"hopping 60/1, grace 60, {per_s}/s", HoppingWindow(60, 1, grace_s=60), per_s))
        found.append(Case(f"sessions 10, {per_s}/s", SessionWindow(10), per_s))
    found.append(Case("sliding 10, 10 events a second and key", SlidingWindow(10), 10_000, share=5))
    for name, window in (("tumbling 10", TumblingWindow(10)), ("hopping 60/1", HoppingWindow(60, 1))):
        found.append(Case(f"{name}, disorder 60 s", window, 333, disorder_ms=60_000))
        found.append(Case(f"{name}, 10% late", window, 333, late_share=0.1))
        for span_ms in (60, 1_000, 10_000):
            found.append(Case(f"{name}, {span_ms:,} ms an event", window, 1_000 / span_ms))
    window = TumblingWindow(10, retain_s=hour)
    for partitions in (4, 64, 256):
        found.append(Case(f"by field, {partitions} partitions", window, partitions=partitions, by="type"))
    return found


def idle_cases() -> list[Case]:
    """Nothing comes: what a second costs."""
    return [
        Case(f"{tables} tables, {partitions} silent partitions", TumblingWindow(10), partitions=partitions,
             by="type", tables=tables)
        for tables, partitions in ((3, 4), (3, 64), (3, 256))
    ]  # fmt: skip


class LoopMeter:
    """The longest time that one callback of the event loop took, in CPU time of its thread."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles: Any = asyncio.Handle
        run = handles._run

        def timed(handle: asyncio.Handle) -> None:
            before = time.thread_time()
            try:
                run(handle)
            finally:
                self.longest_s = max(self.longest_s, time.thread_time() - before)

        handles._run = timed
        try:
            yield
        finally:
            handles._run = run


def declared(case: Case, transport: MemoryTransport) -> App:
    app = App("costs", transport=transport, commit_interval=0.5, fetch_wait_ms=50, web_enabled=False, env={})
    topic = app.topic(TOPIC, key_type=str, partitions=case.partitions)
    by = Key() if case.by is None else case.by
    for number in range(case.tables):
        app.aggregate(f"counts{number}", topic, by=by, window=case.window, values=Count(), time="timestamp")
    return app


async def measure(case: Case, events: int) -> dict[str, Any]:
    """CPU us an event and the longest stop of the loop in ms; raises AssertionError for a wrong count."""
    events //= case.share
    broker = MemoryBroker(SystemClock())
    broker.create_topics([TopicSpec(TOPIC, case.partitions)])
    broker.write(list(case.records(events)))
    app, meter, collector = (
        declared(case, MemoryTransport(broker, "costs", "worker")),
        LoopMeter(),
        QuietCollector(),
    )
    with meter.watching():
        collector.begin()  # as in a worker
        began = time.process_time()
        await app.start()
        try:
            async with asyncio.timeout(LIMIT_S):
                while counted(app) < events:
                    assert app.engine.failure is None, app.engine.failure
                    await asyncio.sleep(0.05)
            cpu_s = time.process_time() - began
        finally:
            await app.stop()
            collector.end()
    return {
        "case": case.name,
        "events": events,
        "cpu_us_per_event": round(cpu_s / events * 1e6, 2),
        "longest_stop_ms": round(meter.longest_s * 1_000, 1),
    }


def counted(app: App) -> int:
    """Events that are durably counted, or late."""
    active = app.engine.active
    if active is None:
        return 0
    return sum(p.counters.get("counted", 0) + p.counters.get("late", 0) for p in active.shown.values())


async def measure_idle(case: Case) -> dict[str, Any]:
    """CPU ms a second, and the longest stop of the loop in ms, while every partition is silent."""
    broker = MemoryBroker(SystemClock())
    broker.create_topics([TopicSpec(TOPIC, case.partitions)])
    broker.write(list(case.records(case.partitions * 10)))
    app, meter = declared(case, MemoryTransport(broker, "costs", "worker")), LoopMeter()
    await app.start()
    try:
        await asyncio.sleep(2 * IDLE_S)
        with meter.watching():
            began, since = time.process_time(), time.perf_counter()
            await asyncio.sleep(IDLE_S)
            cpu_s = (time.process_time() - began) / (time.perf_counter() - since)
    finally:
        await app.stop()
    return {
        "case": case.name,
        "cpu_ms_per_s": round(cpu_s * 1_000, 1),
        "longest_stop_ms": round(meter.longest_s * 1_000, 1),
    }


async def every(events: int = EVENTS, only: str = "") -> list[dict[str, Any]]:
    found = [await measure(case, events) for case in cases() if only in case.name]
    return found + [await measure_idle(case) for case in idle_cases() if only in case.name]


def table(costs: Sequence[dict[str, Any]]) -> str:
    lines = ["| | CPU us/event | longest stop of the loop, ms |", "|---|---|---|"]
    for cost in costs:
        took = cost.get("cpu_us_per_event", f"{cost.get('cpu_ms_per_s')} ms a second")
        lines.append(f"| {cost['case']} | {took} | {cost['longest_stop_ms']} |")
    return "\n".join(lines)


async def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.costs", description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args(arguments)
    for case in cases():
        if options.only in case.name:
            sys.stdout.write(json.dumps(await measure(case, options.events)) + "\n")
            sys.stdout.flush()
    for case in idle_cases():
        if options.only in case.name:
            sys.stdout.write(json.dumps(await measure_idle(case)) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
