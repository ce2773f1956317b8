"""The main job, ``agents/events.py``, under names of its own, and what it ought to answer."""

from __future__ import annotations

import json
import pathlib
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any

from tests.integration.workers import (
    PARTITIONS,
    ROOT,
    Events,
    Message,
    Row,
    WorkerProcess,
    create_topics,
    difference,
    read_all,
    wait_for,
)

TABLES = ("events_by_user", "events_by_type", "window_totals")


class Cluster:
    """``agents/events.py`` under names of its own, with any number of workers."""

    def __init__(self, kafka: str, folder: pathlib.Path) -> None:
        self.kafka = kafka
        self.id = f"events-{secrets.token_hex(4)}"
        self.topic, self.results = f"{self.id}-in", f"{self.id}-results"
        self.workers: list[WorkerProcess] = []
        self._folder = folder
        self._module = folder / "job_under_test.py"
        source = (ROOT / "agents" / "events.py").read_text()
        for name, active in (("events", self.topic), ("window-results", self.results)):
            assert f'app.topic("{name}"' in source
            source = source.replace(f'app.topic("{name}"', f'app.topic("{active}"')
        self._module.write_text(source)
        create_topics(kafka, {self.topic: PARTITIONS, self.results: 1})

    def start(self, **options: str) -> WorkerProcess:
        """One worker more, with ``options`` for settings; it is not ready yet."""
        log = self._folder / f"worker-{len(self.workers)}.log"
        settings = {"id": self.id, "broker": f"kafka://{self.kafka}", "session_timeout_ms": "6000", **options}
        worker = WorkerProcess(self._module, log, **settings)
        self.workers.append(worker)
        worker.start()
        return worker

    def check(self, events: Events) -> None:
        """Every worker answers with every row of every table, exactly."""
        for worker in self.workers:
            for table in TABLES:
                wanted = events.expected.rows(table)
                exact = partial(holds, worker, table, wanted)
                try:
                    wait_for("exact", exact)
                except AssertionError:
                    found = worker.rows(table)
                    raise AssertionError(f"{table} at {worker.url}: {difference(found, wanted)}") from None

    def check_results(self, events: Events) -> None:
        """Each closed window stands once in the results, and no other does."""
        wanted = events.expected.results()
        last = max(wanted)  # the window of the events that close the others
        del wanted[last]
        messages = wait_for("all windows closed", lambda: self._results(len(wanted)))
        found = [json.loads(message.value or b"") for message in messages]
        starts = [result["window_start"] for result in found if result["window_start"] != last]
        assert sorted(starts) == sorted(wanted)
        assert {start: result for result in found if (start := result["window_start"]) != last} == wanted

    def _results(self, count: int) -> list[Message]:
        messages = read_all(self.kafka, self.results)
        return messages if len(messages) >= count else []


def holds(worker: WorkerProcess, table: str, wanted: Mapping[Row, Any]) -> bool:
    """Does the worker answer with exactly these rows?"""
    try:
        return worker.rows(table) == wanted
    except (AssertionError, OSError):  # partitions are moving
        return False
