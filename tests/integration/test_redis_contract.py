"""The contract of every transport, on a real redis-server: as it is, and with every commit staged."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.transport_contract import TransportContract
from tests.integration.redis_clients import RedisClients
from tests.support.redis_server import RedisServer


@pytest.fixture(params=["one script", "staged"])
async def harness(request: pytest.FixtureRequest, redis_server: RedisServer) -> AsyncIterator[RedisClients]:
    small = {"chunk_records": 1} if request.param == "staged" else {}
    clients = RedisClients(redis_server.port, **small)
    yield clients
    await clients.close()


class TestRedis(TransportContract):
    pass
