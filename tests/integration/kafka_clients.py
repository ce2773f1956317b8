"""Kafka transports for tests, and what the world does to them."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.conn import CloseReason

from streamflow.clock import SystemClock
from streamflow.transports.base import Commit, TopicPartition, Transport
from streamflow.transports.kafka import KafkaSettings, KafkaTransport
from tests.contract.harness import Worker, partitions_of, unique

LIMIT_S = 30.0
QUICK = {"session_timeout_ms": 1_500, "heartbeat_ms": 200, "rebalance_timeout_ms": 15_000}


class HeldCommit:
    """A commit whose task waits in front of its decision."""

    def __init__(self, task: asyncio.Task[dict[TopicPartition, int]], go: asyncio.Event) -> None:
        self.task = task
        self._go = go

    async def release(self) -> dict[TopicPartition, int]:
        self._go.set()
        return await self.task


class Clients:
    """Real clients; a killed or sleeping one is played by taking its connections and heartbeats away."""

    limit_s = LIMIT_S
    can_stall = True
    can_hold = True

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._clients: list[KafkaTransport] = []
        self._held: list[asyncio.Task[Any]] = []
        self._asleep: dict[Transport, asyncio.Event] = {}

    async def client(self, group: str, name: str, **settings: Any) -> KafkaTransport:
        options = {**QUICK, "transactional_slot": name, **settings}
        client = KafkaTransport(KafkaSettings((self.bootstrap,), group, **options), SystemClock())
        await client.start()
        self._clients.append(client)
        return client

    async def maker(self) -> KafkaTransport:
        """A client that belongs to nobody: makes topics, sends, reads."""
        return await self.client(unique("maker"), unique("maker"))

    async def worker(self, group: str, topic: str, **settings: Any) -> Worker:
        """A client that joins the group; its assignment is still to come."""
        worker = Worker(await self.client(group, unique("worker"), **settings), LIMIT_S)
        await worker.join([topic])
        return worker

    async def alone(self, topic: str, number: int, **settings: Any) -> Worker:
        """The only worker of a new group, with all ``number`` partitions."""
        worker = await self.worker(unique("group"), topic, **settings)
        await worker.owns(partitions_of(topic, number))
        return worker

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
