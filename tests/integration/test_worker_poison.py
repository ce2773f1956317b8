"""Events that kill the process of whoever takes them, and kills from outside that cost no event."""

from __future__ import annotations

import asyncio
import pathlib
import secrets
import time
from collections.abc import Iterator

import pytest

from streamflow import App
from tests.integration.workers import WorkerProcess, wait_for

APP = """
import asyncio, os, signal
from streamflow import App

app = App("poison")
numbers = app.topic("{topic}", key_type=str, value_type=int, partitions=2)
counts = app.Table("counts", default=int, partitions=2)

@app.agent(numbers, name="taking", concurrency={concurrency})
async def taking(stream):
    async for key, number in stream.items():
        counts[key] += 1
        await asyncio.sleep({pause_s})
        if number == {poison}:
            os.kill(os.getpid(), signal.SIGKILL)
"""
EVENTS = 60
POISON = 23
KEYS = ("a", "b", "c", "d")


class Poisoned:
    """A worker of the app, which is started again whenever it has died."""

    def __init__(self, broker: str, folder: pathlib.Path) -> None:
        self.topic = f"poison-{secrets.token_hex(4)}"
        self.module = folder / "poison_under_test.py"
        self.broker = broker
        self.worker = WorkerProcess(
            self.module, folder / "worker.log", id=self.topic, broker=broker, session_timeout_ms="3000"
        )
        self.deaths = 0

    def write(self, *, concurrency: int = 1, pause_s: float = 0.0, poison: int = POISON) -> None:
        text = APP.format(topic=self.topic, concurrency=concurrency, pause_s=pause_s, poison=poison)
        self.module.write_text(text)

    def send(self) -> None:
        async def send() -> None:
            app = App(f"{self.topic}-client", broker=self.broker, env={})
            topic = app.topic(self.topic, key_type=str, value_type=int, partitions=2)
            for number in range(EVENTS):
                await topic.send(key=KEYS[number % len(KEYS)], value=number)
            await app.disconnect()

        asyncio.run(send())

    def counted(self) -> dict[str, int]:
        """Once it is ready; starts it again where it is dead."""
        if not self.worker.running():
            self.deaths += 1
            self.worker.start()
        try:
            if self.worker.get("/readyz")["status"] != "ready":
                return {}
            rows = self.worker.get("/v1/tables/counts/rows")
        except OSError:
            return {}
        return {} if rows["partial"] else {row["key"]: int(row["value"]) for row in rows["rows"]}


@pytest.fixture
def poisoned(broker: str, tmp_path: pathlib.Path) -> Iterator[Poisoned]:
    poisoned = Poisoned(broker, tmp_path)
    yield poisoned
    poisoned.worker.end()


def expected(without: int | None = None) -> dict[str, int]:
    numbers = [number for number in range(EVENTS) if number != without]
    return {key: sum(KEYS[n % len(KEYS)] == key for n in numbers) for key in KEYS}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_event_that_kills_the_process_is_set_aside_and_no_other(
    poisoned: Poisoned, concurrency: int
) -> None:
    poisoned.write(concurrency=concurrency)
    poisoned.worker.start()
    poisoned.worker.wait_ready()
    poisoned.send()
    wait_for("all others are counted", lambda: poisoned.counted() == expected(POISON), 120)
    # Among others, alone, and alone again; one more where a commit happened to be under way.
    assert 3 <= poisoned.deaths <= 4
    assert poisoned.worker.metric("streamflow_dead_letters_total") == 1
    log = poisoned.worker.log()
    assert log.count("it is set aside") == 1
    assert f"the process died 2 times with {poisoned.topic}[" in log
    assert poisoned.worker.stop() == 0


def test_kills_from_outside_cost_no_event(poisoned: Poisoned) -> None:
    poisoned.write(pause_s=0.05, poison=-1)
    poisoned.worker.start()
    poisoned.worker.wait_ready()
    poisoned.send()
    for number in range(4):
        poisoned.worker.wait_ready()
        time.sleep(0.2 + 0.1 * number)  # any moment will do
        poisoned.worker.kill()
        poisoned.worker.start()
    wait_for("all are counted", lambda: poisoned.counted() == expected(), 120)
    assert poisoned.worker.metric("streamflow_dead_letters_total") == 0
    assert "it is set aside" not in poisoned.worker.log()
