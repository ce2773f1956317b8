"""The contract of every transport, on real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.conn import CloseReason

from streamflow.clock import SystemClock
from streamflow.transports.base import Commit, TopicPartition, Transport
from streamflow.transports.kafka import KafkaSettings, KafkaTransport
from tests.contract.transport_contract import TransportContract


class HeldCommit:
    """A commit whose task waits in front of its decision."""

    def __init__(self, task: asyncio.Task[dict[TopicPartition, int]], go: asyncio.Event) -> None:
        self._task = task
        self._go = go

    async def release(self) -> dict[TopicPartition, int]:
        self._go.set()
        return await self._task


class KafkaHarness:
    """Real clients; a killed or sleeping one is played by taking its connections and tasks away."""

    limit_s = 30.0
    can_stall = True
    can_hold = True

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._clients: list[KafkaTransport] = []
        self._held: list[asyncio.Task[Any]] = []
        self._asleep: dict[Transport, asyncio.Event] = {}

    async def client(self, group: str, name: str) -> KafkaTransport:
        settings = KafkaSettings(
            bootstrap=(self._bootstrap,),
            group_id=group,
            transactional_slot=name,
            session_timeout_ms=1_500,
            heartbeat_ms=200,
            rebalance_timeout_ms=15_000,
        )
        client = KafkaTransport(settings, SystemClock())
        await client.start()
        self._clients.append(client)
        return client

    async def kill(self, client: Transport) -> None:
        await self.stall(client)
        await cut_off(client)

    async def stall(self, client: Transport) -> None:
        """No heartbeat any more: the group gives up on it after its session timeout."""
        coordinator = consumer_of(client)._coordinator
        beat, awake = coordinator._do_heartbeat, asyncio.Event()

        async def later() -> bool:
            await awake.wait()
            return bool(await beat())

        coordinator._do_heartbeat = later
        self._asleep[client] = awake

    async def wake(self, client: Transport) -> None:
        self._asleep.pop(client).set()

    async def hold(self, client: Transport, commit: Commit) -> HeldCommit:
        assert isinstance(client, KafkaTransport)
        transactions: Any = client._commits
        reached, go = asyncio.Event(), asyncio.Event()
        decide = transactions._decide

        async def later(life: Any) -> None:
            transactions._decide = decide
            reached.set()
            await go.wait()
            await decide(life)

        transactions._decide = later
        task = asyncio.create_task(client.commit(commit))
        self._held.append(task)
        waiting = asyncio.create_task(reached.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            waiting.cancel()
            task.result()
        return HeldCommit(task, go)

    async def close(self) -> None:
        for task in self._held:
            task.cancel()
        await asyncio.gather(*self._held, return_exceptions=True)
        await asyncio.gather(*(client.stop() for client in self._clients))


def consumer_of(client: Transport) -> Any:
    assert isinstance(client, KafkaTransport)
    assert client._group is not None
    return client._group._consumer


async def cut_off(client: Transport) -> None:
    """All its sockets closed and none opened again, as the kernel does for a killed process."""
    assert isinstance(client, KafkaTransport)
    consumer = consumer_of(client)
    for kafka_client in (consumer._client, client._connection._client):
        kafka_client._get_conn = _no_connection
        for connection in kafka_client._conns.values():
            connection.close(reason=CloseReason.CONNECTION_BROKEN)


async def _no_connection(*_: Any, **__: Any) -> None:
    await asyncio.sleep(0.05)


@pytest.fixture
async def harness(kafka: str) -> AsyncIterator[KafkaHarness]:
    harness = KafkaHarness(kafka)
    yield harness
    await harness.close()


class TestKafka(TransportContract):
    pass
