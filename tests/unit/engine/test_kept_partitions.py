"""A rebalance takes nothing from those who keep their partitions: rows stay, nothing is read again."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncIterator, Callable

import orjson
import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import SystemClock
from streamflow.codecs import KeyCodec, ValueCodec
from streamflow.codecs.event import Event
from streamflow.engine import restoration as recovering
from streamflow.engine.decoding import TopicSource
from streamflow.engine.engine import Engine
from streamflow.engine.hooks import AssignmentHooks
from streamflow.partitioner import fnv1a
from streamflow.processing.agent_spec import AgentSpec
from streamflow.processing.event_stream import EventStream
from streamflow.settings import Settings
from streamflow.state.agent_table import AgentTable
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TableSpec
from streamflow.state.stores.base import MISSING, NO_WINDOW
from streamflow.transports.base import Record
from streamflow.transports.memory import MemoryBroker, MemoryTransport

PARTITIONS = 4
KEYS = [f"k{n}" for n in range(40)]


class Worker:
    """An engine that counts events by key, in an agent and in an aggregate, and how often it took each."""

    def __init__(self, broker: MemoryBroker, name: str, standby_replicas: int = 0) -> None:
        self.transport = MemoryTransport(broker, "app", name, standby_replicas=standby_replicas)
        self.engine = Engine(Settings(id="app", commit_interval=0.02), self.transport, broker.clock)
        self.taken = 0
        source = TopicSource("events", KeyCodec(str), ValueCodec(Event), PARTITIONS)
        spec = TableSpec("counts", None, RowCodec(None), "", 0)
        self.table: AgentTable = self.engine.add_table(spec, int, KeyCodec(str).encode)
        self.engine.add_agent(AgentSpec("agent", "events", self._count), source)
        self.engine.add_aggregate(
            AggregateSpec("by_key", "events", Key(), None, RowFunctions(Count())), source
        )
        self.engine.add_aggregate(
            AggregateSpec("by_type", "events", "type", None, RowFunctions(Count())), source
        )

    async def _count(self, stream: EventStream) -> None:
        async for key, _ in stream.items():  # noqa: PERF102 - a stream
            self.taken += 1
            self.table.change(key, operator.add, 1)

    @property
    def owned(self) -> set[int]:
        return set(self.table.parts) if self.engine.live else set()

    def row(self, key: str) -> object:
        part = self.table.parts.get(fnv1a(key.encode(), PARTITIONS))
        return MISSING if part is None else part.store.get(NO_WINDOW, key)

    def restored(self) -> int:
        return int(self.engine.metrics.restored_records_total.value)


class Group:
    def __init__(self, session_timeout_ms: float = 10_000.0) -> None:
        self.broker = MemoryBroker(SystemClock(), session_timeout_ms=session_timeout_ms)
        self.client = MemoryTransport(self.broker, "outside", "client")
        self.workers: list[Worker] = []

    async def join(self, name: str, standby_replicas: int = 0) -> Worker:
        worker = Worker(self.broker, name, standby_replicas)
        self.workers.append(worker)
        await worker.engine.start(f"http://{name}")
        await self.until(lambda: bool(worker.owned) and self.all_open())
        return worker

    async def leave(self, worker: Worker) -> None:
        self.workers.remove(worker)
        await worker.engine.stop()
        await self.until(self.all_open)

    def all_open(self) -> bool:
        owned = [p for worker in self.workers for p in worker.owned]
        return sorted(owned) == list(range(PARTITIONS))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                for worker in self.workers:
                    if worker.engine.failure is not None:
                        raise worker.engine.failure
                await asyncio.sleep(0.005)

    async def write_each_key(self) -> None:
        value = orjson.dumps({"id": "1", "type": "click", "timestamp": 0, "data": {}})
        await self.client.send(
            [Record("events", fnv1a(k.encode(), PARTITIONS), k.encode(), value) for k in KEYS]
        )

    async def all_count(self, count: int) -> None:
        def counted() -> bool:
            return all(any(w.row(key) == count for w in self.workers) for key in KEYS)

        await self.until(counted)


@pytest.fixture
async def group() -> AsyncIterator[Group]:
    made = Group()
    await made.client.start()
    yield made
    for worker in made.workers:
        await worker.engine.stop()
    await made.client.stop()


async def test_who_keeps_partitions_reads_nothing_again_when_another_comes_or_goes(group: Group) -> None:
    first = await group.join("first")
    await group.write_each_key()
    await group.all_count(1)
    stores = {p: part.store for p, part in first.table.parts.items()}
    second = await group.join("second")
    assert len(first.owned) == len(second.owned) == PARTITIONS // 2
    for partition, part in first.table.parts.items():
        assert part.store is stores[partition]
    assert first.restored() == 0
    assert second.restored() > 0
    assert first.engine.metrics.partitions_kept_total.value == PARTITIONS // 2
    await group.write_each_key()
    await group.all_count(2)
    logs = ("app-counts-changelog", "app-by_key-changelog", "app-by_type-changelog")
    read_by_second = sum(len(group.broker.log((log, p))) for log in logs for p in second.owned)
    await group.leave(second)
    await group.write_each_key()
    await group.all_count(3)
    assert first.taken + second.taken == 3 * len(KEYS)
    # What came back from the second was read, and nothing else.
    assert first.restored() == read_by_second


async def test_rows_that_were_not_committed_are_not_kept(group: Group) -> None:
    worker = await group.join("first")
    await group.write_each_key()
    await group.all_count(1)
    held = worker.engine.active
    assert held is not None
    for part in list(held.table_partitions()):
        part.changes = {NO_WINDOW: {"never committed": 7}}
    worker.engine._restart(RuntimeError("what is in memory can't be trusted"))
    await group.until(group.all_open)
    assert worker.engine.active is not held
    assert all(part.get(NO_WINDOW, "never committed") is MISSING for part in worker.table.parts.values())
    assert worker.row(KEYS[0]) == 1
    assert worker.restored() == 0


async def test_a_store_that_was_left_alone_too_long_is_rebuilt(group: Group) -> None:
    worker = await group.join("first")
    await group.write_each_key()
    await group.all_count(1)
    worker.engine.store_manager._age_max_ms = -1.0
    worker.engine._restart(RuntimeError("a test"))
    await group.until(group.all_open)
    assert worker.restored() > 0
    assert worker.row(KEYS[0]) == 1


class Told(AssignmentHooks):
    """Wants to be told before agents begin."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.open_when_told: list[set[int]] = []

    async def recovered(self) -> None:
        self.open_when_told.append(self.worker.owned)


async def test_agents_wait_for_all_tables_where_somebody_wants_to_be_told(group: Group) -> None:
    await group.join("first")
    await group.write_each_key()
    await group.all_count(1)
    second = Worker(group.broker, "second")
    told = second.engine.lifecycle = Told(second)
    group.workers.append(second)
    await second.engine.start("http://second")
    await group.until(lambda: bool(second.owned) and group.all_open())
    assert told.open_when_told == [set()]


async def test_each_partition_serves_as_soon_as_its_own_tables_are_back(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovering, "AT_ONCE", 1)
    first = await group.join("first")
    await group.write_each_key()
    await group.all_count(1)
    await group.workers.pop().engine.stop()
    second = Worker(group.broker, "second")
    group.workers.append(second)
    seen: list[tuple[int, bool]] = []

    def note() -> None:
        active = second.engine.active
        if second.engine.live and active is not None:
            seen.append((len(second.owned), bool(active.unopened)))

    second.engine.watch_active = note
    await second.engine.start("http://second")
    await group.until(group.all_open)
    assert first is not second
    opened = [count for count, _ in seen]
    assert opened == sorted(opened)
    assert len(set(opened)) >= PARTITIONS
    assert [waiting for _, waiting in seen] == [count < PARTITIONS for count in opened]
    assert second.engine.metrics.partitions_restoring.value == 0
    assert second.engine.metrics.restore_records_left.value == 0
    await group.all_count(1)
