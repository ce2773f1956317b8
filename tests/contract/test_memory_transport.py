"""The memory transport passes the contract: plain, and with every fault that the contract allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streamflow.clock import SystemClock
from streamflow.transports.base import Commit, OnPoint, Transport
from streamflow.transports.memory import Client, Faults, MemoryBroker, MemoryTransport
from tests.contract.harness import Clients, HeldCommit
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


class MemoryClients(Clients[MemoryTransport]):
    """Clients of one broker; the faults tell of its points."""

    limit_s = 10.0

    def __init__(self, faults: Faults | None) -> None:
        super().__init__()
        self.broker = MemoryBroker(
            SystemClock(), faults=faults, session_timeout_ms=100, transaction_timeout_ms=400
        )
        self._on_points: dict[Client, OnPoint] = {}

    def make(self, group: str, name: str, on_point: OnPoint, **settings: Any) -> MemoryTransport:
        client = MemoryTransport(self.broker, group, name, **settings)
        self._on_points[client] = on_point
        return client

    async def stall(self, client: Transport) -> None:
        await super().stall(client)
        await asyncio.sleep(self.broker.session_timeout_ms / 1_000)

    async def hold(self, client: Transport, commit: Commit) -> HeldCommit:
        if self.broker.faults is None:
            self.broker.faults = Faults()
        self.broker.faults.on_point = self._on_point
        return await super().hold(client, commit)

    async def _on_point(self, client: Client, point: str) -> None:
        await self._on_points[client](point)

    async def close(self) -> None:
        await super().close()
        await self.broker.close()


@pytest.fixture(params=["plain", "gaps", "delays"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[MemoryClients]:
    made = {"plain": lambda: None, "gaps": lambda: gaps(1), "delays": lambda: delays(2)}[request.param]()
    memory = MemoryClients(made)
    yield memory
    await memory.close()


class TestMemoryTransport(TransportContract):
    pass
