"""What the Redis transport has beside the contract: other clients, lag, compaction, refusals and more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from redis.asyncio.connection import AbstractConnection as SocketConnection

from streamflow.clock import SystemClock
from streamflow.errors import (
    CommitAborted,
    CommitUnknown,
    ConfigurationError,
    Fenced,
    LostWrites,
    TransportError,
)
from streamflow.transports.base import Batch, Commit, Record, TopicSpec, Transport
from streamflow.transports.redis_streams import RedisSettings, RedisTransport
from streamflow.transports.redis_streams.compaction import Compaction
from streamflow.transports.redis_streams.connection import COMMIT, PUBLISH, Connection, LostConnection
from streamflow.transports.redis_streams.group import GroupFence
from streamflow.transports.redis_streams.names import IdOutOfRange, offset_of_id
from streamflow.transports.redis_streams.server_check import check
from tests.contract.harness import (
    Worker,
    make_topic,
    numbered,
    numbers_in,
    partitions_of,
    read_all,
    read_until,
    unique,
)
from tests.integration.redis_clients import LIMIT_S, RedisClients
from tests.integration.workers import ROOT
from tests.support.redis_server import RedisServer, SentinelServer


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Any]:
    """Somebody else's client: what redis-cli would do."""
    client = redis_server.client()
    yield client
    client.close()


def compaction_of(client: Transport) -> Compaction:
    """What the driver does now and then, done at once."""
    assert isinstance(client, RedisTransport)
    return client.compaction


async def taken(worker: Worker, number: int) -> list[Batch]:
    found: list[Batch] = []
    async with asyncio.timeout(LIMIT_S):
        while sum(len(batch.offsets) for batch in found) < number:
            found += await worker.client.fetch(50)
    return found


# Other clients


async def test_a_plain_xadd_is_read_as_an_event(redis_clients: RedisClients, redis: Any) -> None:
    topic = await make_topic(await redis_clients.maker(), "events", 1)
    stream = f"{topic}:0"
    first = redis.xadd(stream, {"key": "ann", "type": "user_action", "user": "ann", "amount": 7})
    second = redis.xadd(
        stream, {"type": "t", "id": "e2", "timestamp": "1760000000123", "data": '{"n": 1}', "extra": "x"}
    )
    redis.xadd(stream, {"type": "t", "timestamp": "2025-01-02T03:04:05Z", "data": "no json"})
    redis.xadd(stream, {"v": b"\x00raw", "k": "key", "t": 5, "h": '[["a","b"],["c",null,"/w=="]]'})
    redis.xadd(stream, {"k": "gone"})
    worker = await redis_clients.alone(topic, 1)
    worker.begin({(topic, 0): 0})
    (batch,) = await taken(worker, 5)
    one, two, three = (json.loads(value or b"") for value in batch.values[:3])
    ms = int(first.partition(b"-")[0])
    assert one == {
        "id": first.decode(),
        "type": "user_action",
        "timestamp": ms,
        "data": {"user": "ann", "amount": "7"},
    }
    assert two == {
        "id": "e2",
        "type": "t",
        "timestamp": 1_760_000_000_123,
        "data": {"n": 1},
        "extra": "x",
    }
    assert (three["timestamp"], three["data"]) == ("2025-01-02T03:04:05Z", "no json")
    assert list(batch.keys) == [b"ann", None, None, b"key", b"gone"]
    assert list(batch.values[3:]) == [b"\x00raw", None]
    assert batch.timestamps_ms[3] == 5
    assert batch.headers is not None
    assert batch.headers[3] == [("a", b"b"), ("c", b"\xff")]
    assert list(batch.offsets[:2]) == [offset_of_id(first), offset_of_id(second)]


async def test_what_is_no_text_is_no_event_and_stays_whole(redis_clients: RedisClients, redis: Any) -> None:
    topic = await make_topic(await redis_clients.maker(), "events", 1)
    redis.xadd(f"{topic}:0", {"type": "t", "bytes": b"\xfe\xff"})
    worker = await redis_clients.alone(topic, 1)
    worker.begin({(topic, 0): 0})
    (batch,) = await taken(worker, 1)
    value = batch.values[0]
    assert value is not None
    assert b"\xfe\xff" in value
    with pytest.raises(ValueError, match=r"."):
        json.loads(value)


async def test_our_entries_are_plain_fields_for_everybody(redis_clients: RedisClients, redis: Any) -> None:
    client = await redis_clients.maker()
    topic = await make_topic(client, "events", 1)
    await client.send([Record(topic, 0, b"ann", b"{}"), Record(topic, 0, b"bob", b"1", (("h", b"x"),), 77)])
    entries = [fields for _, fields in redis.xrange(f"{topic}:0")]
    assert entries == [
        {b"v": b"{}", b"k": b"ann"},
        {b"v": b"1", b"k": b"bob", b"t": b"77", b"h": b'[["h","x"]]'},
    ]


async def test_an_id_beyond_20_bits_stops_reading_behind_the_entries_before_it(
    redis_clients: RedisClients, redis: Any
) -> None:
    topic = await make_topic(await redis_clients.maker(), "events", 1)
    redis.xadd(f"{topic}:0", {"v": "1"}, id="5-1048575")
    redis.xadd(f"{topic}:0", {"v": "2"}, id="5-1048576")
    worker = await redis_clients.alone(topic, 1)
    worker.begin({(topic, 0): 0})
    assert numbers_in((await worker.take(1))[topic, 0]) == [1]
    with pytest.raises(IdOutOfRange, match=r"5-1048576.*20"):
        await worker.client.fetch(50)


async def test_a_write_whose_id_would_pass_20_bits_is_refused_as_a_whole(
    redis_clients: RedisClients, redis: Any
) -> None:
    client = await redis_clients.maker()
    topic = await make_topic(client, "events", 2)
    far_ms = 4_000_000_000_000
    redis.xadd(f"{topic}:1", {"v": "0"}, id=f"{far_ms}-1048570")
    with pytest.raises(TransportError, match="20 bits"):
        await client.send([*numbered(topic, 0, range(3)), *numbered(topic, 1, range(10))])
    assert redis.xlen(f"{topic}:0") == 0
    offsets = await client.send(numbered(topic, 1, range(5)))
    assert offsets[-1] == (far_ms << 20) + 1_048_575


# Groups and lag


async def test_the_group_begins_at_0_is_made_once_and_shows_the_true_lag(
    redis_clients: RedisClients, redis: Any
) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 1), unique("app")
    spot, stream = (topic, 0), f"{topic}:0"
    ids = [redis.xadd(stream, {"v": str(n)}) for n in range(10)]
    worker = await redis_clients.alone(topic, 1, group)

    def shown() -> tuple[bytes, int | None, int | None]:
        (about,) = redis.xinfo_groups(stream)
        assert about["name"] == group.encode()
        return about["last-delivered-id"], about["entries-read"], about["lag"]

    assert shown()[0] == b"0-0"
    assert await worker.client.committed([spot]) == {spot: None}
    worker.begin({spot: 0})
    await worker.take(10)
    assignment = worker.listener.newest
    await worker.client.commit(Commit(assignment, [], {spot: offset_of_id(ids[3]) + 1}))
    assert shown() == (ids[3], 4, 6)
    redis.xadd(stream, {"v": "10"})
    assert shown()[2] == 7
    end = (await worker.client.high_watermarks([spot]))[spot]
    for n, entry_id in enumerate(ids[3:]):
        assert worker.client.records_between(spot, offset_of_id(entry_id) + 1, end) == 7 - n
    assert worker.client.records_between(spot, end, end) == 0
    await worker.client.stop()
    # The next one goes on counting from there; the group is there already.
    worker = await redis_clients.alone(topic, 1, group)
    at = (await worker.client.committed([spot]))[spot]
    assert at == offset_of_id(ids[3]) + 1
    worker.begin({spot: at})
    (batch,) = await taken(worker, 7)
    await worker.client.commit(Commit(worker.listener.newest, [], {spot: batch.next_offset}))
    assert shown()[1:] == (11, 0)


async def test_rebalances_do_not_lose_the_lag(redis_clients: RedisClients, redis: Any) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 2), unique("app")
    ids = {p: [redis.xadd(f"{topic}:{p}", {"v": str(n)}) for n in range(10)] for p in range(2)}
    first = await redis_clients.alone(topic, 2, group)
    await first.client.committed(partitions_of(topic, 2))
    first.begin(dict.fromkeys(partitions_of(topic, 2), 0))
    await first.take(20)
    half = {(topic, p): offset_of_id(ids[p][4]) + 1 for p in range(2)}

    async def last_checkpoint() -> None:
        await first.client.commit(Commit(first.listener.newest, [], half))

    first.listener.before_revoked = last_checkpoint
    second = await redis_clients.worker(group, topic)

    def shown() -> list[tuple[int | None, int | None]]:
        groups = [redis.xinfo_groups(f"{topic}:{p}")[0] for p in range(2)]
        return [(about["entries-read"], about["lag"]) for about in groups]

    for worker in (first, second):
        ((spot,),) = [(await worker.owns_number(1)).partitions]
        assert shown()[spot[1]] == (5, 5)
        assert (await worker.client.committed([spot]))[spot] == half[spot]
        # One goes on in front of what is committed, as the engine does with what it has in flight.
        worker.begin({spot: half[spot] if worker is second else offset_of_id(ids[spot[1]][9]) + 1})
        redis.xadd(f"{topic}:{spot[1]}", {"v": "10"})
        await worker.take(6 if worker is second else 1)
        done = {spot: offset_of_id(ids[spot[1]][7]) + 1}
        await worker.client.commit(Commit(worker.listener.newest, [], done))
        assert shown()[spot[1]] == (8, 3)


async def test_a_lost_count_is_found_again_at_the_end(redis_clients: RedisClients, redis: Any) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 1), unique("app")
    spot, stream = (topic, 0), f"{topic}:0"
    ids = [redis.xadd(stream, {"v": str(n)}) for n in range(10)]
    worker = await redis_clients.alone(topic, 1, group)
    await worker.client.committed([spot])
    worker.begin({spot: 0})
    await worker.take(10)
    worker.client.seek(spot, offset_of_id(ids[5]))  # not where it was: a run of reads of its own
    await worker.take(5)
    await worker.client.commit(Commit(worker.listener.newest, [], {spot: offset_of_id(ids[7])}))
    assert redis.xinfo_groups(stream)[0]["entries-read"] is None
    await worker.client.commit(Commit(worker.listener.newest, [], {spot: offset_of_id(ids[9]) + 1}))
    redis.xadd(stream, {"v": "10"})
    redis.xadd(stream, {"v": "11"})
    assert [redis.xinfo_groups(stream)[0][what] for what in ("entries-read", "lag")] == [10, 2]
    await worker.take(1)
    end = (await worker.client.high_watermarks([spot]))[spot]
    await worker.client.commit(Commit(worker.listener.newest, [], {spot: end - 1}))
    assert redis.xinfo_groups(stream)[0]["lag"] == 1


async def test_entries_that_are_trimmed_before_they_are_read_are_counted_and_told(
    redis_clients: RedisClients, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 1), unique("app")
    spot, stream = (topic, 0), f"{topic}:0"
    for n in range(10):
        redis.xadd(stream, {"v": str(n)})
    worker = await redis_clients.alone(topic, 1, group)
    await worker.client.committed([spot])
    worker.begin({spot: 0})
    batches = await taken(worker, 10)
    await worker.client.commit(Commit(worker.listener.newest, [], {spot: batches[-1].next_offset}))
    await worker.client.stop()
    # While nobody reads: 30 come, 12 stay; another 5 while one reads, and none stays at all.
    for n in range(30):
        redis.xadd(stream, {"v": str(n)})
    redis.xtrim(stream, maxlen=12, approximate=False)
    worker = await redis_clients.alone(topic, 1, group)
    at = (await worker.client.committed([spot]))[spot]
    assert at == batches[-1].next_offset
    worker.begin({spot: at})
    found = await gone_of(worker, 18)
    assert sum(len(batch.offsets) for batch in found) == 12
    with redis.pipeline(transaction=True) as pipeline:
        for n in range(5):
            pipeline.xadd(stream, {"v": str(n)})
        pipeline.xtrim(stream, maxlen=0, approximate=False)
        pipeline.xadd(stream, {"v": "last"})
        pipeline.execute()
    found = await gone_of(worker, 5)
    assert [batch.values for batch in found if batch.offsets] == [[b"last"]]
    await worker.client.commit(Commit(worker.listener.newest, [], {spot: found[-1].next_offset}))
    assert [redis.xinfo_groups(stream)[0][what] for what in ("entries-read", "lag")] == [46, 0]
    assert "18 records left the stream before they were read" in caplog.text


async def gone_of(worker: Worker, number: int) -> list[Batch]:
    """Batches, until so many records were told to be gone."""
    found: list[Batch] = []
    async with asyncio.timeout(LIMIT_S):
        while (gone := sum(batch.gone for batch in found)) < number:
            found += await worker.client.fetch(50)
    assert gone == number
    return found


async def test_a_removed_group_comes_back_with_the_next_commit(
    redis_clients: RedisClients, redis: Any
) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 1), unique("app")
    (offset,) = [offset_of_id(redis.xadd(f"{topic}:0", {"v": "1"}))]
    worker = await redis_clients.alone(topic, 1, group)
    redis.xgroup_destroy(f"{topic}:0", group)
    await worker.client.commit(Commit(worker.listener.newest, [], {(topic, 0): offset + 1}))
    assert [about["name"] for about in redis.xinfo_groups(f"{topic}:0")] == [group.encode()]


async def test_a_worker_started_again_in_its_slot_need_not_wait_for_its_former_lease(
    redis_clients: RedisClients,
) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 1), unique("app")
    slow = {"session_timeout_ms": 25_000, "slot": "worker-6066"}
    worker = await redis_clients.alone(topic, 1, group, **slow)
    await redis_clients.kill(worker.client)
    async with asyncio.timeout(10):
        await redis_clients.alone(topic, 1, group, **slow)


async def test_two_live_workers_of_one_slot_share(redis_clients: RedisClients) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 2), unique("app")
    workers = [await redis_clients.worker(group, topic, slot="same") for _ in range(2)]
    for worker in workers:
        await worker.owns_number(1)


async def test_the_pending_list_shows_failures_with_their_attempts_and_nothing_else(
    redis_clients: RedisClients, redis: Any
) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 1), unique("app")
    spot, stream = (topic, 0), f"{topic}:0"
    offsets = [offset_of_id(redis.xadd(stream, {"v": str(n)})) for n in range(5)]

    def shown() -> dict[int, tuple[bytes, int]]:
        entries = redis.xpending_range(stream, group, "-", "+", 10)
        return {
            offsets.index(offset_of_id(e["message_id"])): (e["consumer"], e["times_delivered"])
            for e in entries
        }

    async def commit(worker: Worker, number: int, failing: dict[int, int]) -> None:
        told = {(topic, 0, offsets[n]): attempts for n, attempts in failing.items()}
        assignment = worker.listener.newest
        await worker.client.commit(Commit(assignment, [], {spot: offsets[number]}, failing=told))

    first = await redis_clients.alone(topic, 1, group, slot="first")
    await first.client.committed([spot])
    await commit(first, 1, {1: 1, 2: 1})
    assert shown() == {1: (b"first", 1), 2: (b"first", 1)}
    await commit(first, 2, {2: 3})
    assert shown() == {2: (b"first", 3)}
    await redis_clients.kill(first.client)
    second = await redis_clients.alone(topic, 1, group, slot="second")
    await second.client.committed([spot])
    assert shown() == {2: (b"second", 3)}
    await commit(second, 2, {2: 1})
    assert shown() == {2: (b"second", 4)}
    await commit(second, 4, {})
    assert shown() == {}


async def test_all_that_a_dead_worker_left_pending_is_settled_however_much_it_is(
    redis_clients: RedisClients, redis: Any
) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 1), unique("app")
    spot, stream = (topic, 0), f"{topic}:0"
    ids = [redis.xadd(stream, {"v": str(n)}) for n in range(1_150)]
    offsets = [offset_of_id(entry_id) for entry_id in ids]
    first = await redis_clients.alone(topic, 1, group)
    failing = {(topic, 0, offset): 1 for offset in offsets}
    await first.client.commit(Commit(first.listener.newest, [], {spot: offsets[0]}, failing=failing))
    assert redis.xpending(stream, group)["pending"] == len(ids)
    redis.xdel(stream, *ids[1_100:])  # somebody took the last ones away
    await redis_clients.kill(first.client)
    second = await redis_clients.alone(topic, 1, group)
    await second.client.committed([spot])
    await second.client.commit(Commit(second.listener.newest, [], {spot: offsets[-1] + 1}))
    assert redis.xpending(stream, group)["pending"] == 0


# Commits


async def test_a_large_commit_is_whole_in_order_and_holds_the_server_up_for_less_than_10_ms(
    redis_clients: RedisClients, redis: Any
) -> None:
    maker = await redis_clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 4, compacted=True)
    worker = await redis_clients.alone(topic, 1)
    redis.config_resetstat()
    count = 40_000
    records = [
        Record(log, n % 4, b"key-%d" % n, b'{"n":%d,"text":"%s"}' % (n, b"x" * 60)) for n in range(count)
    ]
    ends = await worker.client.commit(Commit(worker.listener.newest, records, {(topic, 0): 1}))
    got = await read_all(maker, list(ends), LIMIT_S)
    assert {spot: rows[-1].offset + 1 for spot, rows in got.items()} == ends
    for p in range(4):
        assert [row.key for row in got[log, p]] == [b"key-%d" % n for n in range(p, count, 4)]
    stats = redis.info("commandstats")["cmdstat_evalsha"]
    # 40 scripts and a few: by the server's own clock, on average. A single one is too much at the mercy of
    # what else this machine does to be held to a bound here.
    assert stats["calls"] >= 40
    assert stats["usec_per_call"] < 10_000


async def test_a_commit_that_is_decided_is_published_by_whoever_comes_next(
    redis_clients: RedisClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = await redis_clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 2, compacted=True)
    group, spot = unique("app"), (topic, 0)
    worker = await redis_clients.alone(topic, 1, group, chunk_records=10)
    reached = asyncio.Event()
    call = Connection.call
    calls = 0

    async def die_at_the_third(self: Connection, script: Any, keys: Any, args: Any) -> Any:
        nonlocal calls
        if script is PUBLISH:
            calls += 1
            if calls == 3:
                reached.set()
                await asyncio.Event().wait()
        return await call(self, script, keys, args)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "call", die_at_the_third)
        records = [Record(log, n % 2, b"k", b"%d" % n) for n in range(100)]
        dying = asyncio.create_task(worker.client.commit(Commit(worker.listener.newest, records, {spot: 9})))
        await asyncio.wait_for(reached.wait(), LIMIT_S)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
    await redis_clients.kill(worker.client)
    second = await redis_clients.alone(topic, 1, group)
    assert await second.client.committed([spot]) == {spot: 9}
    await second.client.commit(Commit(second.listener.newest, numbered(log, 0, [100]), {spot: 10}))
    got = await read_all(maker, [(log, 0), (log, 1)], LIMIT_S)
    assert numbers_in(got[log, 0]) == [*range(0, 100, 2), 100]
    assert numbers_in(got[log, 1]) == list(range(1, 100, 2))


async def test_a_commit_whose_answer_is_lost_is_asked_for_again_and_counts_once(
    redis_clients: RedisClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = await redis_clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    worker = await redis_clients.alone(topic, 1)
    read, lost = SocketConnection.read_response, 0

    async def lose_the_first(connection: Any, **options: Any) -> Any:
        nonlocal lost
        answer = await read(connection, **options)
        if isinstance(answer, list) and answer and answer[0] == b"DONE" and not lost:
            lost += 1
            await connection.disconnect()
            raise OSError("the connection broke")
        return answer

    monkeypatch.setattr(SocketConnection, "read_response", lose_the_first)
    ends = await worker.client.commit(
        Commit(worker.listener.newest, numbered(log, 0, [1, 2]), {(topic, 0): 5})
    )
    assert lost == 1
    rows = (await read_all(maker, [(log, 0)], LIMIT_S))[log, 0]
    assert numbers_in(rows) == [1, 2]
    assert ends == {(log, 0): rows[-1].offset + 1}


async def test_a_commit_nobody_knows_of_is_ended_before_its_offsets_are_told(
    redis_clients: RedisClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request that was lost on the way comes in late: it must not count any more."""
    maker = await redis_clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    worker = await redis_clients.alone(topic, 1, decide_timeout_ms=1)
    late: list[Any] = []
    call = Connection.call

    async def never_arrives(connection: Connection, script: Any, *args: Any) -> Any:
        if script is not COMMIT:
            return await call(connection, script, *args)
        late.append((connection, script, *args))
        raise LostConnection("on the way")

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "call", never_arrives)
        with pytest.raises(CommitUnknown):
            await worker.client.commit(Commit(worker.listener.newest, numbered(log, 0, [1]), {(topic, 0): 5}))
    assert await worker.client.committed([(topic, 0)]) == {(topic, 0): None}
    await call(*late[0])
    assert await worker.client.committed([(topic, 0)]) == {(topic, 0): None}
    await worker.client.commit(Commit(worker.listener.newest, numbered(log, 0, [2]), {(topic, 0): 6}))
    assert numbers_in((await read_all(maker, [(log, 0)], LIMIT_S))[log, 0]) == [2]


async def test_a_commit_that_would_fail_in_the_middle_writes_nothing(
    redis_clients: RedisClients, redis: Any
) -> None:
    maker = await redis_clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 2)
    worker = await redis_clients.alone(topic, 1)
    redis.set(f"{log}:1", "not a stream")
    with pytest.raises(ConfigurationError, match="redis_stream_name"):
        await worker.client.commit(
            Commit(worker.listener.newest, [*numbered(log, 0, [1]), *numbered(log, 1, [1])], {(topic, 0): 5})
        )
    assert redis.xlen(f"{log}:0") == 0
    assert await worker.client.committed([(topic, 0)]) == {(topic, 0): None}


async def test_a_full_server_aborts_commits_and_goes_on_when_there_is_room(
    make_redis: Callable[..., RedisServer],
) -> None:
    server = make_redis()
    clients = RedisClients(server.port)
    admin: Any = server.client()
    try:
        maker = await clients.maker()
        topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
        worker = await clients.alone(topic, 1)
        admin.set("filler", b"x" * 12_000_000)
        admin.config_set("maxmemory", "8mb")
        for records in (numbered(log, 0, [1]), numbered(log, 0, range(5_000))):
            with pytest.raises(CommitAborted, match="maxmemory"):
                await worker.client.commit(Commit(worker.listener.newest, records, {(topic, 0): 5}))
        admin.config_set("maxmemory", "0")
        assert admin.xlen(f"{log}:0") == 0
        await worker.client.commit(Commit(worker.listener.newest, numbered(log, 0, [2]), {(topic, 0): 6}))
        assert numbers_in((await read_all(maker, [(log, 0)], LIMIT_S))[log, 0]) == [2]
    finally:
        admin.close()
        await clients.close()


async def test_a_full_server_takes_no_partition_away(make_redis: Callable[..., RedisServer]) -> None:
    server = make_redis()
    clients = RedisClients(server.port)
    admin: Any = server.client()
    try:
        topic = await make_topic(await clients.maker(), "events", 2)
        group = unique("app")
        worker = await clients.alone(topic, 2, group)
        admin.set("filler", b"x" * 12_000_000)
        admin.config_set("maxmemory", "8mb")
        leases = f"streamflow:{group}:leases"
        ((member, lease_ms),) = admin.zrange(leases, 0, -1, withscores=True)
        async with asyncio.timeout(LIMIT_S):
            await until(lambda: admin.zscore(leases, member) > lease_ms + 1_000)
        assert worker.listener.story == ["assigned"]
    finally:
        admin.close()
        await clients.close()


# Compaction and trimming


async def test_a_compacted_partition_is_restored_from_its_snapshot_and_the_tail(
    redis_clients: RedisClients, redis: Any
) -> None:
    client = await redis_clients.maker(compact_records=50, compact_delay_ms=0, tombstone_ms=3_600_000)
    log = await make_topic(client, "log", 1, compacted=True)
    spot, stream = (log, 0), f"{log}:0"
    compaction = compaction_of(client)
    for turn in range(5):
        await client.send([Record(log, 0, b"%d" % n, b"%d" % turn, (("turn", b"x"),)) for n in range(100)])
        await client.send([Record(log, 0, b"%d" % turn, None)])
        await compaction.compact(spot)
    assert redis.xlen(stream) < 300
    end = (await client.high_watermarks([spot]))[spot]
    reader = client.log_reader()
    rows = (await read_until(reader, {spot: 0}, {spot: end}, LIMIT_S))[spot]
    assert [row.offset for row in rows] == sorted({row.offset for row in rows})
    newest = {row.key: (row.value, row.headers) for row in rows}
    wanted: dict[bytes, Any] = {b"%d" % n: (b"4", (("turn", b"x"),)) for n in range(100)}
    assert newest == wanted | {b"4": (None, ())}
    assert (await client.earliest_offsets([spot]))[spot] <= rows[0].offset
    # One who has read half of it misses nothing that changed since.
    middle = rows[len(rows) // 2].offset
    half = (await read_until(reader, {spot: middle}, {spot: end}, LIMIT_S))[spot]
    await reader.close()
    assert half == [row for row in rows if row.offset >= middle]


async def test_a_reader_that_compaction_overtakes_learns_what_it_missed(redis_clients: RedisClients) -> None:
    client = await redis_clients.maker(compact_records=100, compact_delay_ms=0)
    log = await make_topic(client, "log", 1, compacted=True)
    spot = (log, 0)
    await client.send([Record(log, 0, b"gone", b"1"), *numbered(log, 0, range(3))])
    reader = client.log_reader()
    state = {
        row.key: row.value
        for row in (await read_until(reader, {spot: 0}, await client.high_watermarks([spot]), LIMIT_S))[spot]
    }
    assert state == {b"gone": b"1", b"k": b"2"}
    await client.send([Record(log, 0, b"gone", None), *numbered(log, 0, range(500))])
    compaction = compaction_of(client)
    await compaction.compact(spot)
    await client.send(numbered(log, 0, [500]))
    await compaction.compact(spot)
    await client.send(numbered(log, 0, [501]))
    end = (await client.high_watermarks([spot]))[spot]
    position = 0
    async with asyncio.timeout(LIMIT_S):
        while position < end:
            for batch in await reader.read(50):
                state.update(zip(batch.keys, batch.values, strict=True))
                position = batch.next_offset
    assert state == {b"gone": None, b"k": b"501"}
    await reader.close()


async def test_old_tombstones_leave_the_snapshot(redis_clients: RedisClients, redis: Any) -> None:
    client = await redis_clients.maker(compact_records=10, compact_delay_ms=0, tombstone_ms=0)
    log = await make_topic(client, "log", 1, compacted=True)
    compaction = compaction_of(client)
    await client.send([Record(log, 0, b"%d" % n, b"1") for n in range(50)])
    await client.send([Record(log, 0, b"%d" % n, None) for n in range(40)])
    await client.send([Record(log, 0, b"0", b"again")])
    for n in range(3):
        await client.send([Record(log, 0, b"last", b"%d" % m) for m in range(200 + n)])
        await compaction.compact((log, 0))
    keys = {field.decode() for field in redis.hkeys(f"{log}:0:snapshot")}
    assert keys == {f"k{n}" for n in range(40, 50)} | {"klast", "k0"}


async def test_trimming_keeps_what_any_group_has_still_to_read(
    redis_clients: RedisClients, redis: Any
) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 1), unique("app")
    spot, stream = (topic, 0), f"{topic}:0"
    worker = await redis_clients.alone(topic, 1, group, trim="slowest_group")
    offsets = await worker.client.send(numbered(topic, 0, range(1_000)))
    redis.xgroup_create(stream, "others", "0")
    worker.begin({spot: 0})
    await worker.take(1_000)
    await worker.client.commit(Commit(worker.listener.newest, [], {spot: offsets[-1] + 1}))
    compaction = compaction_of(worker.client)
    await compaction.trim(spot)
    assert redis.xlen(stream) == 1_000
    redis.xreadgroup("others", "me", {stream: ">"}, count=600)
    await compaction.trim(spot)
    assert redis.xlen(stream) == 1_000  # nothing of it is acknowledged
    pending = [entry["message_id"] for entry in redis.xpending_range(stream, "others", "-", "+", 600)]
    redis.xack(stream, "others", *pending)
    await compaction.trim(spot)
    assert 400 <= redis.xlen(stream) <= 550  # whole nodes go
    assert (await worker.client.earliest_offsets([spot]))[spot] <= offsets[600]


# What is lost, and who is refused


async def test_a_committed_offset_beyond_the_end_is_refused(redis_clients: RedisClients, redis: Any) -> None:
    topic, group = await make_topic(await redis_clients.maker(), "events", 1), unique("app")
    spot = (topic, 0)
    worker = await redis_clients.alone(topic, 1, group)
    offsets = await worker.client.send(numbered(topic, 0, range(10)))
    await worker.client.commit(Commit(worker.listener.newest, [], {spot: offsets[-1] + 1}))
    await worker.client.stop()
    redis.delete(f"{topic}:0")
    worker = await redis_clients.alone(topic, 1, group)
    at = (await worker.client.committed([spot]))[spot]
    assert at is not None
    worker.begin({spot: at})
    with pytest.raises(LostWrites, match="beyond the end"):
        await worker.client.fetch(50)


async def test_a_server_that_comes_back_without_its_last_writes_is_noticed_by_who_made_them(
    make_redis: Callable[..., RedisServer],
) -> None:
    server = make_redis()  # no append-only file: a killed one has nothing
    clients = RedisClients(server.port)
    admin: Any = server.client()
    try:
        maker = await clients.maker()
        topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
        worker = await clients.alone(topic, 1, session_timeout_ms=20_000)
        await worker.client.commit(Commit(worker.listener.newest, numbered(log, 0, [1]), {(topic, 0): 1}))
        reader = maker.log_reader()
        await read_until(reader, {(log, 0): 0}, await maker.high_watermarks([(log, 0)]), LIMIT_S)
        admin.save()
        await worker.client.commit(Commit(worker.listener.newest, numbered(log, 0, [2]), {(topic, 0): 2}))
        await read_until_value(reader, b"2")
        server.kill()
        server.start()
        await maker.send(numbered(log, 0, [3]))  # hides the loss from who only looks at the end
        with pytest.raises(LostWrites, match="lost writes"):
            await committed_again(
                worker, Commit(worker.listener.newest, numbered(log, 0, [4]), {(topic, 0): 3})
            )
        with pytest.raises(LostWrites):
            await until_raised(reader)
        await reader.close()
    finally:
        admin.close()
        await clients.close()


async def committed_again(worker: Worker, commit: Commit) -> None:
    """As a checkpoint does: what had no effect is tried again."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await worker.client.commit(commit)
                return
            except CommitAborted:
                await asyncio.sleep(0.05)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a server of another process has no event for us
        await asyncio.sleep(0.02)


async def read_until_value(reader: Any, value: bytes) -> Batch:
    async with asyncio.timeout(LIMIT_S):
        while True:
            for batch in await reader.read(50):
                if value in batch.values:
                    return batch  # type: ignore[no-any-return]


async def until_raised(reader: Any) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                await reader.read(50)
            except TransportError:
                continue  # the connection that broke


def info(**changes: str) -> dict[str, str]:
    good = {"redis_version": "7.0.15", "redis_mode": "standalone", "cluster_enabled": "0", "role": "master"}
    return good | {"maxmemory_policy": "noeviction", "aof_enabled": "1"} | changes


@pytest.mark.parametrize(
    "changes, settings, words",
    [
        ({"redis_version": "6.2.14"}, {}, "7.0"),
        ({"cluster_enabled": "1"}, {}, "different slots"),
        ({"redis_mode": "cluster"}, {}, "different slots"),
        ({"maxmemory_policy": "allkeys-lru"}, {}, "maxmemory-policy noeviction"),
        ({"role": "slave"}, {}, "replica"),
        ({}, {"wait_aof": True}, "redis_wait_aof.*7.2"),
        ({"redis_version": "7.2.4", "aof_enabled": "0"}, {"wait_aof": True}, "redis_wait_aof.*appendonly"),
    ],
)
def test_a_server_that_will_not_do_is_refused_by_name(
    changes: dict[str, str], settings: dict[str, Any], words: str
) -> None:
    check(info(), RedisSettings("app"))
    with pytest.raises(ConfigurationError, match=words):
        check(info(**changes), RedisSettings("app", **settings))


@pytest.mark.parametrize("config", [{"maxmemory-policy": "volatile-lru"}, {"cluster-enabled": "yes"}])
async def test_a_real_server_that_will_not_do_is_refused(
    make_redis: Callable[..., RedisServer], config: dict[str, str]
) -> None:
    client = RedisTransport(RedisSettings("app", port=make_redis(config=config).port), SystemClock())
    with pytest.raises(ConfigurationError, match=r"maxmemory-policy|cluster"):
        await client.start()
    await client.stop()


@pytest.mark.parametrize(
    "appendonly, said",
    [("no", "appendonly no"), ("everysec", "up to two seconds may be lost"), ("always", "")],
)
async def test_what_a_killed_server_would_lose_is_told_at_the_start(
    make_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture, appendonly: str, said: str
) -> None:
    caplog.set_level("INFO", "streamflow")
    port = make_redis(appendonly=appendonly).port
    client = RedisTransport(RedisSettings("app", port=port), SystemClock())
    await client.start()
    await client.stop()
    assert said in caplog.text
    assert bool(caplog.records) == bool(said)


async def test_no_server_at_all_is_a_transport_error_that_names_it() -> None:
    client = RedisTransport(RedisSettings("app", host="127.0.0.1", port=1), SystemClock())
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1"):
        await client.start()
    await client.stop()


# Security, copies, fail-over


def documented_rights() -> str:
    """The line of docs/how-to/run-on-redis.md, as redis.conf has it: without the first two words."""
    text = (ROOT / "docs" / "how-to" / "run-on-redis.md").read_text()
    return " ".join(text.partition("ACL SETUSER ")[2].partition("```")[0].split())


async def test_the_documented_rights_are_enough_and_all_used_and_a_wrong_password_is_told(
    make_redis: Callable[..., RedisServer],
) -> None:
    server = make_redis(users=[documented_rights(), "admin on >secret ~* +@all", "default off"])
    login = {"username": "app", "password": "secret"}
    small = {"chunk_records": 10, "compact_records": 10, "compact_delay_ms": 0}
    clients = RedisClients(server.port, db=1, **login, **small)
    try:
        maker = await clients.maker()
        topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1, compacted=True)
        spot, group = (topic, 0), unique("app")
        offsets = await maker.send(numbered(topic, 0, range(5)))
        worker = await clients.alone(topic, 1, group, trim="slowest_group")
        records = [Record(log, 0, b"%d" % n, None if n % 9 == 0 else b"1") for n in range(100)]
        failing = {(topic, 0, offsets[0]): 1}
        newest = worker.listener.newest
        for _ in range(2):
            await worker.client.commit(Commit(newest, records, {spot: offsets[0]}, failing=failing))
        compaction = compaction_of(worker.client)
        for _ in range(2):
            await compaction.once()
        assert len({row.key for row in (await read_all(maker, [(log, 0)], LIMIT_S))[log, 0]}) == 100
        assert await worker.client.earliest_offsets([spot]) == {spot: offsets[0]}
        await clients.kill(worker.client)
        worker = await clients.alone(topic, 1, group)
        assert await worker.client.committed([spot]) == {spot: offsets[0]}
        await worker.client.commit(Commit(worker.listener.newest, [], {spot: offsets[-1] + 1}))
        await worker.client.stop()
        for wrong in ({"password": "other"}, {"username": None, "password": None}):
            client = clients.new("app", "worker", **wrong)
            with pytest.raises(ConfigurationError, match="redis_password"):
                await client.start()
        with contextlib.closing(Redis(port=server.port, username="admin", password="secret")) as admin:
            called = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
        assert {word.removeprefix("+") for word in documented_rights().split()[4:]} <= called | {"-@all"}
    finally:
        await clients.close()


async def test_tls_checks_the_server(make_redis: Callable[..., RedisServer]) -> None:
    server = make_redis(tls=True)
    assert server.certificates is not None
    clients = RedisClients(server.port, host="127.0.0.1", tls=True, tls_ca_file=str(server.certificates.ca))
    try:
        maker = await clients.maker()
        topic = await make_topic(maker, "events", 1)
        await maker.send(numbered(topic, 0, [1]))
        assert numbers_in((await read_all(maker, [(topic, 0)], LIMIT_S))[topic, 0]) == [1]
        with pytest.raises(TransportError, match="certificate"):
            await clients.new("app", "worker", tls_ca_file=None).start()
    finally:
        await clients.close()


async def test_a_checkpoint_waits_for_replicas_and_its_fate_is_unknown_without_them(
    make_redis: Callable[..., RedisServer],
) -> None:
    master = make_redis()
    replica = make_redis(replica_of=master)
    clients = RedisClients(master.port, wait_replicas=1, wait_timeout_ms=2_000)
    admin: Any = replica.client()
    try:
        maker = await clients.maker()
        topic = await make_topic(maker, "events", 1)
        worker = await clients.alone(topic, 1)
        async with asyncio.timeout(LIMIT_S):
            await until(lambda: admin.info("replication")["master_link_status"] == "up")
        await worker.client.commit(Commit(worker.listener.newest, numbered(topic, 0, [1]), {(topic, 0): 0}))
        assert admin.xlen(f"{topic}:0") == 1
        replica.pause()
        with pytest.raises(CommitUnknown, match="redis_wait_replicas"):
            await worker.client.commit(
                Commit(worker.listener.newest, numbered(topic, 0, [2]), {(topic, 0): 0})
            )
        replica.unpause()
        with pytest.raises(ConfigurationError, match="replica"):
            await clients.new("app", "worker", port=replica.port).start()
    finally:
        admin.close()
        await clients.close()


async def test_waitaof_waits_for_the_append_only_file(make_redis: Callable[..., RedisServer]) -> None:
    clients = RedisClients(make_redis(flavour="valkey", appendonly="everysec").port, wait_aof=True)
    try:
        topic = await make_topic(await clients.maker(), "events", 1)
        worker = await clients.alone(topic, 1)
        await worker.client.commit(Commit(worker.listener.newest, numbered(topic, 0, [1]), {(topic, 0): 0}))
    finally:
        await clients.close()


async def test_after_a_fail_over_by_sentinel_commits_go_on_and_nothing_waited_for_is_lost(
    make_redis: Callable[..., RedisServer],
) -> None:
    master = make_redis()
    make_redis(replica_of=master)
    with SentinelServer(master) as sentinel:
        clients = RedisClients(
            0,
            sentinels=(("127.0.0.1", sentinel.port),),
            sentinel_service=sentinel.service,
            wait_replicas=0,
            session_timeout_ms=20_000,
            decide_timeout_ms=25_000,
        )
        try:
            maker = await clients.maker()
            topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
            worker = await clients.alone(topic, 1)
            assignment = worker.listener.newest
            admin: Any = master.client()
            await worker.client.commit(Commit(assignment, numbered(log, 0, [1]), {(topic, 0): 0}))
            assert admin.wait(1, 5_000) == 1
            admin.close()
            master.kill()
            await committed_again(worker, Commit(assignment, numbered(log, 0, [2]), {(topic, 0): 0}))
            assert isinstance(assignment.fence, GroupFence)
            assert numbers_in((await read_all(worker.client, [(log, 0)], LIMIT_S))[log, 0]) == [1, 2]
        finally:
            await clients.close()


async def test_a_commit_of_nobody_is_fenced(redis_clients: RedisClients) -> None:
    topic = await make_topic(await redis_clients.maker(), "events", 1)
    worker = await redis_clients.alone(topic, 1)
    newest = worker.listener.newest
    other = type(newest)(newest.generation, newest.partitions, (), GroupFence(newest.generation, "nobody"))
    with pytest.raises(Fenced):
        await worker.client.commit(Commit(other, numbered(topic, 0, [1]), {(topic, 0): 1}))


async def test_retention_lets_old_records_go(redis_clients: RedisClients, redis: Any) -> None:
    maker = await redis_clients.maker()
    name = unique("events")
    await maker.create_topics([TopicSpec(name, 1, retention_ms=60_000)])
    for n in range(1, 301):
        redis.xadd(f"{name}:0", {"v": "old"}, id=f"{n}-0")
    await maker.send(numbered(name, 0, [1]))
    compaction = compaction_of(maker)
    await compaction.trim((name, 0))
    assert redis.xlen(f"{name}:0") < 110  # whole nodes go
