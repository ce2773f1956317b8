"""Retry topics on real brokers: workers are killed while events wait in them, and each is counted once."""

from __future__ import annotations

import asyncio
import pathlib
import random
import secrets
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from streamflow import App
from tests.integration.workers import WorkerProcess, wait_for

APP = """
from streamflow import App, Retry

app = App("later")
numbers = app.topic("{topic}", key_type=str, value_type=int, partitions=2)
counts = app.Table("counts", default=int, partitions=2)

@app.agent(numbers, name="taking", concurrency={concurrency}, retry=Retry(attempts=1, topics_s=(0.5, 2)))
async def taking(stream):
    async for key, number in stream.items():
        counts[key] += 1
        place = stream.current_event.message.topic
        stage = ("-retry-" in place) + ("-retry-2s" in place)
        if stage < number % 4:
            raise ConnectionError("nobody answers")
"""
EVENTS = 200
KEYS = ("a", "b", "c", "d", "e")
KILLS = 4


class Later:
    """Two workers of the app."""

    def __init__(self, broker: str, folder: pathlib.Path, concurrency: int) -> None:
        self.topic = f"later-{secrets.token_hex(4)}"
        self.broker = broker
        module = folder / "later_under_test.py"
        module.write_text(APP.format(topic=self.topic, concurrency=concurrency))
        self.workers = [
            WorkerProcess(
                module, folder / f"worker{n}.log", id=self.topic, broker=broker, session_timeout_ms="3000"
            )
            for n in range(2)
        ]

    async def send(self, first: int, last: int) -> None:
        app = App(f"{self.topic}-client", broker=self.broker, env={})
        topic = app.topic(self.topic, key_type=str, value_type=int, partitions=2)
        for number in range(first, last):
            await topic.send(key=KEYS[number % len(KEYS)], value=number)
        await app.disconnect()

    def counted(self) -> dict[str, int]:
        """What one of them shows, once it is ready."""
        try:
            if self.workers[0].get("/readyz")["status"] != "ready":
                return {}
            rows = self.workers[0].get("/v1/tables/counts/rows")
        except OSError:
            return {}
        return {} if rows["partial"] else {row["key"]: int(row["value"]) for row in rows["rows"]}


@pytest.fixture(params=[1, 3])
def later(broker: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[Later]:
    later = Later(broker, tmp_path, request.param)
    yield later
    for worker in later.workers:
        worker.end()


def test_what_waits_is_counted_once_whoever_is_killed(later: Later) -> None:
    dice = random.Random(1)
    asyncio.run(later.send(0, 1))
    for worker in later.workers:
        worker.start()
    later.workers[0].wait_ready()
    step = EVENTS // KILLS
    for kill in range(KILLS):
        asyncio.run(later.send(max(1, kill * step), (kill + 1) * step))
        time.sleep(dice.uniform(0.2, 1.5))
        victim = dice.choice(later.workers)
        victim.kill()
        victim.start()
    wanted = Counter(KEYS[n % len(KEYS)] for n in range(EVENTS) if n % 4 < 3)
    wait_for("all is counted", lambda: later.counted() == wanted, limit_s=90.0)
    time.sleep(3.0)
    assert later.counted() == wanted, "and nothing a second time"
    waiting = {at["lag"] for worker in later.workers[:1] for at in lags(worker, later.topic)}
    assert waiting == {0}
    letters = later.workers[0].get(f"/v1/dead-letters?topic={later.topic}-dead-letters&limit=100")
    found = sorted(letter["value"] for letter in letters["dead_letters"])
    assert found == [n for n in range(EVENTS) if n % 4 == 3]
    assert {letter["attempts"] for letter in letters["dead_letters"]} == {3}


def lags(worker: WorkerProcess, topic: str) -> list[dict[str, int]]:
    """Of each partition of the topic and its retry topics."""
    topics = worker.get("/v1/topics")["topics"]
    names = {topic, f"{topic}-retry-500ms", f"{topic}-retry-2s"}
    found = [one for one in topics if one["topic"] in names]
    assert len(found) == len(names)
    return [partition for one in found for partition in one["partitions"]]
