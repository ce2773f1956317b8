"""The five gaps of aiokafka that exactly once needs closed; and what happens while one of them is open.

Each test runs twice: as the driver is, and with that one closing switched off. The second run states
the damage, so that a closing which no longer closes anything fails its test.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from streamflow.errors import Fenced, RecordTooLarge
from streamflow.transports.base import Commit, Record
from streamflow.transports.kafka.commits import Commits
from streamflow.transports.kafka.group import GroupFence
from streamflow.transports.kafka.offsets import GroupOffsets
from streamflow.transports.kafka.producer import Producer
from tests.contract.harness import Worker, make_topic, numbered, numbers_in, partitions_of, read_all, unique
from tests.integration.kafka_clients import LIMIT_S, KafkaClients

either = pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])


async def two(clients: KafkaClients, topic: str, number: int) -> tuple[Worker, Worker]:
    """Two workers of one group, each with half of the partitions."""
    group = unique("group")
    first = await clients.worker(group, topic)
    await first.owns(partitions_of(topic, number))
    second = await clients.worker(group, topic)
    await second.owns_number(number // 2)
    await first.owns_number(number // 2)
    return first, second


async def seen(clients: KafkaClients, topic: str) -> list[int]:
    got = await read_all(await clients.maker(), [(topic, 0)], LIMIT_S)
    return numbers_in(got[topic, 0])


def with_fence(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Every commit uses another fence than that of its assignment."""
    write = GroupOffsets.write_in_transaction

    async def changed(self: GroupOffsets, commit: Commit, fence: GroupFence, *rest: Any) -> None:
        await write(self, commit, change(fence), *rest)

    monkeypatch.setattr(GroupOffsets, "write_in_transaction", changed)


@either
async def test_gap_1_a_worker_that_lost_its_partitions_cannot_commit(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    if not closed:
        # What version 0 of the request amounts to: no generation, no member.
        with_fence(monkeypatch, lambda fence: dataclasses.replace(fence, generation=-1, member_id=""))
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 2), await make_topic(maker, "log", 1)
    first, _ = await two(clients, topic, 2)
    stale = first.listener.assignments[0]
    commit = Commit(stale, numbered(log, 0, [1]), {(topic, 0): 7})
    if closed:
        with pytest.raises(Fenced):
            await first.client.commit(commit)
    else:
        await first.client.commit(commit)
    assert await seen(clients, log) == ([] if closed else [1])
    assert await maker_committed(first, topic) == (None if closed else 7)


async def maker_committed(worker: Worker, topic: str) -> int | None:
    return (await worker.client.committed([(topic, 0)]))[topic, 0]


@either
async def test_gap_2_the_fence_is_the_assignments_own_and_not_the_newest(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 2), await make_topic(maker, "log", 1)
    first, _ = await two(clients, topic, 2)
    newest = first.listener.newest.fence
    assert isinstance(newest, GroupFence)
    if not closed:
        with_fence(
            monkeypatch,
            lambda fence: dataclasses.replace(
                fence, generation=newest.generation, member_id=newest.member_id
            ),
        )
    # A good member of the newest generation, which hands in work that it did under the one before.
    stale = first.listener.assignments[0]
    commit = Commit(stale, numbered(log, 0, [1]), {(topic, 0): 7})
    if closed:
        with pytest.raises(Fenced):
            await first.client.commit(commit)
    else:
        await first.client.commit(commit)
    assert await seen(clients, log) == ([] if closed else [1])


@either
async def test_gap_3_a_new_owner_waits_for_the_commit_before_it(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    if not closed:
        read = GroupOffsets.read

        async def unstable(self: GroupOffsets, partitions: Any, deadline: Any, **_: Any) -> Any:
            return await read(self, partitions, deadline, stable=False)

        monkeypatch.setattr(GroupOffsets, "read", unstable)
    maker = await clients.maker()
    topic = await make_topic(maker, "events", 2)
    first, second = await two(clients, topic, 2)
    newest = first.listener.newest
    spot = min(newest.partitions)
    await first.client.commit(Commit(newest, [], {spot: 1}))
    held = await clients.hold(first.client, Commit(newest, [], {spot: 2}))
    asking = asyncio.create_task(second.client.committed([spot]))
    done, _ = await asyncio.wait([asking], timeout=0.5)
    assert bool(done) is not closed
    await held.release()
    # Open: the offset from before a commit that succeeds; what lies between would be counted twice.
    assert await asyncio.wait_for(asking, LIMIT_S) == {spot: 2 if closed else 1}


@either
async def test_gap_4_nothing_is_committed_when_a_record_was_not_acknowledged(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    if not closed:

        def look_away(self: Any, writing: Any, batch: Any, code: int) -> None:
            self._acknowledged(writing, batch, -1)

        monkeypatch.setattr(Producer, "_split", look_away)
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    small = await make_topic(maker, "small", 1, record_bytes_max=10_000)
    worker = await clients.alone(topic, 1)
    records = [*numbered(log, 0, [1]), Record(small, 0, b"k", b"x" * 50_000)]
    commit = Commit(worker.listener.newest, records, {(topic, 0): 7})
    if closed:
        with pytest.raises(RecordTooLarge):
            await worker.client.commit(commit)
    else:
        await worker.client.commit(commit)
    # Open: the offset has moved past an event whose record is nowhere.
    assert await maker_committed(worker, topic) == (None if closed else 7)
    assert await seen(clients, log) == ([] if closed else [1])
    assert await seen(clients, small) == []


@either
async def test_gap_5_a_fenced_commit_does_not_come_back_with_the_next_one(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    if not closed:

        async def forget(self: Any) -> None:
            """As aiokafka does after an error: no EndTxn, the transaction stays open."""

        monkeypatch.setattr(Commits, "_abort", forget)
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 2), await make_topic(maker, "log", 1)
    first, _ = await two(clients, topic, 2)
    spot = min(first.listener.newest.partitions)
    with pytest.raises(Fenced):
        await first.client.commit(Commit(first.listener.assignments[0], numbered(log, 0, [1]), {spot: 1}))
    await first.client.commit(Commit(first.listener.newest, numbered(log, 0, [2]), {spot: 2}))
    assert await seen(clients, log) == ([2] if closed else [1, 2])
