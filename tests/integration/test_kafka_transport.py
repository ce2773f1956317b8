"""What the Kafka driver adds to the contract, and what it does when brokers or answers are missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import EndTxnRequest

from streamflow.clock import SystemClock
from streamflow.errors import (
    CommitAborted,
    CommitUnknown,
    ConfigurationError,
    Fenced,
    RecordTooLarge,
    TransportError,
)
from streamflow.transports.base import Commit, Record, Replication, TopicSpec, Transport
from streamflow.transports.kafka import KafkaSettings, KafkaTransport
from streamflow.transports.kafka.broker_states import BrokerStates
from streamflow.transports.kafka.client import ClusterClient
from streamflow.transports.kafka.connection import Connection, Coordinator
from streamflow.transports.kafka.group import GroupFence
from tests.contract.harness import Worker, make_topic, numbered, numbers_in, partitions_of, read_all, unique
from tests.integration.kafka_clients import LIMIT_S, KafkaClients
from tests.support import kafka_server


async def seen(clients: KafkaClients, topic: str) -> list[int]:
    got = await read_all(await clients.maker(), [(topic, 0)], LIMIT_S)
    return numbers_in(got[topic, 0])


def lose_answers(
    monkeypatch: pytest.MonkeyPatch, kind: type, number: int, *, arrive: bool = True
) -> list[Any]:
    """The first ``number`` requests of a kind get no answer; unless ``arrive`` they get nowhere, too."""
    ask = Connection.ask
    lost: list[Any] = []

    async def losing(self: Connection, node_id: int, request: Any, *rest: Any, **options: Any) -> Any:
        if not isinstance(request, kind) or len(lost) >= number:
            return await ask(self, node_id, request, *rest, **options)
        lost.append(request)
        if arrive:
            await ask(self, node_id, request, *rest, **options)
        raise TransportError("the answer is lost")

    monkeypatch.setattr(Connection, "ask", losing)
    return lost


async def fetch_until_it_raises(client: Transport) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            await client.fetch(100)


async def test_topics_are_created_as_their_specifications_say(clients: KafkaClients) -> None:
    client = await clients.maker()
    log, short = unique("log"), unique("short")
    await client.create_topics(
        [
            TopicSpec(log, 1, compacted=True, record_bytes_max=5_000_000),
            TopicSpec(short, 1, retention_ms=60_000),
        ]
    )
    admin = AIOKafkaAdminClient(bootstrap_servers=clients.bootstrap)
    await admin.start()
    try:
        found: dict[str, dict[str, str]] = {}
        for name in (log, short):
            [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
            found[name] = {row[0]: row[1] for row in answer.resources[0][4]}
    finally:
        await admin.close()
    assert found[log]["cleanup.policy"] == "compact"
    assert found[log]["max.message.bytes"] == "5000000"
    assert found[short]["cleanup.policy"] == "delete"
    assert found[short]["retention.ms"] == "60000"


async def test_copies_and_settings_of_a_topic_are_asked_for_and_told(clients: KafkaClients) -> None:
    client = await clients.client("group", "slot")
    name = unique("kept")
    config = (("min.insync.replicas", "1"), ("retention.ms", "12345678"))
    await client.create_topics([TopicSpec(name, 2, compacted=True, copies=1, config=config)])
    assert await client.replication([name, "not-there"]) == {name: Replication(1, 1)}
    assert await client.cleanup_policies([name]) == {name: "compact"}
    with pytest.raises(ConfigurationError, match="topic_replication_factor"):
        await client.create_topics([TopicSpec(unique("kept"), 1, copies=3)])
    with pytest.raises(ConfigurationError, match="config="):
        await client.create_topics([TopicSpec(unique("kept"), 1, config=(("no.such", "1"),))])


async def test_records_that_fit_one_by_one_are_written_where_their_batch_does_not(
    clients: KafkaClients,
) -> None:
    client = await clients.maker()
    small = await make_topic(client, "small", 1, record_bytes_max=10_000)
    records = [Record(small, 0, b"k", b"%04d" % n + b"x" * 996) for n in range(100)]
    assert await client.send(records) == list(range(100))
    got = await read_all(client, [(small, 0)], LIMIT_S)
    assert [row.value for row in got[small, 0]] == [record.value for record in records]
    with pytest.raises(RecordTooLarge):
        await client.send([*records[:3], Record(small, 0, b"k", b"x" * 20_000)])
    # The failure left no gap in the producer's sequence.
    assert len(await client.send(records[:2])) == 2


async def test_a_repeated_request_writes_nothing_twice(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await clients.maker()
    log = await make_topic(client, "log", 1)
    lost = lose_answers(monkeypatch, ProduceRequest, 2)
    assert await client.send(numbered(log, 0, [1, 2])) == [0, 1]
    assert await client.send(numbered(log, 0, [3])) == [2]
    assert len(lost) == 2
    assert await seen(clients, log) == [1, 2, 3]


async def test_a_decision_whose_answer_is_lost_is_asked_for_again(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    worker = await clients.alone(topic, 1)
    lose_answers(monkeypatch, EndTxnRequest, 3)
    spot = (topic, 0)
    assert await worker.client.commit(Commit(worker.listener.newest, numbered(log, 0, [1]), {spot: 5}))
    assert await worker.client.committed([spot]) == {spot: 5}
    assert await seen(clients, log) == [1]


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_decision_that_stays_unknown_is_told_and_the_log_tells_the_truth(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    worker = await clients.alone(topic, 1, decide_timeout_ms=200)
    newest, spot = worker.listener.newest, (topic, 0)
    with monkeypatch.context() as patched:
        lose_answers(patched, EndTxnRequest, 10**6, arrive=arrives)
        with pytest.raises(CommitUnknown):
            await worker.client.commit(Commit(newest, numbered(log, 0, [1]), {spot: 5}))
    assert await worker.client.committed([spot]) == {spot: 5 if arrives else None}
    await worker.client.commit(Commit(newest, numbered(log, 0, [2]), {spot: 6}))
    assert await seen(clients, log) == ([1, 2] if arrives else [2])


@pytest.mark.parametrize("code", [15, 16, 51])
async def test_a_decision_refused_behind_its_append_is_not_taken_for_aborted(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A coordinator says "not here" behind the append, and then there is none to be asked."""
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    worker = await clients.alone(topic, 1, decide_timeout_ms=300)
    newest, spot = worker.listener.newest, (topic, 0)
    ask = Connection.ask

    async def refused(self: Connection, node_id: int, request: Any, *rest: Any, **options: Any) -> Any:
        told = await ask(self, node_id, request, *rest, **options)
        if isinstance(request, EndTxnRequest):
            assert told.error_code == 0
            patched.setattr(Connection, "coordinator", away)
            told.error_code = code
        return told

    async def away(*_: Any) -> int:
        raise TransportError("no coordinator")

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "ask", refused)
        with pytest.raises(CommitUnknown):
            await worker.client.commit(Commit(newest, numbered(log, 0, [1]), {spot: 5}))
    assert await worker.client.committed([spot]) == {spot: 5}
    await worker.client.commit(Commit(newest, numbered(log, 0, [2]), {spot: 6}))
    assert await seen(clients, log) == [1, 2]


async def test_a_commit_that_does_not_get_through_is_aborted_in_time_and_may_be_tried_again(
    clients: KafkaClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    worker = await clients.alone(topic, 1, commit_timeout_ms=300)
    commit = Commit(worker.listener.newest, numbered(log, 0, [1]), {(topic, 0): 5})
    with monkeypatch.context() as patched:
        lose_answers(patched, ProduceRequest, 10**6)
        with pytest.raises(CommitAborted):
            await worker.client.commit(commit)
    # At once: no reader waits for what was aborted.
    assert await asyncio.wait_for(seen(clients, log), 2) == []
    await worker.client.commit(commit)
    assert await seen(clients, log) == [1]


async def test_a_cancelled_commit_leaves_a_transport_that_commits(clients: KafkaClients) -> None:
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    worker = await clients.alone(topic, 1)
    newest, spot = worker.listener.newest, (topic, 0)
    held = await clients.hold(worker.client, Commit(newest, numbered(log, 0, [1]), {spot: 1}))
    held.task.cancel()
    await asyncio.wait([held.task])
    assert await asyncio.wait_for(worker.client.committed([spot]), 3) == {spot: None}
    await worker.client.commit(Commit(newest, numbered(log, 0, [2]), {spot: 2}))
    assert await seen(clients, log) == [2]


async def test_a_producer_fenced_while_the_group_still_knows_it_tries_again(clients: KafkaClients) -> None:
    """As when the coordinator has given up a transaction that took too long."""
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    worker = await clients.alone(topic, 1)
    newest, spot = worker.listener.newest, (topic, 0)
    await worker.client.commit(Commit(newest, [], {spot: 1}))
    assert isinstance(worker.client, KafkaTransport)
    other = AIOKafkaProducer(
        bootstrap_servers=clients.bootstrap,
        transactional_id=worker.client.settings.transactional_id,
    )
    await other.start()
    await other.stop()
    commit = Commit(newest, numbered(log, 0, [1]), {spot: 2})
    with pytest.raises(CommitAborted):
        await worker.client.commit(commit)
    await worker.client.commit(commit)
    assert await seen(clients, log) == [1]


async def test_a_commit_held_over_a_takeover_has_no_effect(clients: KafkaClients) -> None:
    """A zombie that wakes between its offsets and its decision."""
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 2), await make_topic(maker, "log", 1)
    group = unique("group")
    first = await clients.worker(group, topic)
    await first.owns(partitions_of(topic, 2))
    second = await clients.worker(group, topic)
    await second.owns_number(1)
    await first.owns_number(1)
    newest = first.listener.newest
    spot = min(newest.partitions)
    await first.client.commit(Commit(newest, numbered(log, 0, [1]), {spot: 1}))
    held = await clients.hold(first.client, Commit(newest, numbered(log, 0, [2]), {spot: 2}))
    await clients.stall(first.client)
    assignment = await second.owns(partitions_of(topic, 2))
    # Its transaction is ended at once, not after its timeout of ten seconds.
    assert await asyncio.wait_for(second.client.committed([spot]), 3) == {spot: 1}
    await second.client.commit(Commit(assignment, numbered(log, 0, [3]), {spot: 3}))
    with pytest.raises(Fenced):
        await held.release()
    await clients.wake(first.client)
    assert await seen(clients, log) == [1, 3]
    assert await second.client.committed([spot]) == {spot: 3}


async def test_a_restarted_worker_ends_what_its_former_life_left_open(clients: KafkaClients) -> None:
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
    group, slot = unique("group"), unique("slot")
    first = Worker(await clients.client(group, slot), LIMIT_S)
    await first.join([topic])
    await first.owns([(topic, 0)])
    spot = (topic, 0)
    await clients.hold(first.client, Commit(first.listener.newest, numbered(log, 0, [1]), {spot: 1}))
    await clients.kill(first.client)
    again = Worker(await clients.client(group, slot), LIMIT_S)
    await again.join([topic])
    await again.owns([spot])
    # It had never committed before, so that only the id tells whose the open transaction is.
    assert await asyncio.wait_for(again.client.committed([spot]), 3) == {spot: None}
    assert await asyncio.wait_for(seen(clients, log), 3) == []


async def test_a_worker_that_was_killed_in_a_rebalance_and_comes_back_waits_for_its_former_session(
    clients: KafkaClients,
) -> None:
    """Its former life had asked to join before it died, so that both are in the new generation."""
    topic = await make_topic(await clients.maker(), "events", 4)
    group, slot = unique("group"), unique("slot")
    # The group's leader, who says who gets what; then the two that this is about.
    leader = Worker(await clients.client(group, unique("slot")), LIMIT_S)
    await leader.join([topic])
    await leader.owns_number(4)
    former = Worker(await clients.client(group, slot), LIMIT_S)
    await former.join([topic])
    await asyncio.gather(leader.owns_number(2), former.owns_number(2))
    other = Worker(await clients.client(group, unique("slot"), session_timeout_ms=4_000), LIMIT_S)
    await other.join([topic])
    for each in (leader, former, other):
        await each.listener.until(lambda a: len(a.members) == 3, LIMIT_S)
    # A member that is silent, and not given up yet, keeps the next generation from being complete.
    await clients.stall(other.client)
    joins = former.listener.revoking
    joins.clear()
    again = Worker(await clients.client(group, slot), LIMIT_S)
    await again.join([topic])
    await asyncio.wait_for(joins.wait(), LIMIT_S)
    await asyncio.sleep(0.5)  # its request to join is on its way
    await clients.kill(former.client)
    first = await again.listener.until(lambda _: True, LIMIT_S)
    assert not first.partitions
    await clients.wake(other.client)
    async with asyncio.timeout(LIMIT_S):
        while not again.listener.newest.partitions:
            await again.client.fetch(100)


async def test_a_slot_that_a_live_worker_has_is_an_error_and_does_not_disturb_it(
    clients: KafkaClients,
) -> None:
    maker = await clients.maker()
    topic, log = await make_topic(maker, "events", 2), await make_topic(maker, "log", 1)
    group, slot = unique("group"), unique("slot")
    first = Worker(await clients.client(group, slot), LIMIT_S)
    await first.join([topic])
    await first.owns_number(2)
    second = Worker(await clients.client(group, slot), LIMIT_S)
    await second.join([topic])
    with pytest.raises(ConfigurationError, match="transactional_slot"):
        await fetch_until_it_raises(second.client)
    assignment = await first.listener.until(lambda a: a.generation > 1 and len(a.partitions) == 2, LIMIT_S)
    await first.client.commit(Commit(assignment, numbered(log, 0, [1]), {(topic, 0): 1}))
    assert await seen(clients, log) == [1]


async def test_offsets_of_partitions_that_are_not_assigned_are_refused(clients: KafkaClients) -> None:
    topic = await make_topic(await clients.maker(), "events", 1)
    worker = await clients.alone(topic, 1)
    with pytest.raises(ValueError, match="not in the assignment"):
        await worker.client.commit(Commit(worker.listener.newest, [], {(topic, 5): 1}))
    with pytest.raises(ValueError, match="at least one"):
        await worker.client.commit(Commit(worker.listener.newest, [], {}))


async def test_what_a_listener_raises_comes_out_of_fetch(clients: KafkaClients) -> None:
    topic = await make_topic(await clients.maker(), "events", 1)

    class Failing:
        async def on_revoked(self) -> None: ...

        async def on_assigned(self, assignment: object) -> None:
            raise RuntimeError("no room for these partitions")

    client = await clients.client(unique("group"), unique("worker"))
    await client.subscribe([topic], Failing(), "")
    with pytest.raises(RuntimeError, match="no room"):
        await fetch_until_it_raises(client)


async def test_subscribing_to_a_topic_that_does_not_exist_names_it(clients: KafkaClients) -> None:
    client = await clients.client(unique("group"), unique("worker"))
    with pytest.raises(TransportError, match="never-made"):
        await client.subscribe(["never-made"], Worker(client, 1).listener, "")


class TestWithoutTransactions:
    """Features(transactions=False): at least once, and still fenced."""

    async def test_records_and_offsets_are_committed(self, clients: KafkaClients) -> None:
        maker = await clients.maker()
        topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
        worker = await clients.alone(topic, 1, transactions=False)
        assert not worker.client.features.transactions
        spot = (topic, 0)
        commit = Commit(worker.listener.newest, numbered(log, 0, [1, 2]), {spot: 5})
        assert await worker.client.commit(commit) == {(log, 0): 2}
        assert await worker.client.committed([spot]) == {spot: 5}
        assert await seen(clients, log) == [1, 2]

    async def test_an_old_assignment_is_fenced_before_it_writes(self, clients: KafkaClients) -> None:
        maker = await clients.maker()
        topic, log = await make_topic(maker, "events", 2), await make_topic(maker, "log", 1)
        group = unique("group")
        first = await clients.worker(group, topic, transactions=False)
        stale = await first.owns(partitions_of(topic, 2))
        second = await clients.worker(group, topic, transactions=False)
        await second.owns_number(1)
        await first.owns_number(1)
        with pytest.raises(Fenced):
            await first.client.commit(Commit(stale, numbered(log, 0, [1]), {(topic, 0): 5}))
        assert await seen(clients, log) == []
        assert await first.client.committed([(topic, 0)]) == {(topic, 0): None}


@pytest.fixture
def own_broker(kafka: str) -> Iterator[kafka_server.KafkaServer]:
    """A broker that the test may break. ``kafka`` stands for: there are brokers to be had here."""
    try:
        server = kafka_server.KafkaServer()
        server.start()
    except kafka_server.NoBroker as exc:
        pytest.skip(f"no broker of our own: {exc}")
    yield server
    server.stop()


async def test_a_broker_that_goes_away_is_told_in_time_and_found_again(
    own_broker: kafka_server.KafkaServer,
) -> None:
    clients = KafkaClients(own_broker.bootstrap)
    try:
        maker = await clients.maker()
        topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
        worker = await clients.alone(topic, 1, commit_timeout_ms=2_000, decide_timeout_ms=2_000)
        spot = (topic, 0)
        worker.begin({spot: 0})
        await worker.client.send(numbered(topic, 0, [1]))
        await worker.take(1)
        await worker.client.commit(Commit(worker.listener.newest, numbered(log, 0, [1]), {spot: 1}))
        # Until its markers are written: a single broker that is killed before, and coordinates again
        # before it knows its topics, takes the commit for complete and never writes them (4.3.1).
        assert await worker.client.committed([spot]) == {spot: 1}
        assert await seen(clients, log) == [1]
        await asyncio.to_thread(own_broker.kill)
        started_s = time.monotonic()
        with pytest.raises(CommitAborted):
            await worker.client.commit(Commit(worker.listener.newest, numbered(log, 0, [2]), {spot: 2}))
        with pytest.raises(TransportError):
            await worker.client.send(numbered(topic, 0, [2]))
        assert await worker.client.fetch(100) == []
        assert time.monotonic() - started_s < 10
        await asyncio.to_thread(own_broker.restart)
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    newest = worker.listener.newest
                    await worker.client.commit(Commit(newest, numbered(log, 0, [3]), {spot: 3}))
                    break
                except (CommitAborted, Fenced):
                    await worker.client.fetch(100)
        assert await worker.client.committed([spot]) == {spot: 3}
        worker.begin({spot: 0})
        await worker.client.send(numbered(topic, 0, [3]))
        assert numbers_in((await worker.take(2))[spot]) == [1, 3]
        assert await seen(clients, log) == [1, 3]
    finally:
        await clients.close()


async def test_a_broker_that_freezes_in_the_middle_loses_and_repeats_nothing(
    own_broker: kafka_server.KafkaServer,
) -> None:
    clients = KafkaClients(own_broker.bootstrap)
    try:
        maker = await clients.maker()
        topic, log = await make_topic(maker, "events", 1), await make_topic(maker, "log", 1)
        worker = await clients.alone(topic, 1, request_timeout_ms=500, session_timeout_ms=10_000)
        newest, spot = worker.listener.newest, (topic, 0)
        await worker.client.commit(Commit(newest, numbered(log, 0, [1]), {spot: 1}))
        own_broker.pause()
        commit = asyncio.create_task(
            worker.client.commit(Commit(newest, numbered(log, 0, [2, 3]), {spot: 3}))
        )
        done, _ = await asyncio.wait([commit], timeout=1.2)
        assert not done
        own_broker.unpause()
        await asyncio.wait_for(commit, LIMIT_S)
        assert await seen(clients, log) == [1, 2, 3]
        assert await worker.client.committed([spot]) == {spot: 3}
    finally:
        own_broker.unpause()
        await clients.close()


async def test_a_member_that_the_group_has_forgotten_joins_anew_with_the_commit_that_hears_of_it(
    clients: KafkaClients,
) -> None:
    """Its next heartbeat would hear of it too, ten minutes later."""
    topic = await make_topic(await clients.maker(), "events", 1)
    group = unique("group")
    worker = await clients.alone(topic, 1, group, session_timeout_ms=900_000, heartbeat_ms=600_000)
    before = worker.listener.newest
    assert isinstance(before.fence, GroupFence)
    other = ClusterClient(
        KafkaSettings((clients.bootstrap,), group), SystemClock(), BrokerStates(SystemClock())
    )
    await other.bootstrap()
    try:
        node_id = await other.coordinator_lookup(Coordinator.GROUP, group)
        leave = LeaveGroupRequest(group, before.fence.member_id)
        assert (await other.send(node_id, leave)).error_code == 0
    finally:
        await other.close()
    with pytest.raises(Fenced):
        await worker.client.commit(Commit(before, numbered(topic, 0, [1]), {(topic, 0): 0}))
    after = await worker.listener.until(lambda a: a.generation > before.generation, LIMIT_S)
    assert after.partitions == before.partitions
    await worker.client.commit(Commit(after, numbered(topic, 0, [1]), {(topic, 0): 0}))
