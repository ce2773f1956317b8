"""What Kafka refuses for good, and how that is told."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.protocol.transaction import InitProducerIdRequest

from streamflow.engine.dead_letters import EXTRA_BYTES, FIRST_BYTES
from streamflow.errors import ConfigurationError, RecordRefused, RecordTooLarge
from streamflow.transports.base import Commit, Record, TopicSpec
from tests.contract.harness import make_topic, numbered, read_all, unique
from tests.integration.kafka_clients import LIMIT_S, KafkaClients
from tests.integration.test_kafka_gaps import seen
from tests.support.running import make_app, running, until


async def test_every_record_that_is_refused_is_named_and_the_rest_may_be_written(
    clients: KafkaClients,
) -> None:
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    small = await make_topic(maker, "small", 1, record_bytes_max=10_000)
    compacted = await make_topic(maker, "compacted", 1, compacted=True)
    worker = await clients.alone(topic, 1)
    records = [
        *numbered(log, 0, [1]),
        *(Record(compacted, 0, key, b"v") for key in (b"a", None, b"b", b"c", None)),
        Record(small, 0, b"k", b"x" * 50_000),
        *numbered(small, 0, [7]),
    ]
    commit = Commit(worker.listener.newest, records, {(topic, 0): 3})
    with pytest.raises(RecordRefused, match="INVALID_RECORD") as told:
        await worker.client.commit(commit)
    refused = told.value.refused
    assert {index: type(why) for index, why in refused.items()} == {
        2: RecordRefused,
        5: RecordRefused,
        6: RecordTooLarge,
    }
    assert await seen(clients, log) == []
    commit.records = [record for index, record in enumerate(records) if index not in refused]
    await worker.client.commit(commit)
    assert await seen(clients, log) == [1]
    assert await seen(clients, small) == [7]
    assert await worker.client.committed([(topic, 0)]) == {(topic, 0): 3}


async def test_a_topic_tells_how_large_its_records_may_be(clients: KafkaClients) -> None:
    maker = await clients.maker()
    small = await make_topic(maker, "small", 1, record_bytes_max=10_000)
    plain = await make_topic(maker, "plain", 1)
    assert await maker.record_limits([small, plain, "no-such-topic"]) == {small: 10_000, plain: 1_048_588}


async def test_a_broker_without_transactions_is_told_apart_by_the_setting_that_helps(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played by hiding one request from the list of those that the broker knows."""
    topic = await make_topic(await clients.maker(), "events", 1)
    worker = await clients.alone(topic, 1)
    prepare = InitProducerIdRequest.prepare

    def without(self: Any, versions: dict[int, Any]) -> Any:
        return prepare(self, {key: known for key, known in versions.items() if key != self.API_KEY})

    monkeypatch.setattr(InitProducerIdRequest, "prepare", without)
    with pytest.raises(ConfigurationError, match="processing_guarantee"):
        await worker.client.commit(Commit(worker.listener.newest, numbered(topic, 0, [1]), {(topic, 0): 1}))


@pytest.mark.parametrize("made_before", [False, True], ids=["made-by-the-app", "made-before"])
async def test_an_event_of_2_mb_is_set_aside(clients: KafkaClients, made_before: bool) -> None:
    """Whole in a topic that the app has made; its beginning in one that takes less."""
    maker = await clients.maker()
    source = await make_topic(maker, "events", 1, record_bytes_max=8_000_000)
    letters = f"{source}-dead-letters"
    if made_before:
        await maker.create_topics([TopicSpec(letters, 1)])
    app = make_app(transport=clients.new(unique("group"), "w"), commit_interval=0.1)
    topic = app.topic(source, key_type=str, value_type=int, partitions=1)
    done: list[int] = []

    @app.agent(topic)
    async def count(stream: Any) -> None:
        async for value in stream:
            done.append(value)

    async def set_aside() -> list[Any]:
        return (await read_all(maker, [(letters, 0)], LIMIT_S))[letters, 0]

    value = b'"' + b"x" * 2_000_000 + b'"'
    async with running(app):
        await maker.send([Record(source, 0, b"k", value), Record(source, 0, b"k", b"7")])
        await until(lambda: done == [7])
        (letter,) = await until(set_aside)
    assert letter.value == (value[:FIRST_BYTES] if made_before else value)
    limit = (await maker.record_limits([letters]))[letters]
    assert limit == (1_048_588 if made_before else 8_000_000 + EXTRA_BYTES)
