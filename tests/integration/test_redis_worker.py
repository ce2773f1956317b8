"""The main job on a real redis-server: plain XADD in, exact counts out, whatever is killed or frozen.

Nothing here speaks through the transport: events are written, lag and results read, as redis-cli would.
"""

from __future__ import annotations

import json
import pathlib
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.integration.redis_job import NamedRedisJob
from tests.integration.workers import (
    PARTITIONS,
    WorkerProcess,
    wait_for,
)
from tests.support.redis_server import RedisServer


@pytest.fixture
def job(make_redis: Callable[..., RedisServer], tmp_path: pathlib.Path) -> Iterator[NamedRedisJob]:
    job = NamedRedisJob(make_redis(appendonly="everysec"), tmp_path)
    yield job
    job.end()


def test_workers_killed_and_frozen_in_the_middle_cost_no_count(job: NamedRedisJob) -> None:
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


def test_xinfo_groups_tells_how_far_behind_a_stopped_app_is(job: NamedRedisJob) -> None:
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
    job: NamedRedisJob, tmp_path: pathlib.Path
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


def test_a_takeover_reads_nothing_again(job: NamedRedisJob) -> None:
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


def test_a_stream_that_is_deleted_and_filled_again_is_read_on_under_a_worker_and_without_one(
    job: NamedRedisJob,
) -> None:
    streams = [job.stream(partition) for partition in range(PARTITIONS)]
    worker = job.start()
    worker.wait_ready()
    job.send(5_000, span_ms=60_000)
    job.check()
    job.redis.delete(*streams)
    job.send(3_000, span_ms=60_000)
    job.check()
    assert worker.stop() == 0
    job.redis.delete(*streams)
    job.send(3_000, span_ms=60_000)
    worker.start()
    worker.wait_ready()
    job.finish()
    job.check()
    job.check_results()

    # Empty, it may as well be a server that has lost what it had: nobody goes on from there unasked.
    assert worker.stop() == 0
    job.redis.delete(streams[0])
    worker.start()
    assert worker.wait(30) != 0
    assert "the stream was deleted" in worker.log()
