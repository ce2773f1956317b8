"""A source topic gets more partitions on a real broker, and `streamflow grow` brings the tables along."""

from __future__ import annotations

import json
import pathlib
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from streamflow.partitioner import fnv1a
from tests.integration.workers import WorkerProcess, create_topics, read_all, wait_for

APP = """
import streamflow
from streamflow import Event, TumblingWindow

app = streamflow.App("{id}", broker="kafka://{kafka}", store="{store}")
events = app.topic("{topic}", key_type=str, value_type=Event)
counts = app.Table("counts", default=int)
window = TumblingWindow(10, idle_close_s=None)
for by, name in ((streamflow.Key(), "key"), ("type", "type"), (None, "all")):
    app.aggregate(f"totals-{{name}}", events, by=by, values=streamflow.Count())
    app.aggregate(f"by-{{name}}", events, by=by, window=window, values=streamflow.Count(),
                  emit_closed="{id}-closed-" + name)


@app.agent(events)
async def count(stream):
    async for key, event in stream.items():
        counts[key] += 1
"""
KEYS = [f"k{number}" for number in range(16)]
T0 = 1_767_225_600


class Growing:
    """A worker over a topic of two partitions that gets more."""

    def __init__(self, kafka: str, folder: pathlib.Path, store: str) -> None:
        self.id = f"grow-{secrets.token_hex(4)}"
        self.topic = f"{self.id}-in"
        self.kafka = kafka
        self.folder = folder
        self.partitions = 2
        self._producer = Producer({"bootstrap.servers": kafka})
        module = folder / "growing.py"
        module.write_text(APP.format(id=self.id, kafka=kafka, topic=self.topic, store=store))
        settings = {"session_timeout_ms": "6000", "data_dir": str(folder / "data")}
        self.worker = WorkerProcess(module, folder / "worker.log", **settings)
        create_topics(kafka, {self.topic: 2})
        self.sent: list[tuple[str, str, int]] = []
        self.at_s = T0

    def grow(self, partitions: int) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka})
        admin.create_partitions([NewPartitions(self.topic, partitions)])[self.topic].result(20)
        self.partitions = partitions
        self._producer = Producer({"bootstrap.servers": self.kafka})  # the old one does not know of them

    def send(self, seconds: int) -> None:
        for _ in range(seconds):
            for number, key in enumerate(KEYS):
                kind = f"t{(number + self.at_s) % 5}"
                time = datetime.fromtimestamp(self.at_s, UTC).isoformat()
                event = {"id": str(len(self.sent)), "type": kind, "timestamp": time, "data": {}}
                partition = fnv1a(key.encode(), self.partitions)
                self._producer.produce(self.topic, json.dumps(event), key.encode(), partition)
                self.sent.append((key, kind, self.at_s))
            self.at_s += 1
        assert self._producer.flush(20) == 0

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "streamflow.cli", *arguments]
        return subprocess.run(line, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False)

    def killed_when_grown(self, log: str, *arguments: str) -> None:
        """SIGKILL as soon as this topic of the app's has as many partitions as the source."""
        admin = AdminClient({"bootstrap.servers": self.kafka})

        def grown() -> bool:
            found = admin.list_topics(timeout=10).topics.get(f"{self.id}-{log}")
            return found is not None and len(found.partitions) == self.partitions

        assert not grown()
        with subprocess.Popen(
            [sys.executable, "-m", "streamflow.cli", *arguments], cwd=self.folder
        ) as process:
            wait_for(f"{log} has grown", grown)
            assert process.poll() is None
            process.kill()

    def total(self, table: str) -> int:
        return sum(row["value"] for row in self.worker.get(f"/v1/tables/{table}/rows?limit=1000")["rows"])

    def wait_taken(self) -> None:
        tables = ("counts", "totals-key", "totals-type", "totals-all", "by-key", "by-type", "by-all")

        def taken() -> bool:
            return {self.total(table) for table in tables} == {len(self.sent)}

        wait_for("everything is counted", taken, 60)

    def check(self) -> None:
        """The tables, and each closed window told of once."""
        rows = self.worker.get("/v1/tables/counts/rows?limit=1000")["rows"]
        assert {row["key"]: row["value"] for row in rows} == Counter(key for key, *_ in self.sent)
        for name, group in (("key", 0), ("type", 1), ("all", None)):
            wanted: Counter[Any] = Counter()
            for event in self.sent:
                start = event[2] // 10 * 10
                if start + 10 <= self.at_s - 1:
                    wanted[None if group is None else event[group], start] += 1
            topic = f"{self.id}-closed-{name}"
            wait_for(f"{name} is closed", partial(self._has, topic, len(wanted)))
            found = [json.loads(message.value or b"") for message in read_all(self.kafka, topic)]
            told = Counter((one.get("key"), one["window_start"]) for one in found)
            assert set(told.values()) == {1}
            starts = {(one.get("key"), _seconds(one["window_start"])): one["value"] for one in found}
            assert starts == wanted

    def _has(self, topic: str, number: int) -> bool:
        return len(read_all(self.kafka, topic)) >= number


def _seconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp())


@pytest.fixture(params=["memory://", "rocksdb://"])
def growing(kafka: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[Growing]:
    world = Growing(kafka, tmp_path, request.param)
    yield world
    world.worker.end()


def test_the_command_brings_every_table_along_and_may_be_killed(growing: Growing) -> None:
    growing.worker.start()
    growing.worker.wait_ready()
    growing.send(25)
    growing.wait_taken()
    growing.grow(4)
    refused = growing.command("grow", "-A", "growing", growing.topic, "--yes")
    assert refused.returncode == 2
    assert "are running: stop them first" in refused.stderr
    growing.worker.stop()
    for log in ("counts-changelog", "by-all-shuffle"):
        growing.killed_when_grown(log, "grow", "-A", "growing", growing.topic, "--yes")
        growing.worker.start()
        assert growing.worker.wait(40) != 0
        assert "streamflow grow" in growing.worker.log()
    done = growing.command("grow", "-A", "growing", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    growing.send(3)
    growing.worker.start()
    growing.worker.wait_ready()
    growing.wait_taken()
    growing.check()
    growing.send(20)
    growing.wait_taken()
    growing.check()
    again = growing.command("grow", "-A", "growing", growing.topic, "--yes")
    assert "are running" in again.stderr
    growing.worker.stop()
    for table in ("counts", "totals-key", "totals-type", "totals-all", "by-key", "by-type", "by-all"):
        verified = growing.command("verify", "-A", "growing", table)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    nothing = growing.command("grow", "-A", "growing", "--yes")
    assert "every table lies by the partitions of its topics" in nothing.stdout
