"""Tables of other workers' partitions are kept up to date, and taken over without reading them again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.clock import SystemClock
from streamflow.engine.standbys import Standbys
from streamflow.metrics import Metrics
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TableSpec
from streamflow.state.store_manager import StoreManager
from streamflow.state.stores.base import MISSING, NO_WINDOW
from streamflow.state.stores.memory import MemoryStore
from streamflow.transports.assignor import share_out, stand_by
from streamflow.transports.base import Batch, TopicPartition
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.unit.engine.test_kept_partitions import KEYS, PARTITIONS, Group, Worker

Spots = Mapping[str, Iterable[TopicPartition]]
Dealt = dict[str, list[TopicPartition]]
Warm = dict[TopicPartition, list[str]]


@pytest.fixture
async def group() -> AsyncIterator[Group]:
    made = Group(session_timeout_ms=300.0)
    await made.client.start()
    yield made
    for worker in made.workers:
        await worker.engine.stop()
    await made.client.stop()


async def join(group: Group, name: str) -> Worker:
    return await group.join(name, standby_replicas=1)


def up_to_date(worker: Worker) -> bool:
    """Is everything there of what it stands by for?"""
    parts, stages = worker.engine.rebalance.standby_tasks()
    log = worker.transport.broker.log
    return (
        bool(parts)
        and all(p.store.offset >= log((p.spec.changelog, p.partition)).end for p in parts)
        and all(stage.position >= log((stage.topic, stage.partition)).end for stage in stages)
    )


async def test_a_dead_workers_partitions_are_taken_over_without_reading_their_tables_again(
    group: Group,
) -> None:
    first, second = await join(group, "first"), await join(group, "second")
    for count in (1, 2):
        await group.write_each_key()
        await group.all_count(count)
    for worker in (first, second):
        await group.until(partial(up_to_date, worker))
        assert worker.engine.metrics.standby_partitions.value == PARTITIONS // 2
        assert worker.engine.metrics.standby_records_total.value > 0
    restored = second.restored()
    group.workers.remove(first)
    first.transport.kill()
    await first.engine.stop()
    await group.until(group.all_open)
    assert second.restored() == restored
    assert second.engine.metrics.partitions_kept_total.value >= PARTITIONS
    await group.write_each_key()
    await group.all_count(3)
    assert second.engine.active is not None
    stages = second.engine.active.stages
    assert sum(stage.state(*row) for stage in stages for row in stage.rows()) == 3 * len(KEYS)


async def test_who_had_a_partition_stands_by_for_it_and_gets_it_back_as_it_was(group: Group) -> None:
    first = await join(group, "first")
    await group.write_each_key()
    await group.all_count(1)
    second = await join(group, "second")
    await group.write_each_key()
    await group.all_count(2)
    await group.until(partial(up_to_date, first))
    await group.leave(second)
    await group.write_each_key()
    await group.all_count(3)
    assert first.restored() == 0


async def test_without_replicas_nobody_reads_what_is_not_his(group: Group) -> None:
    first, second = await group.join("first"), await group.join("second")
    await group.write_each_key()
    await group.all_count(1)
    for worker in (first, second):
        assert worker.engine.rebalance.standby_tasks() == ([], [])
        assert worker.engine.metrics.standby_records_total.value == 0


class SlowReader:
    """Has a batch, and gives it only when it is told to."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.asked, self.give, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        pass

    async def read(self, wait_ms: int) -> list[Batch]:
        self.asked.set()
        await self.give.wait()
        self.give.clear()
        return [self.batch]

    async def close(self) -> None:
        self.closed.set()


async def test_what_was_being_read_is_dropped_when_the_store_passes_into_other_hands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec = RowCodec(None)
    key = codec.encode_keys(NO_WINDOW, ["k"])[0]
    value = codec.encode_values([7])[0]
    reader = SlowReader(Batch("log", 0, [0], [key], [value], [0], None, 1, 1))
    transport = MemoryTransport(MemoryBroker(SystemClock()), "app", "w")
    monkeypatch.setattr(transport, "log_reader", lambda: reader)

    async def ends(partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 1)

    monkeypatch.setattr(transport, "high_watermarks", ends)
    store_manager = StoreManager(lambda *_: MemoryStore(), SystemClock(), 1e9)
    standbys = Standbys(transport, store_manager, SystemClock(), Metrics())
    spec = TableSpec("t", None, codec, "log", 1)
    running = asyncio.create_task(standbys.run())
    try:
        for given_up in (True, False):
            standbys.follow([(spec, 0)])
            await reader.asked.wait()
            reader.asked.clear()
            store = store_manager.open(spec, 0)
            if given_up:
                standbys.rest()
            reader.give.set()
            await (reader.closed if given_up else reader.asked).wait()
            assert store.get(NO_WINDOW, "k") == (MISSING if given_up else 7)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def dealt(
    counts: Mapping[str, int], members: str, replicas: int, before: Spots, warm: Warm
) -> tuple[Dealt, Dealt]:
    wanted = {member: frozenset(counts) for member in members}
    owners = {spot: member for member, spots in before.items() for spot in spots}
    owned = share_out(counts, wanted, owners, warm)
    return owned, stand_by(counts, wanted, owned, replicas, warm)


def ready(owned: Spots, standbys: Spots) -> Warm:
    found: Warm = {}
    for spots in (owned, standbys):
        for member, of in spots.items():
            for spot in of:
                found.setdefault(spot, []).append(member)
    return found


def test_what_a_dead_worker_had_goes_to_those_who_stood_by_for_it() -> None:
    counts = {"events": 6, "clicks": 6}
    owned, standbys = dealt(counts, "abc", 1, {}, {})
    warm = ready(owned, standbys)
    for dead in "abc":
        left = "abc".replace(dead, "")
        after, _ = dealt(counts, left, 1, {m: owned[m] for m in left}, warm)
        for member in left:
            assert len(after[member]) == 6
            assert all(member in warm[spot] for spot in after[member])


@given(
    counts=st.dictionaries(st.sampled_from("pqr"), st.integers(1, 9), min_size=1),
    members=st.integers(1, 5),
    replicas=st.integers(0, 3),
    warm=st.dictionaries(
        st.tuples(st.sampled_from("pqr"), st.integers(0, 8)), st.lists(st.sampled_from("abcdex"), unique=True)
    ),
)
def test_each_partition_has_as_many_standbys_as_there_are_others(
    counts: dict[str, int], members: int, replicas: int, warm: Warm
) -> None:
    names = "abcde"[:members]
    owned, standbys = dealt(counts, names, replicas, {}, warm)
    for spot, holders in ready(owned, standbys).items():
        assert len(holders) == len(set(holders)) == 1 + min(replicas, members - 1), spot
    # An uneven choice may be made even once; then nothing moves any more, and owners never do.
    second = dealt(counts, names, replicas, owned, ready(owned, standbys))
    third = dealt(counts, names, replicas, owned, ready(*second))
    assert in_order(second[0]) == in_order(third[0]) == in_order(owned)
    assert in_order(third[1]) == in_order(second[1])


def in_order(shares: Dealt) -> Dealt:
    return {member: sorted(spots) for member, spots in shares.items()}
