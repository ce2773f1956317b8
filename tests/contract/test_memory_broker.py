"""The memory transport beyond the contract: bounds, compaction, faults, and how it can be broken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from streamflow.clock import SystemClock
from streamflow.errors import CommitAborted, CommitUnknown, Fenced, TransportError
from streamflow.transports.base import Assignment, Commit, Record, TopicSpec
from streamflow.transports.memory import Client, ClientKilled, Faults, MemoryBroker, MemoryTransport
from streamflow.transports.memory.log import COMPACT_RECORDS_MIN
from tests.contract.harness import Seen, Worker, numbered, numbers_in, read_all, read_until

LIMIT_S = 5.0
SPOT, LOG = ("events", 0), ("log", 0)

Make = Callable[..., MemoryBroker]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    brokers: list[MemoryBroker] = []

    def new(**options: object) -> MemoryBroker:
        broker = MemoryBroker(SystemClock(), **options)  # type: ignore[arg-type]  # test sugar
        broker.create_topics([TopicSpec("events", 1), TopicSpec("log", 1, compacted=True)])
        brokers.append(broker)
        return broker

    yield new
    for broker in brokers:
        await broker.close()


async def joined(broker: MemoryBroker, name: str = "a") -> tuple[Worker, MemoryTransport, Assignment]:
    client = MemoryTransport(broker, "group", name)
    await client.start()
    worker = Worker(client, LIMIT_S)
    await worker.join(["events"])
    return worker, client, await worker.owns([SPOT])


async def texts(broker: MemoryBroker) -> list[int]:
    """What a reader sees in the log, once all that is undecided now is decided."""
    client = MemoryTransport(broker, "readers", "reader")
    return numbers_in((await read_all(client, [LOG], LIMIT_S))[LOG])


async def test_a_topic_keeps_its_newest_records_within_its_bounds(make: Make) -> None:
    broker = make(records_max=100, bytes_max=None)
    client = MemoryTransport(broker, "group", "a")
    for start in range(0, 1_000, 10):
        await client.send(numbered("events", 0, range(start, start + 10)))
    first = (await client.earliest_offsets([SPOT]))[SPOT]
    assert 870 <= first <= 900
    rows = (await read_all(client, [SPOT], LIMIT_S))[SPOT]
    assert numbers_in(rows) == list(range(first, 1_000))
    assert rows[0].offset == first


async def test_bytes_bound_a_topic_too(make: Make) -> None:
    broker = make(bytes_max=10_000)
    client = MemoryTransport(broker, "group", "a")
    for _ in range(100):
        await client.send([Record("events", 0, None, b"x" * 1_000)])
    assert 10 <= len(broker.log(SPOT)) <= 13
    await client.send([Record("events", 0, None, b"x" * 50_000)])
    assert len(broker.log(SPOT)) == 1


async def test_a_compacted_log_keeps_every_row_and_forgets_old_values_by_itself(make: Make) -> None:
    broker = make(tombstone_ms=3_600_000)
    client = MemoryTransport(broker, "group", "a")
    for n in range(100):
        rows = [Record("log", 0, b"%d" % k, b"%d" % n, ((("h", b"%d" % n)),)) for k in range(100)]
        await client.send([*rows, Record("log", 0, b"gone", b"1"), Record("log", 0, b"gone", None)])
    assert len(broker.log(LOG)) <= 4 * COMPACT_RECORDS_MIN
    newest = {row.key: row for row in (await read_all(client, [LOG], LIMIT_S))[LOG]}
    assert newest.pop(b"gone").value is None
    assert {int(key or b"") for key in newest} == set(range(100))
    assert {(row.value, row.headers) for row in newest.values()} == {(b"99", (("h", b"99"),))}


async def test_compaction_keeps_what_stands_above_its_point_and_what_is_undecided(make: Make) -> None:
    broker = make()
    client = MemoryTransport(broker, "group", "a")
    await client.start()
    await client.send([Record("log", 0, b"k", b"%d" % n) for n in range(4)])
    transaction = await broker.begin("a", 1)
    broker.write_singly([Record("log", 0, b"k", b"9")], transaction)
    log = broker.log(LOG)
    log.compact(2, lambda _: False)
    assert numbers_in(await read_at(client, 0, 4)) == [2, 3]
    log.compact(log.end, lambda _: False)
    assert numbers_in(await read_at(client, 0, 4)) == [3]
    broker.decide(transaction, committed=True)
    assert await texts(broker) == [3, 9]
    await client.send([Record("log", 0, b"k", None)])
    log.compact(log.end, lambda _: True)
    assert await texts(broker) == []


async def read_at(client: MemoryTransport, start: int, end: int) -> list[Seen]:
    return (await read_until(client.log_reader(), {LOG: start}, {LOG: end}, LIMIT_S))[LOG]


@pytest.mark.parametrize("seed", range(5))
async def test_an_unknown_commit_is_done_as_a_whole_or_not_at_all(make: Make, seed: int) -> None:
    broker = make()
    _, client, assignment = await joined(broker)
    broker.faults = Faults(random.Random(seed), unknown_chance=1.0, undecided_ms_max=30)
    with pytest.raises(CommitUnknown):
        await client.commit(Commit(assignment, numbered("log", 0, [1, 2]), {SPOT: 7}))
    offset = (await client.committed([SPOT]))[SPOT]
    assert (await texts(broker), offset) in [([1, 2], 7), ([], None)]


async def test_both_fates_of_an_unknown_commit_occur(make: Make) -> None:
    broker = make()
    _, client, assignment = await joined(broker)
    broker.faults = Faults(random.Random(1), unknown_chance=1.0)
    for n in range(20):
        with pytest.raises(CommitUnknown):
            await client.commit(Commit(assignment, numbered("log", 0, [n]), {SPOT: n}))
    assert 0 < len(await texts(broker)) < 20


async def test_an_aborted_commit_leaves_only_a_gap(make: Make) -> None:
    broker = make()
    _, client, assignment = await joined(broker)
    broker.faults = Faults(random.Random(1), abort_chance=1.0)
    with pytest.raises(CommitAborted):
        await client.commit(Commit(assignment, numbered("log", 0, [1]), {SPOT: 7}))
    broker.faults.abort_chance = 0
    await client.commit(Commit(assignment, numbered("log", 0, [2]), {SPOT: 8}))
    assert await texts(broker) == [2]
    assert broker.log(LOG).end > 1


async def test_a_worker_that_comes_back_ends_what_it_left_open_and_fences_its_older_self(make: Make) -> None:
    """Under the same name, without waiting for the transaction timeout."""
    broker = make(transaction_timeout_ms=3_600_000, session_timeout_ms=50)
    _, client, assignment = await joined(broker)
    waiting = asyncio.Event()

    async def on_point(who: Client, point: str) -> None:
        if who is client and point == "commit:offsets":
            waiting.set()
            client.stall()

    broker.faults = Faults(on_point=on_point)
    committing = asyncio.create_task(client.commit(Commit(assignment, numbered("log", 0, [1]), {SPOT: 7})))
    await waiting.wait()
    again, second, newer = await joined(broker)
    assert await second.committed([SPOT]) == {SPOT: None}
    client.wake()
    with pytest.raises((CommitAborted, Fenced)):
        await committing
    with pytest.raises(Fenced):
        await client.commit(Commit(newer, numbered("log", 0, [2]), {SPOT: 8}))
    assert await texts(broker) == []
    await client.stop()
    await again.client.stop()


async def test_injected_errors_have_no_effect_and_a_dead_client_does_nothing(make: Make) -> None:
    broker = make()
    worker, client, assignment = await joined(broker)
    broker.faults = Faults(error_chance=1.0)
    failing: list[Awaitable[object]] = [
        client.send(numbered("log", 0, [1])),
        client.fetch(1),
        client.committed([SPOT]),
    ]
    for call in failing:
        with pytest.raises(TransportError):
            await call
    broker.faults = None
    client.kill()
    dead: list[Awaitable[object]] = [
        client.send(numbered("log", 0, [1])),
        client.fetch(1),
        client.commit(Commit(assignment, numbered("log", 0, [2]), {SPOT: 1})),
    ]
    for dead_call in dead:
        with pytest.raises(ClientKilled):
            await dead_call
    await worker.client.stop()
    assert await texts(broker) == []


async def test_a_listener_that_fails_is_heard_at_the_next_fetch_and_holds_up_nobody(make: Make) -> None:
    broker = make()
    worker, client, _ = await joined(broker)

    async def fail() -> None:
        raise ValueError("the listener's own")

    worker.listener.before_revoked = fail
    other, _, _ = await joined(broker, "b")
    with pytest.raises(ValueError, match="the listener's own"):
        await client.fetch(1_000)
    await other.client.stop()


async def test_a_commit_that_nothing_could_fence_is_refused(make: Make) -> None:
    _, client, assignment = await joined(make())
    for offsets in ({}, {("events", 7): 1}):
        with pytest.raises(ValueError, match="fence"):
            await client.commit(Commit(assignment, [], offsets))


class TestBroken:
    """The switches that break the contract do break it."""

    async def test_without_atomicity_a_crash_leaves_a_part(self, make: Make) -> None:
        broker = make()
        _, client, assignment = await joined(broker)
        steps = 0

        async def on_point(who: Client, point: str) -> None:
            nonlocal steps
            steps += point == "commit:writing"
            if steps == 3:
                client.kill()

        broker.faults = Faults(on_point=on_point, broken_atomic=True)
        with pytest.raises(ClientKilled):
            await client.commit(Commit(assignment, numbered("log", 0, range(5)), {SPOT: 7}))
        broker.faults = None
        assert await texts(broker) == [0, 1]

    async def test_without_the_fence_an_old_assignment_commits(self, make: Make) -> None:
        broker = make()
        _, client, assignment = await joined(broker)
        await client.stop()
        broker.faults = Faults(broken_fence=lambda commit: True)
        worker, client, _ = await joined(broker)
        await client.commit(Commit(assignment, numbered("log", 0, [1]), {SPOT: 7}))
        assert await texts(broker) == [1]
        await worker.client.stop()

    async def test_without_the_order_records_are_reordered(self, make: Make) -> None:
        broker = make()
        _, client, assignment = await joined(broker)
        broker.faults = Faults(broken_order=lambda records: records[::-1])
        await client.commit(Commit(assignment, numbered("log", 0, range(3)), {SPOT: 7}))
        assert await texts(broker) == [2, 1, 0]
