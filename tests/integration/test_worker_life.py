"""How a worker begins and ends, seen from its parent process."""

from __future__ import annotations

import pathlib
import secrets
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests.integration.workers import WorkerProcess, wait_for

APP = """
from streamflow import App, Event

app = App("life")
events = app.topic("{topic}", key_type=str, value_type=Event, partitions=2)
counts = app.Table("counts", default=int).tumbling(10)
sent = 0

@app.agent(events)
async def count(stream):
    async for event in stream:
        counts[event.data["user"]] += 1

@app.timer(0.05)
async def make():
    global sent
    sent += 1
    event = {{"id": str(sent), "type": "tick", "timestamp": 1760000000000, "data": {{"user": "ann"}}}}
    await events.send(key="ann", value=event)

@app.page("/hello")
async def hello(web, request):
    return web.json({{"sent": sent}})
"""


@pytest.fixture
def worker(tmp_path: pathlib.Path) -> Iterator[WorkerProcess]:
    module = tmp_path / "life_under_test.py"
    module.write_text(APP.format(topic=f"life-{secrets.token_hex(4)}"))
    worker = WorkerProcess(module, tmp_path / "worker.log", id=f"life-{secrets.token_hex(4)}")
    yield worker
    worker.end()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_worker_cleanly_within_seconds(worker: WorkerProcess, how: signal.Signals) -> None:
    worker.start()
    worker.wait_ready()
    wait_for("something is counted", lambda: worker.rows("counts"))
    began = time.monotonic()
    assert worker.stop(how) == 0
    assert time.monotonic() - began < 8
    assert "Traceback" not in worker.log()
    assert "ERROR" not in worker.log()


def test_a_page_of_the_app_is_served_beside_the_tables(worker: WorkerProcess) -> None:
    worker.start()
    worker.wait_ready()
    wait_for("the timer runs", lambda: worker.get("/hello")["sent"] > 0)
    assert worker.get("/v1/tables")["tables"][0]["name"] == "counts"


def test_a_worker_without_a_broker_fails_with_the_reason(worker: WorkerProcess) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        worker.settings["broker"] = f"kafka://127.0.0.1:{nobody.getsockname()[1]}"
        worker.settings["broker_wait_s"] = "1"
        worker.start()
        assert worker.wait(60) == 1
    assert "no broker of 127.0.0.1" in worker.log()


def test_a_port_that_was_asked_for_and_is_busy_is_an_error(worker: WorkerProcess) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", worker.port))
        other.listen()
        worker.start()
        assert worker.wait(60) == 1
    assert f"can't listen on 127.0.0.1:{worker.port}" in worker.log()
