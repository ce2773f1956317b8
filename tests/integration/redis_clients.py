"""Redis transports for tests, and what the world does to them."""

from __future__ import annotations

import asyncio
from typing import Any

from streamflow.clock import SystemClock
from streamflow.errors import TransportError
from streamflow.transports.base import Commit, TopicPartition, Transport
from streamflow.transports.redis_streams import RedisSettings, RedisTransport
from tests.contract.harness import Worker, partitions_of, unique

LIMIT_S = 30.0
QUICK = {"session_timeout_ms": 1_000, "heartbeat_ms": 100, "rebalance_timeout_ms": 15_000}


class HeldCommit:
    """A commit whose task waits in front of its decision."""

    def __init__(self, task: asyncio.Task[dict[TopicPartition, int]], go: asyncio.Event) -> None:
        self.task = task
        self._go = go

    async def release(self) -> dict[TopicPartition, int]:
        self._go.set()
        return await self.task


class RedisClients:
    """Real clients; a killed or sleeping one is played by taking its connections and heartbeats away."""

    limit_s = LIMIT_S
    can_stall = True
    can_hold = True

    def __init__(self, port: int, **settings: Any) -> None:
        self.port = port
        self.settings = settings
        self._clients: list[RedisTransport] = []
        self._held: list[asyncio.Task[Any]] = []
        self._asleep: dict[Transport, asyncio.Event] = {}

    def make(self, group: str, name: str, **settings: Any) -> RedisTransport:
        """Not started."""
        options = {"port": self.port, "slot": name, **QUICK, **self.settings, **settings}
        client = RedisTransport(RedisSettings(group, **options), SystemClock())
        self._clients.append(client)
        return client

    async def client(self, group: str, name: str, **settings: Any) -> RedisTransport:
        client = self.make(group, name, **settings)
        await client.start()
        return client

    async def maker(self, **settings: Any) -> RedisTransport:
        """A client that belongs to nobody: makes topics, sends, reads."""
        return await self.client(unique("maker"), unique("maker"), **settings)

    async def worker(self, group: str, topic: str, **settings: Any) -> Worker:
        """A client that joins the group; its assignment is still to come."""
        worker = Worker(await self.client(group, unique("worker"), **settings), LIMIT_S)
        await worker.join([topic])
        return worker

    async def alone(self, topic: str, number: int, group: str | None = None, **settings: Any) -> Worker:
        """The only worker of a group, with all ``number`` partitions."""
        worker = await self.worker(group or unique("group"), topic, **settings)
        await worker.owns(partitions_of(topic, number))
        return worker

    async def kill(self, client: Transport) -> None:
        """Its tasks stop where they stand, its connections break, nothing more is sent."""
        assert isinstance(client, RedisTransport)
        membership: Any = client._membership
        for task in (*membership._tasks, client._upkeep_task):
            task.cancel()
        for link in client._links:
            link._make = refuse_connection
            await link.close()
        membership._tasks = []

    async def stall(self, client: Transport) -> None:
        """No heartbeat any more: the group gives up on it after its session timeout."""
        assert isinstance(client, RedisTransport)
        membership: Any = client._membership
        call, awake = membership._call, asyncio.Event()

        async def later(act: str, *args: Any) -> Any:
            await awake.wait()
            return await call(act, *args)

        membership._call = later
        self._asleep[client] = awake

    async def wake(self, client: Transport) -> None:
        self._asleep.pop(client).set()

    async def hold(self, client: Transport, commit: Commit) -> HeldCommit:
        """All that comes before the decision is done: a large commit's records are staged."""
        assert isinstance(client, RedisTransport)
        commits: Any = client._commits
        reached, go = asyncio.Event(), asyncio.Event()
        decide = commits._decide

        async def later(*args: Any) -> Any:
            commits._decide = decide
            reached.set()
            await go.wait()
            return await decide(*args)

        commits._decide = later
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
        for awake in self._asleep.values():
            awake.set()
        await asyncio.gather(*(client.stop() for client in self._clients))


def refuse_connection() -> Any:
    raise TransportError("the process is dead")
