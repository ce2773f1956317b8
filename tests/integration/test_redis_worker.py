"""The main job on a real redis-server: plain XADD in, exact counts out, whatever is killed or frozen.

Nothing here speaks through the transport: events are written, lag and results read, as redis-cli would.
"""

from __future__ import annotations

import json
import pathlib
import random
import secrets
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamflow.clock import rfc3339
from streamflow.partitioner import fnv1a
from tests.integration.job import TABLES, holds
from tests.integration.workers import (
    PARTITIONS,
    PAUSE_MS,
    ROOT,
    T0_MS,
    TYPES,
    WINDOW_MS,
    Expected,
    WorkerProcess,
    difference,
    wait_for,
)
from tests.support.redis_server import RedisServer

USERS = [f"user-{n}" for n in range(200)]


class RedisJob:
    """``agents/events.py`` with stream names of its own on one server, and a producer of plain entries."""

    def __init__(self, server: RedisServer, folder: pathlib.Path) -> None:
        self.id = f"events-{secrets.token_hex(4)}"
        self.redis: Any = server.client()
        self.expected = Expected()
        self.workers: list[WorkerProcess] = []
        self.server = server
        self._folder = folder
        self._random = random.Random(1)
        self._number = 0
        self._last_ms = T0_MS

    def start(self, **settings: str) -> WorkerProcess:
        """One worker more; it is not ready yet."""
        ours = {
            "id": self.id,
            "broker": self.server.url,
            "redis_stream_name": f"{self.id}.{{topic}}:{{partition}}",
            "redis_key_prefix": self.id,
            "session_timeout_ms": "3000",
        }
        worker = WorkerProcess(
            ROOT / "agents" / "events.py",
            self._folder / f"worker-{len(self.workers)}.log",
            **(ours | settings),
        )
        # The module is agents.events, not a file on the path.
        worker.module = _Module(ROOT / "agents", "agents.events")  # type: ignore[assignment]
        self.workers.append(worker)
        worker.start()
        return worker

    def stream(self, partition: int, topic: str = "events") -> str:
        return f"{self.id}.{topic}:{partition}"

    def send(self, count: int, *, span_ms: int) -> None:
        """Half of the events as field maps, as one types them, half as JSON in ``v``."""
        first_ms = self._last_ms - self._last_ms % WINDOW_MS + PAUSE_MS
        for start in range(0, count, 1_000):
            pipeline = self.redis.pipeline(transaction=False)
            for n in range(start, min(count, start + 1_000)):
                self._last_ms = first_ms + n * span_ms // count
                self._add(pipeline, self._random.choice(USERS), self._random.choice(TYPES))
            pipeline.execute()

    def finish(self) -> None:
        """One event for each partition, long after the others: every window before it closes."""
        self._last_ms += PAUSE_MS
        for partition in range(PARTITIONS):
            user = next(u for u in USERS if fnv1a(u.encode(), PARTITIONS) == partition)
            self._add(self.redis, user, "last")

    def _add(self, redis: Any, user: str, kind: str) -> None:
        self._number += 1
        fields: dict[str, Any] = {"type": kind, "timestamp": rfc3339(self._last_ms)}
        if self._number % 2:
            fields |= {"key": user, "amount": 7}
        else:
            event = {"id": str(self._number), **fields, "data": {"user": user}}
            fields = {"v": json.dumps(event), "k": user}
        redis.xadd(self.stream(fnv1a(user.encode(), PARTITIONS)), fields)
        self.expected.add(user, kind, self._last_ms)

    def check(self) -> None:
        """Every worker that runs answers with every row of every table, exactly."""
        for worker in [w for w in self.workers if w.running()]:
            for table in TABLES:
                wanted = self.expected.rows(table)
                try:
                    wait_for("exact", lambda w=worker, t=table, rows=wanted: holds(w, t, rows))  # type: ignore[misc]
                except AssertionError:
                    found = worker.rows(table)
                    raise AssertionError(
                        f"{table}: {difference(found, wanted)}\n{worker.log()[-2_000:]}"
                    ) from None

    def results(self) -> list[dict[str, Any]]:
        entries = self.redis.xrange(self.stream(0, "window-results"))
        return [json.loads(fields[b"v"]) for _, fields in entries]

    def check_results(self) -> None:
        """Each closed window stands once in the results, and no other does."""
        wanted = self.expected.results()
        last = max(wanted)
        del wanted[last]
        wait_for("all windows closed", lambda: len(self.results()) >= len(wanted))
        found = [result for result in self.results() if result["window_start"] != last]
        assert sorted(result["window_start"] for result in found) == sorted(wanted)
        assert {result["window_start"]: result for result in found} == wanted

    def lags(self) -> list[int | None]:
        groups = [self.redis.xinfo_groups(self.stream(p)) for p in range(PARTITIONS)]
        return [group["lag"] for partition in groups for group in partition]


class _Module:
    """What `WorkerProcess` asks of a module's file."""

    def __init__(self, parent: pathlib.Path, stem: str) -> None:
        self.parent = parent
        self.stem = stem


@pytest.fixture
def job(make_redis: Callable[..., RedisServer], tmp_path: pathlib.Path) -> Iterator[RedisJob]:
    job = RedisJob(make_redis(appendonly="everysec"), tmp_path)
    yield job
    for worker in job.workers:
        worker.end()
    job.redis.close()


def test_workers_killed_and_frozen_in_the_middle_cost_no_count(job: RedisJob) -> None:
    first, second = job.start(), job.start()
    first.wait_ready()
    second.wait_ready()
    job.send(20_000, span_ms=60_000)
    wait_for("some of it is counted", lambda: first.metric("streamflow_records_total") > 1_000)
    first.kill()
    job.send(20_000, span_ms=60_000)
    first.start()
    first.wait_ready()
    # Frozen past its lease: the other has its partitions meanwhile, and what it does when it wakes is void.
    second.tell(signal.SIGSTOP)
    job.send(20_000, span_ms=60_000)
    wait_for(
        "the other has all", lambda: len(first.get("/v1/tables/events_by_user/rows?limit=1")["lag"]) == 6
    )
    second.tell(signal.SIGCONT)
    job.send(10_000, span_ms=60_000)
    job.finish()
    job.check()
    job.check_results()
    wait_for("the groups stand at the end", lambda: job.lags() == [0] * PARTITIONS)

    # A clean stop of both, and a start: nothing is lost, nothing is written again.
    assert [worker.stop() for worker in (first, second)] == [0, 0]
    first.start()
    first.wait_ready()
    job.check()
    job.check_results()


def test_xinfo_groups_tells_how_far_behind_a_stopped_app_is(job: RedisJob) -> None:
    worker = job.start()
    worker.wait_ready()
    job.send(3_000, span_ms=20_000)
    wait_for("nothing is left", lambda: job.lags() == [0] * PARTITIONS)
    assert worker.stop() == 0
    before = sum(job.redis.xlen(job.stream(p)) for p in range(PARTITIONS))
    job.send(700, span_ms=20_000)
    after = sum(job.redis.xlen(job.stream(p)) for p in range(PARTITIONS))
    assert sum(lag or 0 for lag in job.lags()) == after - before == 700


FAILING = """
import streamflow
from streamflow import App, Event, Retry

app = App("failing")
events = app.topic("events", key_type=str, value_type=Event, partitions=1)

@app.agent(events, retry=Retry(attempts=4, first_wait_s=1.0, jitter=False))
async def handle(stream):
    async for event in stream:
        if event.type == "poison":
            raise ValueError("it can't be done")
"""


def test_a_failure_is_pending_with_its_attempts_until_it_is_dead_lettered(
    job: RedisJob, tmp_path: pathlib.Path
) -> None:
    module = tmp_path / "failing_job.py"
    module.write_text(FAILING)
    settings = {
        "id": job.id,
        "broker": job.server.url,
        "redis_stream_name": f"{job.id}.{{topic}}:{{partition}}",
    }
    worker = WorkerProcess(module, tmp_path / "failing.log", **settings)
    job.workers.append(worker)
    worker.start()
    worker.wait_ready()
    job.redis.xadd(job.stream(0), {"type": "fine"})
    poison = job.redis.xadd(job.stream(0), {"type": "poison", "key": "ann"})
    job.redis.xadd(job.stream(0), {"type": "fine"})

    def attempts() -> list[tuple[bytes, int]]:
        pending = job.redis.xpending_range(job.stream(0), job.id, "-", "+", 10)
        return [(entry["message_id"], entry["times_delivered"]) for entry in pending]

    wait_for("it is pending", lambda: attempts() == [(poison, 1)])
    wait_for("it is tried again", lambda: attempts() == [(poison, 2)])
    wait_for("it is dead-lettered", lambda: job.redis.xlen(job.stream(0, "events-dead-letters")) == 1)
    wait_for("nothing is pending", lambda: attempts() == [])
    ((_, letter),) = job.redis.xrange(job.stream(0, "events-dead-letters"))
    assert json.loads(letter[b"v"])["type"] == "poison"
    assert ["source-offset", str(_offset(poison))] in json.loads(letter[b"h"])
    (group,) = job.redis.xinfo_groups(job.stream(0))
    assert (group["lag"], group["pending"]) == (0, 0)


def _offset(entry_id: bytes) -> int:
    ms, sequence = entry_id.split(b"-")
    return int(ms) << 20 | int(sequence)


def test_a_takeover_reads_nothing_again(job: RedisJob) -> None:
    first, second = job.start(), job.start()
    first.wait_ready()
    second.wait_ready()
    job.send(5_000, span_ms=60_000)
    job.check()
    for worker in (first, second):
        assert worker.metric("streamflow_standby_partitions") == PARTITIONS / 2
        wait_for("it follows", lambda w=worker: w.metric("streamflow_standby_records_behind") == 0)  # type: ignore[misc]
    before = second.metric("streamflow_restored_records_total")
    first.kill()
    wait_for("the other has it all", lambda: second.metric("streamflow_partitions_kept_total") >= PARTITIONS)
    job.check()
    assert second.metric("streamflow_restored_records_total") == before
    job.send(2_000, span_ms=20_000)
    job.check()
