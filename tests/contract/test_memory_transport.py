"""The memory transport passes the contract: plain, and with every fault that the contract allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from streamflow.clock import SystemClock
from streamflow.transports.base import Commit, TopicPartition, Transport
from streamflow.transports.memory import Faults, MemoryBroker, MemoryTransport
from tests.contract.transport_contract import TransportContract


def gaps(seed: int) -> Faults:
    return Faults(random.Random(seed), control_records=True, gap_chance=0.2, fetch_records_max=700)


def delays(seed: int) -> Faults:
    return Faults(
        random.Random(seed),
        control_records=True,
        delay_chance=0.3,
        delay_ms_max=10,
        visible_ms_max=40,
        fetch_records_max=2_000,
    )


class HeldCommit:
    def __init__(self, committing: asyncio.Task[dict[TopicPartition, int]], go_on: asyncio.Event) -> None:
        self._committing = committing
        self._go_on = go_on

    async def release(self) -> dict[TopicPartition, int]:
        self._go_on.set()
        return await self._committing


class MemoryHarness:
    limit_s = 10.0
    can_stall = True
    can_hold = True

    def __init__(self, faults: Faults | None) -> None:
        self.broker = MemoryBroker(
            SystemClock(), faults=faults, session_timeout_ms=100, transaction_timeout_ms=400
        )
        self.clients: list[MemoryTransport] = []
        self.tasks: list[asyncio.Task[dict[TopicPartition, int]]] = []

    async def client(self, group: str, name: str) -> Transport:
        client = MemoryTransport(self.broker, group, name)
        await client.start()
        self.clients.append(client)
        return client

    async def kill(self, client: Transport) -> None:
        assert isinstance(client, MemoryTransport)
        client.kill()

    async def stall(self, client: Transport) -> None:
        assert isinstance(client, MemoryTransport)
        client.stall()
        await asyncio.sleep(self.broker.session_timeout_ms / 1_000)

    async def wake(self, client: Transport) -> None:
        assert isinstance(client, MemoryTransport)
        client.wake()

    async def hold(self, client: Transport, commit: Commit) -> HeldCommit:
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def on_point(who: MemoryTransport, point: str) -> None:
            if who is client and point == "commit:offsets":
                reached.set()
                await go_on.wait()

        if self.broker.faults is None:
            self.broker.faults = Faults()
        self.broker.faults.on_point = on_point
        committing = asyncio.create_task(client.commit(commit))
        self.tasks.append(committing)
        await asyncio.wait_for(reached.wait(), self.limit_s)
        return HeldCommit(committing, go_on)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for client in self.clients:
            await client.stop()
        await self.broker.close()


@pytest.fixture(params=["plain", "gaps", "delays"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[MemoryHarness]:
    made = {"plain": lambda: None, "gaps": lambda: gaps(1), "delays": lambda: delays(2)}[request.param]()
    memory = MemoryHarness(made)
    yield memory
    await memory.close()


class TestMemoryTransport(TransportContract):
    pass
