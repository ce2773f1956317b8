"""Servers that are killed, lose their newest writes, fail over or fill up, under workers that count."""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tests.integration.redis_job import RedisJob
from tests.integration.workers import PARTITIONS, WorkerProcess, wait_for
from tests.support.redis_server import FLAVOURS, LOOPBACK, RedisServer, SentinelServer

MakeServer = Callable[..., RedisServer]
MakeJob = Callable[..., RedisJob]
ROUNDS = int(os.environ.get("STREAMFLOW_REDIS_ROUNDS", "4"))


@pytest.fixture
def make_job(tmp_path: pathlib.Path) -> Iterator[MakeJob]:
    jobs: list[RedisJob] = []

    def make(server: RedisServer, **settings: Any) -> RedisJob:
        connect = settings.pop("connect", server.client)
        job = RedisJob(tmp_path, settings.pop("broker", server.url), connect, **settings)
        jobs.append(job)
        return job

    yield make
    for job in jobs:
        job.end()


def started(job: RedisJob, count: int) -> list[WorkerProcess]:
    workers = [job.start() for _ in range(count)]
    for worker in workers:
        worker.wait_ready()
    return workers


def counting(worker: WorkerProcess, number: int = 500) -> None:
    wait_for("some of it is counted", lambda: worker.metric("streamflow_records_total") > number)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_server_killed_under_workers_costs_nothing_with_appendfsync_always(
    make_redis: MakeServer, make_job: MakeJob, flavour: str
) -> None:
    server = make_redis(flavour=flavour, appendonly="always")
    job = make_job(server)
    first, second = started(job, 2)
    for _ in range(2):
        job.send(10_000)
        counting(first)
        server.kill()
        server.start()
    job.send(5_000)
    job.finish()
    assert job.lost() == 0
    job.check()
    assert first.running()
    assert second.running()


def cut_tail(server: RedisServer, part: float) -> None:
    """What a power cut does under everysec: the newest writes of a dead server are gone."""
    (newest,) = (server.directory / "appendonlydir").glob("*.incr.aof")
    with newest.open("r+b") as file:
        file.truncate(int(newest.stat().st_size * (1 - part)))


@pytest.mark.parametrize("part", [0.02, 0.6])
def test_writes_that_the_server_has_lost_stop_its_workers_with_the_reason_and_the_rest_is_exact(
    make_redis: MakeServer, make_job: MakeJob, part: float
) -> None:
    server = make_redis(appendonly="everysec")
    job = make_job(server)
    (worker,) = started(job, 1)
    job.send(10_000)
    wait_for("all is counted", lambda: job.lags() == [0] * PARTITIONS)
    server.pause()  # it takes no checkpoint more between the cut and the start
    server.kill()
    cut_tail(server, part)
    server.start()
    assert job.lost() > 0 or part < 0.5  # the least of the cuts may take checkpoints only
    job.send(100)  # a worker that has nothing to commit need not notice
    assert worker.wait(60) != 0
    assert "lost" in worker.log()[-5_000:].lower()

    # What is left is one whole: its counts are those of the events that are left.
    worker.start()
    worker.wait_ready()
    job.send(2_000)
    job.finish()
    job.check()


@pytest.mark.parametrize("store", ["memory://", "rocksdb://"])
@pytest.mark.parametrize("policy", ["stop", "restart"])
def test_a_server_that_is_emptied_under_traffic_stops_its_workers_or_they_begin_anew(
    make_redis: MakeServer, make_job: MakeJob, policy: str, store: str
) -> None:
    server = make_redis()
    job = make_job(server, on_lost_writes=policy, store=store)
    workers = started(job, 2)
    job.send(5_000)
    counting(workers[0])
    with contextlib.closing(server.client()) as client:
        client.flushall()
    if policy == "stop":
        for worker in workers:
            assert worker.wait(60) != 0
            assert "has lost writes" in worker.log()
            worker.start()
    else:
        for worker in workers:
            wait_for("it has begun anew", lambda w=worker: "beginning anew" in w.log(), 60)  # type: ignore[misc]
    for worker in workers:
        worker.wait_ready()
    job.send(3_000)
    job.finish()
    job.check()  # of what came after: the rows of before are nowhere, also where a disk kept them
    assert all(worker.running() for worker in workers)


def test_a_failover_to_a_replica_loses_no_checkpoint_that_it_had(
    make_redis: MakeServer, make_job: MakeJob
) -> None:
    master = make_redis()
    replica = make_redis(replica_of=master)
    with SentinelServer(master) as sentinel:

        def connect() -> redis.Redis:
            host, port = sentinel.master()
            return redis.Redis(host=host, port=port)

        job = make_job(
            master,
            connect=connect,
            broker=f"redis://{LOOPBACK}:{sentinel.port}",
            redis_sentinel_service=sentinel.service,
            redis_wait_replicas="1",
        )
        first, second = started(job, 2)
        job.send(8_000)
        counting(first)
        with contextlib.closing(master.client()) as client:
            assert client.wait(1, 10_000) == 1  # what was sent is on the replica
        master.kill()
        wait_for("the replica is master", lambda: sentinel.master()[1] == replica.port, 30)
        with contextlib.closing(replica.client()) as client:
            wait_for("it takes writes", lambda: client.role()[0] == b"master", 30)
            client.config_set("min-replicas-to-write", 0)
        assert job.lost() == 0
        # There is no replica any more to wait for: workers that insist can't go on.
        for worker in (first, second):
            worker.end()
            worker.settings["redis_wait_replicas"] = "0"
            worker.start()
        for worker in (first, second):
            worker.wait_ready()
        job.send(4_000)
        job.finish()
        job.check()


def test_a_full_server_stops_progress_and_costs_nothing(make_redis: MakeServer, make_job: MakeJob) -> None:
    server = make_redis(appendonly="everysec")
    job = make_job(server)
    (worker,) = started(job, 1)
    job.send(2_000)
    wait_for("all is counted", lambda: job.lags() == [0] * PARTITIONS)
    with contextlib.closing(server.client()) as client:
        # Room for events, and hardly any for what comes of them.
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 1_500_000)
        refused = job.send(30_000)
        assert refused > 0
        wait_for("it is told", lambda: "memory is full" in worker.log())
        assert worker.running()
        client.config_set("maxmemory", 0)
    job.send(2_000)
    job.finish()
    assert job.lost() == 0
    job.check()


@pytest.mark.parametrize("seed", range(1))
def test_rounds_of_kills_of_workers_and_server_end_in_exact_sums(
    make_redis: MakeServer, make_job: MakeJob, seed: int
) -> None:
    rng = random.Random(seed)
    server = make_redis(flavour="valkey", appendonly="always")
    job = make_job(server, seed=seed)
    workers = started(job, 2)
    for _ in range(ROUNDS):
        job.send(rng.randint(500, 3_000))
        victim = rng.choice(workers)
        act = rng.choice(["kill", "kill at once", "freeze", "server", "everything"])
        if act == "freeze":
            victim.tell(signal.SIGSTOP)
            other = next(worker for worker in workers if worker is not victim)
            wait_for("its lease is over", lambda w=other: owns_all(w))  # type: ignore[misc]
            job.send(1_000)
            victim.tell(signal.SIGCONT)
        if act in ("kill", "kill at once", "everything"):
            if act == "kill":
                counting(victim, 0)
            victim.kill()
        if act in ("server", "everything"):
            server.kill()
            server.start()
        for worker in workers:
            if not worker.running():
                worker.start()
        for worker in workers:
            worker.wait_ready()
    job.finish()
    assert job.lost() == 0
    job.check()
    wait_for("the groups stand at the end", lambda: job.lags() == [0] * PARTITIONS)


def owns_all(worker: WorkerProcess) -> bool:
    """Whether its answer holds every partition, and none comes from a peer that does not answer."""
    with contextlib.suppress(OSError, AssertionError):
        page = worker.get("/v1/tables/events_by_user/rows?limit=1")
        return not page["partial"] and len(page["position"]) == PARTITIONS
    return False
