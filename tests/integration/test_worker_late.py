"""Two workers on a real broker: late events listed, applied over a kill, and the table recounted."""

from __future__ import annotations

import json
import os
import pathlib
import secrets
import subprocess
import sys
from typing import Any

from confluent_kafka import Producer

from tests.integration.workers import ROOT, T0_MS, WorkerProcess, create_topics, wait_for

APP = """
from streamflow import App, Count, Event, Key, Sum, TumblingWindow

app = App("late")
events = app.topic("{topic}", key_type=str, value_type=Event)
window = TumblingWindow(size_s=10, grace_s=5, idle_close_s=None)
by_user = app.aggregate("by_user", events, by=Key(), window=window, values=Count())
by_shop = app.aggregate(
    "by_shop", events, by="data.shop", window=window, values={{"n": Count(), "spent": Sum("data.n")}},
    emit_closed="{topic}-closed",
)
"""
LATE = 3  # for each partition


def streamflow(worker: WorkerProcess, *arguments: str, code: int = 0) -> Any:
    """What a command prints with ``--json``."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMFLOW_")}
    environ |= {f"STREAMFLOW_{name.upper()}": value for name, value in worker.settings.items()}
    environ["PYTHONPATH"] = f"{worker.module.parent}{os.pathsep}{ROOT}"
    command, *rest = arguments
    start = "from streamflow.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, command, "-A", worker.module.stem, *rest, "--json"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr[-2_000:])
    return json.loads(done.stdout)


def test_late_events_are_applied_once_over_a_kill_and_the_recount_agrees(
    kafka: str, tmp_path: pathlib.Path
) -> None:
    topic, app_id = f"late-{secrets.token_hex(4)}", f"late-{secrets.token_hex(4)}"
    create_topics(kafka, {topic: 2})
    module = tmp_path / "late_under_test.py"
    module.write_text(APP.format(topic=topic))
    workers = [
        WorkerProcess(
            module,
            tmp_path / f"worker-{number}.log",
            id=app_id,
            broker=f"kafka://{kafka}",
            session_timeout_ms="6000",
        )
        for number in range(2)
    ]
    producer = Producer({"bootstrap.servers": kafka})
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait_ready()
        for partition in range(2):
            for at_ms in [1, 2, 3, 60_000] + [4] * LATE:
                event = {"id": "1", "type": "x", "timestamp": T0_MS + at_ms, "data": {"shop": "a", "n": 2}}
                producer.produce(topic, json.dumps(event), b"k%d" % partition, partition)
        producer.flush(10)

        def late() -> list[Any]:
            body = workers[0].get("/v1/tables/by_shop/late")
            return [] if body["partial"] else body["late"]

        listed = wait_for("all that is late is listed", lambda: late() if len(late()) == 2 * LATE else [])
        assert {event["key"] for event in listed} == {"a"}
        assert sorted((event["partition"], event["offset"]) for event in listed) == [
            (partition, str(offset)) for partition in range(2) for offset in (4, 5, 6)
        ]
        url = ("--url", workers[0].url)
        assert len(streamflow(workers[0], "late", "by_shop", *url)["late"]) == 2 * LATE
        assert streamflow(workers[0], "late", "by_shop", "--apply", *url)["applied"] == 2 * LATE
        workers[1].kill()
        row = ("a", T0_MS)
        exact = {"n": 6 + 2 * LATE, "spent": 2 * (6 + 2 * LATE)}
        wait_for("the rows count them", lambda: workers[0].status("/v1/tables/by_shop/keys/a") == 200)
        wait_for("each once", lambda: _rows(workers[0]).get(row) == (exact, "revised"))
        # The row may lie in a partition that the survivor had all along: it has yet to take over the other.
        wait_for("it has taken over", lambda: not workers[0].get("/v1/tables/by_shop/late")["partial"])
        assert streamflow(workers[0], "late", "by_shop", "--apply", *url)["applied"] == 0
        for table in ("by_shop", "by_user"):
            report = streamflow(workers[0], "verify", table)
            assert report["ok"], report
            assert report["rows"] > 0
            assert [count["counters"]["in"] for count in report["partitions"]] == [4 + LATE] * 2
    finally:
        for worker in workers:
            worker.end()


def _rows(worker: WorkerProcess) -> dict[Any, Any]:
    try:
        body = worker.get("/v1/tables/by_shop/rows")
    except OSError:  # partitions are moving
        return {}
    starts = {"2025-10-09T08:53:20Z": T0_MS}
    return {
        (row["key"], starts.get(row["window"]["start"])): (row["value"], row["window"]["state"])
        for row in body["rows"]
    }
