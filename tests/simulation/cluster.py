"""Workers as simulated processes: real engines over the memory transport, and what the world does to them."""

from __future__ import annotations

import asyncio
import contextvars
import operator
import random
from bisect import bisect_left
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from streamflow.aggregates import Count, CountBy
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.engine.engine import Engine
from streamflow.engine.retry_topics import waiting
from streamflow.metrics import Metrics
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.event_stream import EventStream
from streamflow.processing.retries import Retry, Uniform
from streamflow.settings import Settings
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TableSpec
from streamflow.testing import SimulationLoop
from streamflow.transports.base import Record, TopicSpec
from streamflow.transports.memory import Client, Faults, MemoryBroker, MemoryTransport
from streamflow.windows import TumblingWindow
from tests.simulation.codecs import source, type_of
from tests.simulation.scenario import (
    ECHO,
    ECHO_BATCHES,
    ECHO_LATER,
    ECHO_MANY,
    EVENTS,
    GRACE_MS,
    MOVING,
    RETAIN_MS,
    RETRY_WAITS_S,
    SIZE_MS,
    SOURCES,
    Scenario,
    SimEvent,
    moving_window,
)
from tests.support.loop_clock import LoopClock

APP = "app"
LETTERS = f"{EVENTS}-dead-letters"
RETRY_TOPICS = [step.topic for step in Retry(topics_s=RETRY_WAITS_S).steps(EVENTS)]
SESSION_MS = 1_000.0
TRANSACTION_MS = 1_500.0
STOP_LIMIT_S = 20.0
# A tombstone is kept for so long (delete.retention.ms); a store that was last up to date so long ago is not
# read on. A worker may be frozen for what lies between them.
TOMBSTONE_MS, STORE_AGE_S = 9_000.0, 3.5
READ_MS = 4_000.0  # in which whoever reads a log from its beginning comes to its end
MOVABLE_MAX = 4  # live workers at any time
ADDED = frozenset({"by_key", "by_type", "sessions", "slides", "batches", "many", "later"})
"""What a new release of the app declares beside the rest, in the worlds that have one."""


@dataclass(frozen=True)
class SeededRetry(Retry):
    """Its waits are drawn from the scenario's own chance, so that a seed replays them too."""

    dice: random.Random = field(default_factory=lambda: random.Random(0), compare=False)

    def wait_ms(self, attempt: int, rng: Uniform = random) -> float:
        return super().wait_ms(attempt, self.dice)


class Hopeless(Exception):
    """What the agent raises for an event that it can't handle."""


class Worker:
    """One simulated process: an engine with everything that the app declares."""

    def __init__(self, cluster: Cluster, slot: str, number: int) -> None:
        self.slot = slot
        self.owner = f"{slot}#{number}"
        self.released = cluster.is_released()
        self.frozen = False
        self.stopping = False
        self.client = MemoryTransport(
            cluster.broker, APP, slot, cluster.clock, standby_replicas=cluster.standby_replicas
        )
        trouble = cluster.scenario.trouble
        settings = Settings(
            id=APP,
            commit_interval=trouble.commit_interval_s,
            fetch_wait_ms=100,
            store_age_max_s=STORE_AGE_S,
        )
        self.engine = Engine(settings, self.client, cluster.clock)
        cluster.metrics.append(self.engine.metrics)
        self._cluster = cluster
        self._failed_once: set[tuple[str, str]] = set()
        self._random = cluster.scenario.dice(f"agent {self.owner}")
        self._declare(trouble.idle_close_s)

    def _declare(self, idle_close_s: float | None) -> None:
        window = TumblingWindow(
            SIZE_MS / 1_000, grace_s=GRACE_MS / 1_000, retain_s=RETAIN_MS / 1_000, idle_close_s=idle_close_s
        )
        events = source()
        self.engine.topology.topics.want(ECHO, SOURCES)
        self.table = self.engine.topology.add_table(
            TableSpec("by_user", window, RowCodec(window), "", 0), lambda: 0, lambda key: key.encode()
        )
        dice = self._cluster.scenario.dice(f"retry {self.owner}")
        retry = SeededRetry(attempts=2, first_wait_s=0.01, wait_max_s=0.02, dice=dice)
        self.engine.topology.add_agent(AgentSpec("count", EVENTS, self._count, retry, LETTERS), events)
        self.extra: dict[str, AgentTable] = {}
        for name in filter(self._has, self._cluster.scenario.trouble.extra):
            self._declare_extra(name, window, retry)
        if self._cluster.scenario.trouble.later and self._has("later"):
            self._declare_later(dice)
        counts = {"total_events": Count(), "event_types": CountBy(type_of)}
        for name, by, values in (
            ("by_key", Key(), RowFunctions(Count())),
            ("by_type", type_of, RowFunctions(Count())),
            ("totals", None, RowFunctions(counts)),
        ):
            if not self._has(name):
                continue
            self.engine.topology.add_aggregate(
                AggregateSpec(name, EVENTS, by, window, values, emit_closed=f"{name}-closed"), events
            )

        for name in filter(self._has, MOVING):
            by = Key() if name.startswith("key_") else type_of
            spec = AggregateSpec(
                name,
                EVENTS,
                by,
                moving_window(name, idle_close_s),
                RowFunctions(Count()),
                emit_closed=f"{name}-closed",
            )
            self.engine.topology.add_aggregate(spec, events)

    def _has(self, name: str) -> bool:
        """Does this release of the app declare it?"""
        return self.released or name not in ADDED

    def _declare_extra(self, name: str, window: TumblingWindow, retry: Retry) -> None:
        """An agent on the concurrent path, with a table of its own."""
        self.engine.topology.topics.want(f"echo-{name}", SOURCES)
        self.extra[name] = self.engine.topology.add_table(
            TableSpec(f"by_user_{name}", window, RowCodec(window), "", 0), lambda: 0, lambda key: key.encode()
        )
        if name == "many":
            # One row of each partition that all coroutines write: they come in each other's way.
            self.shared = self.engine.topology.add_table(
                TableSpec("shared", None, RowCodec(None), "", 0), lambda: 0, lambda key: key.encode()
            )
            spec = AgentSpec("many", EVENTS, self._many, retry, LETTERS, concurrency=3, start="earliest")
        else:
            spec = AgentSpec("batches", EVENTS, self._in_batches, retry, LETTERS, start="earliest")
        self.engine.topology.add_agent(spec, source())

    def _declare_later(self, dice: random.Random) -> None:
        """An agent whose events go on to retry topics, with a table of its own; on one path or the other."""
        self.engine.topology.topics.want(ECHO_LATER, SOURCES)
        self.extra["later"] = self.engine.topology.add_table(
            TableSpec("by_user_later", None, RowCodec(None), "", 0), lambda: 0, lambda key: key.encode()
        )
        retry = SeededRetry(attempts=1, topics_s=RETRY_WAITS_S, dice=dice)
        path = self._cluster.scenario.dice("path of later").choice((1, 3))
        spec = AgentSpec("later", EVENTS, self._later, retry, LETTERS, concurrency=path, start="earliest")
        self.engine.topology.add_agent(spec, source())

    async def _later(self, stream: EventStream) -> None:
        async for chunk, index in stream.refs():
            assert chunk.events is not None
            event = self._cluster.sent[chunk.events[index]["id"]]
            stage = 0 if chunk.topic == EVENTS else 1 + RETRY_TOPICS.index(chunk.topic)
            if chunk.headers is not None and (due := waiting(chunk.headers[index])) is not None:
                assert due.due_ms <= self._cluster.clock.now_ms(), f"{event.id} comes before it is due"
            self.extra["later"].change(chunk.keys[index], operator.add, 1)
            value = event.id.encode()
            await self.engine.send(Record(ECHO_LATER, event.partition, event.user.encode(), value))
            await self._dawdle(0.1)
            if event.fails_in(stage):
                raise Hopeless(event.id)

    async def _many(self, stream: EventStream) -> None:
        """Three of these run at once, some of their events slow."""
        async for unit in stream.concurrent().each():
            event, key = unit.values[0], unit.keys[unit.position]
            self.shared.change(key="all", operator=operator.add, operand=1)
            await self._dawdle(0.3)
            self.extra["many"].change(key, operator.add, 1)
            await self._finish(event, ECHO_MANY, key)

    async def _in_batches(self, stream: EventStream) -> None:
        async for unit, batch in stream.concurrent().batches(4, 200.0):
            for event in batch:
                key = unit.keys[unit.position]
                self.extra["batches"].change(key, operator.add, 1)
                await self._finish(event, ECHO_BATCHES, key)
            await self._dawdle(0.2)

    async def _dawdle(self, chance: float) -> None:
        if self._random.random() < chance:
            await self._cluster.clock.sleep_ms(self._random.uniform(0, 300))

    async def _finish(self, event: dict[str, Any], topic: str, key: str) -> None:
        """Sends, and then may fail with the event in flight."""
        fate, partition = self._cluster.known[event["id"]]
        await self.engine.send(Record(topic, partition, key.encode(), event["id"].encode()))
        if fate == "hopeless":
            raise Hopeless(event["id"])
        if fate == "flaky" and (topic, event["id"]) not in self._failed_once:
            self._failed_once.add((topic, event["id"]))
            raise Hopeless("once")

    async def _count(self, stream: EventStream) -> None:
        """The agent: writes a row and sends a record, then may fail or dawdle with the event in flight."""
        known = self._cluster.known
        async for key, event in stream.items():
            self.table.change(key, operator.add, 1)
            fate, partition = known[event["id"]]
            await self.engine.send(Record(ECHO, partition, key.encode(), event["id"].encode()))
            if self._random.random() < 0.05:
                await self._cluster.clock.sleep_ms(self._random.uniform(0, 300))
            if fate == "hopeless":
                raise Hopeless(event["id"])
            if fate == "flaky" and (ECHO, event["id"]) not in self._failed_once:
                self._failed_once.add((ECHO, event["id"]))
                raise Hopeless("once")


class Cluster:
    """The broker, the producer, the workers, and the troubles that the scenario has in store for them."""

    def __init__(self, loop: SimulationLoop, scenario: Scenario, **broken: Any) -> None:
        self.loop = loop
        self.scenario = scenario
        self.clock = LoopClock()
        trouble = scenario.trouble
        self.faults = Faults(
            scenario.dice("faults"),
            control_records=trouble.control_records,
            gap_chance=trouble.gap_chance,
            fetch_records_max=trouble.fetch_records_max,
            delay_chance=trouble.delay_chance,
            delay_ms_max=trouble.delay_ms_max,
            visible_ms_max=trouble.visible_ms_max,
            error_chance=trouble.error_chance,
            abort_chance=trouble.abort_chance,
            unknown_chance=trouble.unknown_chance,
            undecided_ms_max=800.0,
            on_point=self._on_point,
            **broken,
        )
        self.broker = MemoryBroker(
            self.clock,
            faults=self.faults,
            session_timeout_ms=SESSION_MS,
            rebalance_timeout_ms=5_000.0,
            transaction_timeout_ms=TRANSACTION_MS,
        )
        self.broker.create_topics([TopicSpec(EVENTS, SOURCES)])
        self.workers: dict[str, Worker] = {}  # owner -> live worker
        self.metrics: list[Metrics] = []  # of every process that ever was
        self.standby_replicas = scenario.dice("standbys").choice((0, 1, 1, 2))
        self.known: dict[str, tuple[str, int]] = {}  # event id -> (fate, partition)
        self.sent: dict[str, SimEvent] = {}
        # Partition of a log -> when it was compacted, and the stamp of the newest record that was then.
        self._compacted: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self.flushed: list[SimEvent] = []
        self.story: list[str] = []  # what happened, for people who replay a seed
        self.calm = False
        self._chaos = scenario.dice("chaos")
        # In some worlds the app is released anew, with more in it, when much has been taken already.
        release = scenario.dice("release")
        self.release_s = trouble.duration_s * release.choice((0.0, 0.0, 0.0, 0.0, 0.4, 0.7))
        self._rolled = False
        self._numbers = 0
        self._slots = 0
        self._tasks: set[asyncio.Task[None]] = set()

    # Processes

    def tell(self, what: str) -> None:
        self.story.append(f"{self.loop.time():9.3f} {what}")

    def boot(self, slot: str | None = None) -> Worker:
        """A new process; without a slot one that no other had before."""
        if slot is None:
            self._slots += 1
            slot = f"w{self._slots}"
        self._numbers += 1
        worker = Worker(self, slot, self._numbers)
        self.workers[worker.owner] = worker
        self.tell(f"boot {worker.owner}")
        with self.loop.owned_by(worker.owner):
            self.loop.create_task(self._run(worker), name=f"main of {worker.owner}")
        return worker

    async def _run(self, worker: Worker) -> None:
        try:
            await worker.engine.start(f"http://{worker.slot}")
        except BaseException as exc:
            worker.engine.fail(exc)
            raise

    def is_released(self) -> bool:
        return self.loop.time() >= self.release_s

    def _roll(self) -> None:
        """The old release is stopped, or killed, and the new one takes its place."""
        self._rolled = True
        for worker in list(self.workers.values()):
            if worker.released or worker.stopping:
                continue
            self.tell(f"release over {worker.owner}")
            if worker.frozen or self._chaos.random() < 0.5:
                self.kill(worker, "for the new release")
                self.spawn(self._boot_later(worker.slot))
            else:
                self.spawn(self._stop_and_replace(worker))

    def kill(self, worker: Worker, why: str) -> None:
        """SIGKILL, now. What runs it from inside must not go on: it has to await something."""
        self.tell(f"kill {worker.owner} {why}")
        self.workers.pop(worker.owner, None)
        self.loop.kill(worker.owner)
        worker.client.kill()

    def freeze(self, worker: Worker, delay_s: float, why: str) -> None:
        """SIGSTOP, and SIGCONT after ``delay_s``; past the session timeout that makes a zombie."""
        self.tell(f"freeze {worker.owner} for {delay_s:.3f} s {why}")
        worker.frozen = True
        self.loop.freeze(worker.owner)
        worker.client.stall()

        async def thaw() -> None:
            await asyncio.sleep(delay_s)
            self.thaw(worker)

        self.spawn(thaw())

    def thaw(self, worker: Worker) -> None:
        if worker.frozen and worker.owner in self.workers:
            self.tell(f"thaw {worker.owner}")
            worker.frozen = False
            worker.client.wake()
            self.loop.thaw(worker.owner)

    async def stop(self, worker: Worker) -> None:
        """SIGTERM: the process stops cleanly and exits."""
        self.tell(f"stop {worker.owner}")
        worker.stopping = True
        with self.loop.owned_by(worker.owner):
            stopping = self.loop.create_task(worker.engine.stop(), name=f"stop of {worker.owner}")
        await asyncio.wait([stopping], timeout=STOP_LIMIT_S)
        if worker.owner in self.workers:
            if not stopping.done() and self.calm:
                raise AssertionError(f"{worker.owner} does not stop")
            if stopping.done() and not stopping.cancelled() and stopping.exception() is not None:
                raise AssertionError(f"{worker.owner} failed to stop") from stopping.exception()
            self.kill(worker, "after its stop")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """A task of the world, whoever runs now."""
        task = self.loop.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Troubles

    async def _on_point(self, client: Client, point: str) -> None:
        worker = self.workers.get(self.loop.owner or "")
        if self.calm or worker is None or worker.client is not client:
            return
        trouble = self.scenario.trouble
        draw = self._chaos.random() / trouble.weight(point)
        if draw < trouble.kill_chance:
            self.kill(worker, f"at {point}")
            self.spawn(self._boot_later(worker.slot))
        elif draw < trouble.kill_chance + trouble.freeze_chance and not worker.frozen:
            self.freeze(worker, self._chaos.uniform(0.05, trouble.freeze_s_max), f"at {point}")
        else:
            return
        await asyncio.sleep(0)

    async def _boot_later(self, slot: str) -> None:
        """Something restarts a dead worker: in its slot, so that it ends what is open, or in a new one."""
        again = self._chaos.random() < 0.6
        await asyncio.sleep(self._chaos.choice((0.0, 0.3, 3.0)))
        taken = any(worker.slot == slot for worker in self.workers.values())
        self.boot(slot if again and not taken else None)

    async def harass(self) -> None:
        """Comings, goings and compactions, until the trouble's time is over."""
        trouble, rnd = self.scenario.trouble, self._chaos
        end_s = self.loop.time() + trouble.duration_s
        while self.loop.time() < end_s:
            await asyncio.sleep(rnd.uniform(0.05, 0.25))
            if self.release_s and not self._rolled and self.is_released():
                self._roll()
            if rnd.random() < trouble.compactions_per_s * 0.15:
                self.compact(rnd)
            if rnd.random() < trouble.moves_per_s * 0.15:
                await self._move(rnd)

    async def _move(self, rnd: random.Random) -> None:
        awake = [w for w in self.workers.values() if not (w.frozen or w.stopping)]
        if awake and rnd.random() < 0.5:
            worker = rnd.choice(awake)
            if rnd.random() < 0.5:
                self.spawn(self._stop_and_replace(worker))
            elif rnd.random() < 0.5:
                self.kill(worker, "by the operator")
                self.spawn(self._boot_later(worker.slot))
            else:
                self.freeze(worker, rnd.uniform(0.05, self.scenario.trouble.freeze_s_max), "by the operator")
        elif len(self.workers) < MOVABLE_MAX:
            self.boot()

    async def _stop_and_replace(self, worker: Worker) -> None:
        await self.stop(worker)
        await self._boot_later(worker.slot)

    def compact(self, rnd: random.Random) -> None:
        topics = [
            topic for topic in self.broker.topics() if topic.endswith(("-changelog", "-shuffle", "-progress"))
        ]
        if not topics:
            return
        topic = rnd.choice(topics)
        at = topic, rnd.randrange(self.broker.partition_count(topic))
        log, now_ms = self.broker.log(at), self.clock.now_ms()
        upto = rnd.randint(0, log.end)
        # As Kafka promises it: a tombstone does not go with the rows that it deletes, but with a later
        # compaction. Who has begun to read the log from its beginning, and has read such a row, finds it.
        known = self._compacted.setdefault(at, [])
        alone_ms = max((stamp_ms for done_ms, stamp_ms in known if done_ms <= now_ms - READ_MS), default=-1)
        old_ms = min(now_ms - TOMBSTONE_MS, alone_ms + 1)
        batch = log.read(0, 10**9)
        if batch is not None and (count := bisect_left(batch.offsets, upto)):
            known.append((now_ms, batch.timestamps_ms[count - 1]))
        log.compact(upto, lambda stamp_ms: stamp_ms < old_ms and rnd.random() < 0.5)

    def calm_down(self) -> None:
        """No more troubles; what is slow or odd without being wrong stays (gaps, small fetches)."""
        self.tell("calm")
        self.calm = True
        faults = self.faults
        faults.error_chance = faults.abort_chance = faults.unknown_chance = faults.delay_chance = 0.0
        for worker in list(self.workers.values()):
            self.thaw(worker)
        if not any(not worker.stopping for worker in self.workers.values()):
            self.boot()

    # Events

    def produce(self, events: list[SimEvent]) -> None:
        for event in events:
            self.known[event.id] = event.fate, event.partition
            self.sent[event.id] = event
        self.broker.write([event.record() for event in events])

    async def feed(self, until_s: float) -> None:
        """All events over the time given, partition 2 only when most of the others' are there.

        With idle ticks most producers pause now and then, for longer than that: they write in bursts.
        """
        pauses = self.scenario.dice("pauses")
        pause_chance = 0.15 if self.scenario.trouble.idle_close_s and pauses.random() < 0.7 else 0.0
        rnd = self.scenario.dice("producer")
        left = [list(part) for part in self.scenario.events]
        total = sum(map(len, left))
        pause_s = until_s / (total / 3)
        while any(left):
            await asyncio.sleep(rnd.uniform(0, 2 * pause_s))
            if pauses.random() < pause_chance:
                await asyncio.sleep(pauses.uniform(2.2, 6.0))
            first = sum(map(len, left[:2]))
            open_parts = [p for p, part in enumerate(left) if part and (p != 2 or first <= total / 4)]
            part = left[rnd.choice(open_parts)]
            count = rnd.randint(0, 6)
            self.produce(part[:count])
            del part[:count]

    async def until(self, done: Callable[[], bool], what: str, limit_s: float = 120.0) -> None:
        """Waits in virtual time. Raises AssertionError."""
        end_s = self.loop.time() + limit_s
        while not done():
            if self.loop.time() > end_s:
                raise AssertionError(f"not within {limit_s:.0f} s: {what}")
            await asyncio.sleep(0.25)
