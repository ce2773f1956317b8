"""The fast reading side against aiokafka's own, on everything that a log can hold."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.protocol.fetch import FetchRequest

from streamflow.clock import SystemClock
from streamflow.transports.base import Batch, Commit, LogReader, Record, TopicPartition
from streamflow.transports.kafka import KafkaTransport
from streamflow.transports.kafka import fetcher as columns
from streamflow.transports.kafka.broker_states import BrokerStates
from streamflow.transports.kafka.client import ClusterClient
from streamflow.transports.kafka.leader_check import newest_end
from tests.contract.harness import Seen, make_topic, numbered, numbers_in, rows_of
from tests.integration.kafka_clients import LIMIT_S, KafkaClients

both = pytest.mark.parametrize("fast", [True, False], ids=["columns", "getmany"])


async def producer_of(bootstrap: str, **options: Any) -> AIOKafkaProducer:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **options)
    await producer.start()
    return producer


async def varied_log(clients: KafkaClients, client: KafkaTransport) -> tuple[str, int]:
    """A topic with records of every kind; and how many of them are committed."""
    topic = await make_topic(client, "varied", 1)
    now_ms = int(time.time() * 1_000)  # noqa: TID251  # brokers reject stamps far from their own clock
    plain = await producer_of(clients.bootstrap)
    zipped = await producer_of(clients.bootstrap, compression_type="gzip", linger_ms=20)
    transactional = await producer_of(clients.bootstrap, transactional_id=topic)
    total = 0
    for n in range(6):
        await plain.send_and_wait(topic, b"p%d" % n, key=None, timestamp_ms=now_ms - n)
        await plain.send_and_wait(topic, None, key=b"gone")
        await asyncio.gather(
            *[await zipped.send(topic, b"z%d" % i, key=b"", headers=[("h", b"%d" % i)]) for i in range(5)]
        )
        await transactional.begin_transaction()
        await asyncio.gather(*[await transactional.send(topic, b"t%d" % i, key=b"k") for i in range(3)])
        # What belongs to nobody's transaction lies between its records.
        await plain.send_and_wait(topic, b"between")
        await transactional.send_and_wait(topic, b"t", key=b"k")
        if n % 2:
            await transactional.commit_transaction()
        else:
            await transactional.abort_transaction()
        total += 8 + (4 if n % 2 else 0)
    # An empty transaction's control record is the last thing in the log.
    await transactional.begin_transaction()
    await transactional.send_and_wait(topic, b"aborted")
    await transactional.abort_transaction()
    for producer in (plain, zipped, transactional):
        await producer.stop()
    return topic, total


async def read_from(
    reader: LogReader, spot: TopicPartition, offset: int, end: int
) -> tuple[list[Seen], Batch]:
    """All records from ``offset`` until ``end`` is passed, and the last batch."""
    await reader.assign({spot: offset})
    rows: list[Seen] = []
    async with asyncio.timeout(LIMIT_S):
        while True:
            for batch in await reader.read(100):
                rows += rows_of(batch)
                if batch.next_offset >= end:
                    return rows, batch


@pytest.fixture
async def stock(clients: KafkaClients) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=clients.bootstrap, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    yield consumer
    await consumer.stop()


async def stock_rows(consumer: AIOKafkaConsumer, topic: str, offset: int, number: int) -> list[Seen]:
    tp = KafkaPartition(topic, 0)
    consumer.assign([tp])
    consumer.seek(tp, offset)
    rows: list[Seen] = []
    async with asyncio.timeout(LIMIT_S):
        while len(rows) < number:
            for record in (await consumer.getmany(timeout_ms=100)).get(tp, ()):
                rows.append(Seen(record.offset, record.key, record.value, record.timestamp, record.headers))
    return rows


@both
async def test_every_kind_of_record_comes_as_aiokafka_reads_it(
    clients: KafkaClients, stock: AIOKafkaConsumer, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    if not fast:
        monkeypatch.setattr(columns, "supported", lambda: False)
    client = await clients.maker()
    topic, total = await varied_log(clients, client)
    spot = (topic, 0)
    end = (await client.high_watermarks([spot]))[spot]
    expected = await stock_rows(stock, topic, 0, total)
    assert len(expected) == total
    reader = client.log_reader()
    rows, last = await read_from(reader, spot, 0, end)
    assert rows == expected
    # The control record behind the aborted one is passed although no record came with it.
    assert (last.next_offset, last.end_offset) == (end, end)
    for offset in range(1, end, 7):
        rows, _ = await read_from(reader, spot, offset, end)
        assert rows == [row for row in expected if row.offset >= offset]
    await reader.close()


@both
async def test_the_groups_reader_is_told_of_an_end_that_no_record_marks(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    if not fast:
        monkeypatch.setattr(columns, "supported", lambda: False)
    maker = await clients.maker()
    topic = await make_topic(maker, "events", 1)
    worker = await clients.alone(topic, 1)
    spot = (topic, 0)
    await worker.client.send(numbered(topic, 0, [1]))
    worker.begin({spot: 0})
    assert numbers_in((await worker.take(1))[spot]) == [1]
    await worker.client.commit(Commit(worker.listener.newest, numbered(topic, 0, [2]), {spot: 1}))
    assert numbers_in((await worker.take(1))[spot]) == [2]
    transactional = await producer_of(clients.bootstrap, transactional_id=topic)
    await transactional.begin_transaction()
    await transactional.send_and_wait(topic, b"9")
    await transactional.abort_transaction()
    await transactional.stop()
    end = (await maker.high_watermarks([spot]))[spot]
    async with asyncio.timeout(LIMIT_S):
        while True:
            batches = await worker.client.fetch(100)
            assert [row for batch in batches for row in rows_of(batch)] == []
            if batches and batches[-1].next_offset == batches[-1].end_offset == end:
                break
    # Said once: a reader at the end is not woken again and again.
    assert await worker.client.fetch(250) == []


async def test_an_empty_partition_says_that_its_end_is_reached(clients: KafkaClients) -> None:
    topic = await make_topic(await clients.maker(), "events", 1)
    worker = await clients.alone(topic, 1)
    worker.begin({(topic, 0): 0})
    [batch] = await worker.client.fetch(5_000)
    assert (batch.next_offset, batch.end_offset, list(batch.offsets)) == (0, 0, [])


@both
async def test_an_offset_that_is_gone_restarts_at_the_earliest_with_a_warning(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fast: bool
) -> None:
    if not fast:
        monkeypatch.setattr(columns, "supported", lambda: False)
    client = await clients.maker()
    topic = await make_topic(client, "events", 1)
    await client.send(numbered(topic, 0, range(3)))
    reader = client.log_reader()
    with caplog.at_level(logging.WARNING):
        await reader.assign({(topic, 0): 700})
        rows: list[Seen] = []
        async with asyncio.timeout(LIMIT_S):
            while len(rows) < 3:
                rows += [row for batch in await reader.read(100) for row in rows_of(batch)]
    await reader.close()
    assert numbers_in(rows) == [0, 1, 2]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("streamflow")]
    assert any(topic in text and "700" in text and "earliest, 0" in text for text in said)


async def test_a_leader_of_the_past_moves_no_position(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that was frozen has a log that ends too early, and takes itself for the leader."""
    client = await clients.maker()
    topic = await make_topic(client, "events", 1)
    await client.send(numbered(topic, 0, range(3)))
    send, lies = ClusterClient.send, 0

    async def lying(self: ClusterClient, node_id: int, request: Any, **options: Any) -> Any:
        nonlocal lies
        answer = await send(self, node_id, request, **options)
        if isinstance(request, FetchRequest) and request.topics[0][1][0][1] == 3 and lies < 2:
            lies += 1
            ((name, ((partition, _, *rest),)),) = answer.topics
            answer.topics = [(name, [(partition, columns.OFFSET_OUT_OF_RANGE, *rest)])]
        return answer

    monkeypatch.setattr(ClusterClient, "send", lying)
    reader = client.log_reader()
    await reader.assign({(topic, 0): 0})
    rows: list[Seen] = []
    async with asyncio.timeout(LIMIT_S):
        while lies < 2:
            rows += [row for batch in await reader.read(100) for row in rows_of(batch)]
        await client.send(numbered(topic, 0, range(3, 5)))
        while len(rows) < 5:
            rows += [row for batch in await reader.read(100) for row in rows_of(batch)]
    await reader.close()
    assert numbers_in(rows) == [0, 1, 2, 3, 4]


async def test_only_the_newest_leader_says_where_a_partition_ends(clients: KafkaClients) -> None:
    client = await clients.maker()
    topic = await make_topic(client, "events", 1)
    await client.send(numbered(topic, 0, range(3)))
    cluster = ClusterClient(client.settings, SystemClock(), BrokerStates(SystemClock()))
    await cluster.bootstrap()
    try:
        node_id = cluster.get_random_node()
        assert await newest_end(cluster, node_id, (topic, 0)) == 3
        assert await newest_end(cluster, node_id + 1, (topic, 0)) is None
    finally:
        await cluster.close()


@both
async def test_records_that_retention_took_before_they_were_read_are_counted(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    if not fast:
        monkeypatch.setattr(columns, "supported", lambda: False)
    client = await clients.maker()
    topic = await make_topic(client, "events", 1)
    await client.send(numbered(topic, 0, range(10)))
    admin = AIOKafkaAdminClient(bootstrap_servers=clients.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({KafkaPartition(topic, 0): RecordsToDelete(before_offset=7)})
    finally:
        await admin.close()
    reader = client.log_reader()
    await reader.assign({(topic, 0): 2})
    batches: list[Batch] = []
    async with asyncio.timeout(LIMIT_S):
        while sum(len(batch.offsets) for batch in batches) < 3:
            batches += await reader.read(100)
    await reader.close()
    assert sum(batch.gone for batch in batches) == 5


async def test_a_stock_consumer_in_the_same_process_is_left_alone(
    clients: KafkaClients, stock: AIOKafkaConsumer
) -> None:
    client = await clients.maker()
    topic = await make_topic(client, "events", 1)
    await client.send([Record(topic, 0, b"k", b"1"), Record(topic, 0, b"k", b"2")])
    reader = client.log_reader()
    await read_from(reader, (topic, 0), 0, 2)
    assert type(stock._fetcher).__module__.startswith("aiokafka.")
    assert [row.value for row in await stock_rows(stock, topic, 0, 2)] == [b"1", b"2"]
    await reader.close()


async def test_what_a_paused_partition_had_fetched_comes_when_it_is_resumed(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = asyncio.Event()

    class Telling(columns.Fetched):
        def __init__(self, data: bytes, *rest: Any) -> None:
            super().__init__(data, *rest)
            if data:
                fetched.set()

    monkeypatch.setattr(columns, "Fetched", Telling)
    client = await clients.maker()
    topic = await make_topic(client, "events", 1)
    worker = await clients.alone(topic, 1)
    await client.send(numbered(topic, 0, range(3)))
    worker.begin({(topic, 0): 0})
    await asyncio.wait_for(fetched.wait(), LIMIT_S)
    worker.client.pause([(topic, 0)])
    waiting = asyncio.create_task(worker.client.fetch(20_000))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done
    worker.client.resume([(topic, 0)])
    [batch] = await asyncio.wait_for(waiting, 5)
    assert numbers_in(rows_of(batch)) == [0, 1, 2]


def test_this_aiokafka_is_the_one_that_fast_reading_was_written_for() -> None:
    assert columns.supported()
