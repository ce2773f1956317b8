"""Agents that block the event loop for longer than the session, on Kafka and on Redis."""

from __future__ import annotations

import asyncio
import pathlib
import secrets
from collections.abc import Iterator

import pytest

from streamflow import App
from tests.integration.workers import WorkerProcess, wait_for

APP = """
import os, pathlib, time
from streamflow import App

app = App("blocks")
numbers = app.topic("{topic}", key_type=str, value_type=int, partitions=1)
counts = app.Table("counts", default=int, partitions=1)
taken = pathlib.Path("{folder}") / "taken"

@app.agent(numbers, name="blocking")
async def blocking(stream):
    async for key, number in stream.items():
        before = taken.read_text().split() if taken.exists() else []
        with taken.open("a") as file:
            file.write(f"{{number}}\\n")
        counts[key] += number
        if not {once} or str(number) not in before:
            time.sleep({block_s})
"""


class Blocked:
    """One or two workers of an app whose agent blocks, on one of the brokers."""

    def __init__(self, broker: str, folder: pathlib.Path) -> None:
        self.broker = broker
        self.folder = folder
        self.topic = f"blocks-{secrets.token_hex(4)}"
        self.module = folder / "blocks_under_test.py"
        self.workers: list[WorkerProcess] = []

    def start(self, count: int, *, block_s: float, once: bool = False, **settings: str) -> None:
        text = APP.format(topic=self.topic, folder=self.folder, block_s=block_s, once=once)
        self.module.write_text(text)
        for number in range(count):
            worker = WorkerProcess(
                self.module,
                self.folder / f"worker-{number}.log",
                id=self.topic,
                broker=self.broker,
                session_timeout_ms="3000",
                **settings,
            )
            self.workers.append(worker)
            worker.start()
            worker.wait_ready()

    def send(self, *numbers: int) -> None:
        async def send() -> None:
            app = App(f"{self.topic}-client", broker=self.broker, env={})
            topic = app.topic(self.topic, key_type=str, value_type=int, partitions=1)
            for number in numbers:
                await topic.send(key="k", value=number)
            await app.disconnect()

        asyncio.run(send())

    def taken(self) -> list[int]:
        file = self.folder / "taken"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def committed(self) -> int:
        """What the table says; 0 while nobody can."""
        try:
            rows = self.workers[0].get("/v1/tables/counts/rows")["rows"]
        except OSError:
            return 0
        return int(rows[0]["value"]) if rows else 0

    def logs(self) -> str:
        return "".join(worker.log() for worker in self.workers)

    def end(self) -> None:
        for worker in self.workers:
            worker.end()


@pytest.fixture
def blocked(broker: str, tmp_path: pathlib.Path) -> Iterator[Blocked]:
    blocked = Blocked(broker, tmp_path)
    yield blocked
    blocked.end()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_agent_that_blocks_longer_than_the_session_gets_on(blocked: Blocked, workers: int) -> None:
    blocked.start(workers, block_s=7)
    blocked.send(1, 10, 100)
    wait_for("all three are counted", lambda: blocked.committed() == 111, 90)
    assert blocked.taken() == [1, 10, 100]  # each of them once: nobody lost its partitions over it
    # Each had its checkpoint before the next one began: on a log without end none would come else.
    assert sum(each.metric("streamflow_checkpoint_seconds_count") for each in blocked.workers) >= 3
    assert "agent blocking with " + blocked.topic + "[0]" in blocked.logs()


def test_what_blocks_longer_than_the_poll_interval_is_named_and_taken_again(blocked: Blocked) -> None:
    blocked.start(2, block_s=12, once=True, broker_max_poll_interval="4")
    blocked.send(1)
    wait_for("it is taken again", lambda: len(blocked.taken()) > 1, 60)
    blocked.send(10)
    wait_for("both are counted", lambda: blocked.committed() == 11, 90)
    assert blocked.taken().count(1) > 1
    logs = blocked.logs()
    assert "longer than broker_max_poll_interval (4 s): agent blocking with " + blocked.topic in logs
