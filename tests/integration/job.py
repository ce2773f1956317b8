"""The main job, ``agents/events.py``, under names of its own, and what it ought to answer."""

from __future__ import annotations

import json
import pathlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from tests.integration.workers import (
    PARTITIONS,
    ROOT,
    Events,
    Expected,
    Row,
    WorkerProcess,
    create_topics,
    difference,
    read_all,
    wait_for,
)

Result = dict[str, Any]
TABLES = ("events_by_user", "events_by_type", "window_totals")


class Job:
    """The main job with any number of workers; ``source`` is its text, ``settings`` are the workers'."""

    def __init__(self, folder: pathlib.Path, source: str, **settings: str) -> None:
        self.workers: list[WorkerProcess] = []
        self._folder = folder
        self._module = folder / "job_under_test.py"
        self._module.write_text(source)
        self._settings = settings

    def start(self, **options: str) -> WorkerProcess:
        """One worker more, with ``options`` for settings; it is not ready yet."""
        log = self._folder / f"worker-{len(self.workers)}.log"
        worker = WorkerProcess(self._module, log, **(self._settings | options))
        self.workers.append(worker)
        worker.start()
        return worker

    def end(self) -> None:
        for worker in self.workers:
            worker.end()

    def check_rows(self, expected: Expected, workers: Iterable[WorkerProcess] | None = None) -> None:
        """Every worker answers with every row of every table, exactly."""
        for worker in self.workers if workers is None else workers:
            for table in TABLES:
                wanted = expected.rows(table)
                try:
                    wait_for("exact", partial(holds, worker, table, wanted))
                except AssertionError:
                    wrong = difference(worker.rows(table), wanted)
                    log = worker.log()[-2_000:]
                    raise AssertionError(f"{table} at {worker.url}: {wrong}\n{log}") from None

    def check_closed(
        self,
        expected: Expected,
        results: Callable[[], list[Result]],
        may_be_open: Callable[[Result], bool] | None = None,
    ) -> None:
        """Each closed window stands once in the results, and no other does.

        ``may_be_open``: windows that are left out; by default the last one, which closes all others.
        """
        everything = expected.results()
        last = max(everything)

        def left_out(result: Result) -> bool:
            return may_be_open(result) if may_be_open is not None else result["window_start"] == last

        wanted = {start: result for start, result in everything.items() if not left_out(result)}

        def closed() -> list[Result]:
            return [result for result in results() if not left_out(result)]

        wait_for("all windows closed", lambda: len(closed()) >= len(wanted))
        found = closed()
        assert sorted(result["window_start"] for result in found) == sorted(wanted)
        assert {result["window_start"]: result for result in found} == wanted


def main_job() -> str:
    """The source of the main job."""
    return (ROOT / "agents" / "events.py").read_text()


class Cluster(Job):
    """On Kafka, under names of its own."""

    def __init__(self, kafka: str, folder: pathlib.Path) -> None:
        self.kafka = kafka
        self.id = f"events-{secrets.token_hex(4)}"
        self.topic, self.results = f"{self.id}-in", f"{self.id}-results"
        source = main_job()
        for name, ours in (("events", self.topic), ("window-results", self.results)):
            assert f'app.topic("{name}"' in source
            source = source.replace(f'app.topic("{name}"', f'app.topic("{ours}"')
        settings = {"id": self.id, "broker": f"kafka://{kafka}", "session_timeout_ms": "6000"}
        super().__init__(folder, source, **settings)
        create_topics(kafka, {self.topic: PARTITIONS, self.results: 1})

    def check(self, events: Events) -> None:
        self.check_rows(events.expected)

    def check_results(self, events: Events) -> None:
        self.check_closed(events.expected, self._results)

    def _results(self) -> list[dict[str, Any]]:
        return [json.loads(message.value or b"") for message in read_all(self.kafka, self.results)]


def holds(worker: WorkerProcess, table: str, wanted: Mapping[Row, Any]) -> bool:
    """Does the worker answer with exactly these rows?"""
    try:
        return worker.rows(table) == wanted
    except (AssertionError, OSError):  # partitions are moving
        return False
