"""A client of the cluster among brokers that do not answer: what it asks of whom, and how it finds back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError, RequestTimedOutError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import BrokerMetadata

from streamflow.clock import SystemClock
from streamflow.transports.kafka.broker_states import BrokerStates
from streamflow.transports.kafka.client import ClusterClient
from streamflow.transports.kafka.settings import KafkaSettings
from tests.integration.kafka_clients import LIMIT_S
from tests.support.server import free_ports

AWAY = 99


class Frozen:
    """A broker that takes connections and says nothing, as a process that was stopped."""

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            pass
        writer.close()

    async def stop(self) -> None:
        self._server.close()


@pytest.fixture
async def states() -> BrokerStates:
    return BrokerStates(SystemClock())


@pytest.fixture
async def client(kafka: str, states: BrokerStates) -> AsyncIterator[ClusterClient]:
    # Timeouts are longer than the test: nothing here may wait for one.
    settings = KafkaSettings((kafka,), "group", request_timeout_ms=600_000)
    client = ClusterClient(settings, SystemClock(), states)
    await client.bootstrap()
    yield client
    await client.close()


@pytest.fixture
async def frozen() -> AsyncIterator[int]:
    """Its port."""
    broker = Frozen()
    yield await broker.start()
    await broker.stop()


def know(client: ClusterClient, *brokers: BrokerMetadata) -> None:
    """The client takes these for the cluster's brokers."""
    client.cluster._brokers = {broker.nodeId: broker for broker in brokers}


def known(client: ClusterClient) -> set[int]:
    return {broker.nodeId for broker in client.cluster.brokers()}


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "frozen"])
async def test_when_no_known_broker_answers_the_bootstrap_list_is_asked_anew(
    client: ClusterClient, frozen: int, silent: bool
) -> None:
    before = known(client)
    port = frozen if silent else free_ports(1)[0]
    know(client, BrokerMetadata(AWAY, "127.0.0.1", port, None))
    async with asyncio.timeout(LIMIT_S):
        assert await client.force_metadata_update()
    assert known(client) == before


async def test_coordinators_are_asked_of_brokers_that_answer(
    client: ClusterClient, states: BrokerStates, frozen: int
) -> None:
    know(client, *client.cluster.brokers(), BrokerMetadata(AWAY, "127.0.0.1", frozen, None))
    states.failed(AWAY, "frozen")
    real = known(client) - {AWAY}
    assert {client.get_random_node() for _ in range(50)} == real
    async with asyncio.timeout(LIMIT_S):
        while True:
            with contextlib.suppress(GroupCoordinatorNotAvailableError):  # a fresh broker elects it first
                assert await client.coordinator_lookup(0, "some-group") in real
                break
            await asyncio.sleep(0.1)


async def test_who_waits_for_a_broker_that_the_cluster_has_given_up_hears_so_at_once(
    client: ClusterClient, states: BrokerStates, frozen: int
) -> None:
    know(client, *client.cluster.brokers(), BrokerMetadata(AWAY, "127.0.0.1", frozen, None))
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(RequestTimedOutError):
            await client.send(AWAY, MetadataRequest([]))
    assert AWAY not in known(client)
    assert states.is_silent(AWAY)


async def test_one_silent_broker_holds_up_no_other(client: ClusterClient, frozen: int) -> None:
    know(client, *client.cluster.brokers(), BrokerMetadata(AWAY, "127.0.0.1", frozen, None))
    waiting: asyncio.Task[Any] = asyncio.create_task(client.send(AWAY, MetadataRequest([])))
    (real,) = known(client) - {AWAY}
    async with asyncio.timeout(LIMIT_S):
        assert (await client.send(real, MetadataRequest([]))).brokers
    assert not waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
