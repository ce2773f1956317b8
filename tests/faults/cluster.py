"""What is done to a cluster of three brokers while events flow, and how long nothing came out meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError as AioKafkaError
from confluent_kafka import IsolationLevel, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from tests.faults.stage import JOB, LIMIT_S, Stage, url_of
from tests.faults.workload import PARTITIONS
from tests.integration.workers import ROOT, wait_for
from tests.support.kafka_cluster import FAILOVER_S, NODES, KafkaCluster

RATE = 300.0
FROZEN_S = 20.0
AWAY_S = 12.0  # longer than a fail-over
BETWEEN_S = 5.0
SPARE_S = 3.0
"""So much longer than the brokers' own fail-over may nothing come out."""
EACH_S = 0.1


@dataclass
class Scene:
    """Two workers on three brokers. ``fail_over_s``: how long these took to give up one of them, at most."""

    stage: Stage
    cluster: KafkaCluster
    fail_over_s: float = FAILOVER_S

    def leader(self) -> int:
        """The broker that leads the source's first partition."""
        return int(self.metadata().topics[self.stage.id].partitions[0].leader)

    def group_coordinator(self) -> int:
        return asyncio.run(coordinator_of(self.cluster.bootstrap, CoordinationType.GROUP, self.stage.id))

    def transaction_coordinator(self) -> int:
        """Of the first worker."""
        key = f"{self.stage.id}-{os.uname().nodename}-{self.stage.workers[0].port}"
        return asyncio.run(coordinator_of(self.cluster.bootstrap, CoordinationType.TRANSACTION, key))

    def wait_in_sync(self) -> None:
        """Until every partition has all its copies."""

        def whole() -> bool:
            with contextlib.suppress(KafkaException):
                topics = self.metadata().topics.values()
                return all(len(p.isrs) == len(NODES) for topic in topics for p in topic.partitions.values())
            return False

        wait_for("every copy is in sync", whole, LIMIT_S)

    def wait_given_up(self, node: int) -> None:
        """Whoever led the quorum besides takes longer: the next one gives each broker its whole time anew."""
        began_s = time.monotonic()
        self.cluster.wait_given_up(node)
        self.fail_over_s = max(self.fail_over_s, time.monotonic() - began_s)

    def metadata(self) -> Any:
        admin = AdminClient({"bootstrap.servers": self.cluster.bootstrap, "log_level": 0})
        return admin.list_topics(timeout=5)


async def coordinator_of(bootstrap: str, kind: CoordinationType, key: str) -> int:
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        while True:
            try:
                return int(await client.coordinator_lookup(kind, key))
            except AioKafkaError:
                await asyncio.sleep(0.2)
    finally:
        await client.close()


class Pauses(threading.Thread):
    """Looks how far the workers have committed: the longest time for which a partition did not move.

    They are asked over HTTP, for a client of the brokers has pauses of its own.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self._stage = stage
        self._ended = threading.Event()
        self._last: dict[str, tuple[str, float]] = {}
        self._longest_s = 0.0

    def run(self) -> None:
        while not self._ended.wait(0.1):
            with contextlib.suppress(OSError):
                told = self._stage.workers[0].get("/v1/tables/sums")
                for partition, position in told["position"].items():
                    self._note(partition, position, time.monotonic())

    def _note(self, partition: str, position: str, now_s: float) -> None:
        before, since_s = self._last.get(partition, (position, now_s))
        if position != before or partition not in self._last:
            self._longest_s = max(self._longest_s, now_s - since_s)
            self._last[partition] = position, now_s

    def end(self) -> float:
        """The longest pause, in seconds."""
        self._ended.set()
        self.join(30)
        return self._longest_s


class Reference(threading.Thread):
    """librdkafka's transactions on the same brokers: the longest time in which none of them was committed.

    A fail-over is over for transactions when their coordinator has loaded its log and their markers are
    written, which takes brokers longer than to elect leaders. Nobody can commit before.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self._brokers = stage.bootstrap
        self._topic = f"{stage.id}-reference"
        self._ended = threading.Event()
        self._last_s: float | None = None  # of its newest commit
        self._longest_s = 0.0

    @property
    def works(self) -> bool:
        return self._last_s is not None

    def run(self) -> None:
        admin = AdminClient({"bootstrap.servers": self._brokers, "log_level": 0})
        for made in admin.create_topics([NewTopic(self._topic, PARTITIONS, len(NODES))]).values():
            with contextlib.suppress(KafkaException):  # it is there since the trial before
                made.result()
        producer = self._producer()
        while not self._ended.wait(EACH_S):
            if self._commit(producer):
                self._longest_s = max(self._longest_s, self._since_s())
                self._last_s = time.monotonic()
            else:
                producer = self._producer()

    def _since_s(self) -> float:
        return 0.0 if self._last_s is None else time.monotonic() - self._last_s

    def _commit(self, producer: Producer) -> bool:
        """Of no use any more? Then it has committed nothing."""
        with contextlib.suppress(KafkaException):
            producer.begin_transaction()
            for partition in range(PARTITIONS):
                producer.produce(self._topic, b"reference", partition=partition)
            while not self._ended.is_set():
                try:
                    producer.commit_transaction(LIMIT_S)
                    return True
                except KafkaException as exc:
                    if not exc.args[0].retriable():
                        raise
        return False

    def _producer(self) -> Producer:
        name = f"{self._topic}-{secrets.token_hex(4)}"
        producer = Producer(
            {"bootstrap.servers": self._brokers, "transactional.id": name, "log_level": 0, "acks": "all"}
        )
        while not self._ended.is_set():
            with contextlib.suppress(KafkaException):
                producer.init_transactions(LIMIT_S)
                break
        return producer

    def end(self) -> float:
        """The longest pause, in seconds; the one that it is in counts as well."""
        self._ended.set()
        return max(self._longest_s, self._since_s())


def rolling_restart(scene: Scene) -> None:
    for node in NODES:
        scene.cluster.end(node)
        scene.cluster.launch(node)
        scene.wait_in_sync()


def _killed(scene: Scene, node: int) -> None:
    scene.cluster.kill(node)
    scene.wait_given_up(node)
    time.sleep(BETWEEN_S)
    scene.cluster.launch(node)


def kill_leader(scene: Scene) -> None:
    _killed(scene, scene.leader())


def kill_group_coordinator(scene: Scene) -> None:
    _killed(scene, scene.group_coordinator())


def kill_transaction_coordinator(scene: Scene) -> None:
    _killed(scene, scene.transaction_coordinator())


def kill_each(scene: Scene) -> None:
    """Whoever leads the quorum is among them."""
    for node in NODES:
        _killed(scene, node)
        scene.wait_in_sync()


def _frozen(scene: Scene, node: int) -> None:
    scene.cluster.freeze(node)
    began_s = time.monotonic()
    scene.wait_given_up(node)
    time.sleep(max(BETWEEN_S, FROZEN_S - (time.monotonic() - began_s)))
    scene.cluster.thaw(node)


def freeze_leader(scene: Scene) -> None:
    _frozen(scene, scene.leader())


def freeze_group_coordinator(scene: Scene) -> None:
    _frozen(scene, scene.group_coordinator())


def freeze_transaction_coordinator(scene: Scene) -> None:
    _frozen(scene, scene.transaction_coordinator())


def lose_min_isr(scene: Scene) -> None:
    """Two of three are down: nothing can be acknowledged, and no leader elected."""
    for node in (2, 3):
        scene.cluster.kill(node)
    time.sleep(AWAY_S)
    for node in (2, 3):
        scene.cluster.launch_only(node)
    scene.cluster.wait(NODES)


def kill_all(scene: Scene) -> None:
    for node in NODES:
        scene.cluster.kill(node)
    time.sleep(AWAY_S)
    for node in NODES:
        scene.cluster.launch_only(node)
    scene.cluster.wait(NODES)


def last_known_stays_away(scene: Scene) -> None:
    """The others come back while the last broker that workers knew of does not."""
    for node in NODES:
        scene.cluster.end(node)
        time.sleep(BETWEEN_S)
    for node in (1, 2):
        scene.cluster.launch_only(node)
    scene.cluster.wait((1, 2))
    scene.stage.settle()
    scene.cluster.launch(3)


@dataclass(frozen=True)
class Trial:
    """``lasts_s``: events flow for so long. ``fail_over``: others can take over, so pauses are bounded.

    ``holds_s``: so long a frozen broker may hold the end of a transaction. Its coordinator waits for the
    answer to the markers that it had sent there, up to the brokers' own request timeout of 30 s; until then
    it takes no other transaction of that id, and no reader goes past that one.
    """

    act: Callable[[Scene], None]
    lasts_s: float
    fail_over: bool = True
    holds_s: float = 0.0


TRIALS: Mapping[str, Trial] = {
    "rolling restart": Trial(rolling_restart, 40),
    "leader killed": Trial(kill_leader, 25),
    "min ISR lost": Trial(lose_min_isr, 20, fail_over=False),
    "group coordinator killed": Trial(kill_group_coordinator, 25),
    "transaction coordinator killed": Trial(kill_transaction_coordinator, 25),
    "each killed": Trial(kill_each, 70),
    "leader frozen": Trial(freeze_leader, 30, holds_s=FROZEN_S),
    "group coordinator frozen": Trial(freeze_group_coordinator, 30, holds_s=FROZEN_S),
    "transaction coordinator frozen": Trial(freeze_transaction_coordinator, 30, holds_s=FROZEN_S),
    "all killed": Trial(kill_all, 20, fail_over=False),
    "last known stays away": Trial(last_known_stays_away, 25, fail_over=False),
}


def play(scene: Scene, name: str, *, timed: bool = False) -> str | None:
    """Events flow, the brokers have their trouble, and everything is exact. Tells of a pause too long.

    ``timed``: beside another client's, which shows how long brokers themselves took.
    """
    trial, stage = TRIALS[name], scene.stage
    scene.wait_in_sync()
    scene.fail_over_s = FAILOVER_S
    feeder = stage.feed(int(trial.lasts_s * RATE), RATE)
    wait_for("events flow", lambda: len(feeder.acknowledged()) > RATE, LIMIT_S)
    pauses = Pauses(stage)
    pauses.start()
    reference = Reference(stage)
    if timed:
        reference.start()
        wait_for("librdkafka's transactions are committed", lambda: reference.works, LIMIT_S)
    lines = log_lines(stage)
    trial.act(scene)
    stage.settle()
    stage.feeder_done()
    try:
        stage.check()
    except AssertionError as exc:
        raise AssertionError(f"{name}: {ends_of(scene, f'{stage.id}-out')}\n{exc}") from exc
    pause_s, told = pauses.end(), log_lines(stage) - lines
    if not timed:
        return None
    theirs_s = reference.end()
    figures = f"pause {pause_s:.1f} s, fail-over {scene.fail_over_s:.1f} s, librdkafka's {theirs_s:.1f} s"
    print(f"{name}: {figures}, {told} log lines", flush=True)
    if trial.fail_over and pause_s > max(scene.fail_over_s, trial.holds_s, theirs_s) + SPARE_S:
        return f"{name}: {figures}"
    return None


def ends_of(scene: Scene, topic: str) -> str:
    """Where committed records end, and where all do: they differ while a transaction is open."""
    admin = AdminClient({"bootstrap.servers": scene.cluster.bootstrap, "log_level": 0})
    found = []
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        asked = {TopicPartition(topic, p): OffsetSpec.latest() for p in range(PARTITIONS)}
        told = admin.list_offsets(asked, isolation_level=level, request_timeout=10)
        found.append({at.partition: future.result().offset for at, future in told.items()})
    leaders = {p: at.leader for p, at in scene.metadata().topics[topic].partitions.items()}
    return f"{topic} ends at {found[0]} of {found[1]}, led by {leaders}"


def log_lines(stage: Stage) -> int:
    """Of all workers."""
    return sum(worker.log().count("\n") for worker in stage.workers)


def verify(stage: Stage) -> Iterator[str]:
    """What ``streamflow verify`` says of each table that it finds wrong."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STREAMFLOW_")}
    settings = {**stage.workers[0].settings, "broker": url_of(stage.bootstrap)}
    environ |= {f"STREAMFLOW_{name.upper()}": value for name, value in settings.items()}
    environ["PYTHONPATH"] = f"{JOB.parent}{os.pathsep}{ROOT}"
    for table in ("sums", "by_group"):
        command = [sys.executable, "-m", "streamflow.cli", "verify", "-A", JOB.stem, table]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        if done.returncode != 0:
            yield f"{table}: {done.stdout[-2_000:]}{done.stderr[-2_000:]}"
