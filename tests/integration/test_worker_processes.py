"""``streamflow worker --processes N``: several workers under one parent, and their sum."""

from __future__ import annotations

import os
import pathlib
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.workers import ROOT, Events, create_topics, free_port, free_port_pair, wait_for

APP = """
from streamflow import App, Event

app = App("processes")
events = app.topic("{topic}", key_type=str, value_type=Event, partitions=6)
counts = app.Table("counts", default=int).tumbling(10)

@app.agent(events)
async def count(stream):
    async for event in stream:
        counts[event.data["user"]] += 1
"""


class Parent:
    """The command, with what it prints."""

    def __init__(self, folder: pathlib.Path, *arguments: str, broker: str, count: int = 2) -> None:
        self.topic = f"processes-{secrets.token_hex(4)}"
        (folder / "processes_under_test.py").write_text(APP.format(topic=self.topic))
        self._log = folder / "parent.log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMFLOW_")}
        environ |= {
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "STREAMFLOW_BROKER": broker,
            "STREAMFLOW_BROKER_WAIT_S": "5",
            "STREAMFLOW_ID": self.topic,
            "STREAMFLOW_SESSION_TIMEOUT_MS": "3000",
        }
        command = [sys.executable, "-m", "streamflow.cli", "worker", "-A", "processes_under_test"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--processes", str(count), *arguments],
                cwd=folder,
                env=environ,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def children(self) -> list[int]:
        listed = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in listed.read_text().split()]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)


@pytest.fixture
def started(kafka: str, tmp_path: pathlib.Path) -> Iterator[Any]:
    parents: list[Parent] = []

    def start(*arguments: str, broker: str = f"kafka://{kafka}", count: int = 2) -> Parent:
        parents.append(Parent(tmp_path, *arguments, broker=broker, count=count))
        return parents[-1]

    yield start
    for parent in parents:
        parent.end()


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").is_dir(), reason="finds the children through /proc")
def test_processes_share_the_partitions_and_one_that_dies_comes_back(kafka: str, started: Any) -> None:
    port = free_port_pair()
    parent = started("--web-port", str(port))
    create_topics(kafka, {parent.topic: 6})
    events = Events(kafka, parent.topic)
    events.send(5_000, span_ms=60_000)
    wait_for(
        "the sum is told",
        lambda: re.search(r"2 of 2 workers, [\d,]+ events/s, 5,000 events in all, lag 0", parent.log()),
    )
    first = parent.children()
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    wait_for("it is started again", lambda: len(parent.children()) == 2 and parent.children() != first)
    assert "ended with SIGKILL: again in 1 s" in parent.log()
    events.send(5_000, span_ms=60_000)
    wait_for("all is counted by two", lambda: re.search(r"2 of 2 workers.*lag 0, 1 restarts", parent.log()))
    slots = set(re.findall(r"Ending what (\S+),", parent.log()))
    assert all(slot.rpartition("-")[2] in (str(port), str(port + 1)) for slot in slots), slots
    last = parent.children()
    parent.process.send_signal(signal.SIGTERM)
    assert parent.process.wait(30) == 0
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in last)
    assert "Traceback" not in parent.log()


@pytest.mark.skipif(sys.platform != "linux", reason="a child hears of its parent's end on Linux only")
def test_no_worker_stays_behind_when_the_parent_is_killed(started: Any) -> None:
    parent = started("--web-port", str(free_port_pair()))
    wait_for("both are ready", lambda: parent.log().count("[^Worker]: Ready") == 2)
    children = parent.children()
    parent.process.kill()
    parent.process.wait(10)
    wait_for("they have ended", lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in children))


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").is_dir(), reason="finds the children through /proc")
def test_a_worker_killed_before_it_was_ready_comes_back(started: Any) -> None:
    parent = started("--web-port", str(free_port_pair()))
    for child in wait_for("both are there", lambda: len(parent.children()) == 2 and parent.children()):
        os.kill(child, signal.SIGKILL)
    wait_for("both are ready", lambda: re.search(r"2 of 2 workers.*lag 0, 2 restarts", parent.log()))


def test_what_cannot_start_is_not_started_again_and_again(started: Any) -> None:
    parent = started(broker=f"kafka://127.0.0.1:{free_port()}")
    assert parent.process.wait(60) not in (0, None)
    assert "before it was ready: ending all" in parent.log()


def test_memory_has_no_room_for_processes(started: Any) -> None:
    parent = started(broker="memory://")
    assert parent.process.wait(30) == 2
    assert "memory:// lives inside one process" in parent.log()
