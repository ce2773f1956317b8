"""One broker for the whole session; a laptop without one skips, CI fails."""

from __future__ import annotations

import os
import pathlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.integration.job import Cluster
from tests.integration.kafka_clients import KafkaClients
from tests.integration.redis_clients import RedisClients
from tests.support import kafka_server, postgres_server
from tests.support.redis_server import NoServer, RedisServer, required


def _missing(reason: str) -> None:
    if os.environ.get("CI") or os.environ.get("STREAMFLOW_REQUIRE_KAFKA"):
        pytest.fail(f"no Kafka broker: {reason}", pytrace=False)
    pytest.skip(f"no Kafka broker: {reason}")


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """``host:port`` of a real broker that all tests share: use names of your own for topics and groups."""
    external = kafka_server.external_bootstrap()
    if external is not None:
        yield external
        return
    server = kafka_server.KafkaServer()
    try:
        server.start()
    except kafka_server.NoBroker as exc:
        _missing(str(exc))
    try:
        yield server.bootstrap
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.PostgresServer]:
    """A real server; skips, or fails in CI, where none can be had."""
    server = postgres_server.started()
    yield server
    server.end()


@pytest.fixture
def cluster(kafka: str, tmp_path: pathlib.Path) -> Iterator[Cluster]:
    """Workers of the main job, under names of their own; they end with the test."""
    cluster = Cluster(kafka, tmp_path)
    yield cluster
    cluster.end()


@pytest.fixture
async def clients(kafka: str) -> AsyncIterator[KafkaClients]:
    """Makes started Kafka transports, and stops them after the test."""
    clients = KafkaClients(kafka)
    yield clients
    await clients.close()


def started(**options: Any) -> RedisServer:
    """A running Redis; skips, or fails in CI, where none can be had."""
    try:
        server = RedisServer(**options)
        server.start()
    except NoServer as exc:
        if required():
            pytest.fail(f"no Redis server: {exc}", pytrace=False)
        pytest.skip(f"no Redis server: {exc}")
    return server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real server that all tests share: use names of your own for topics and groups."""
    server = started()
    yield server
    server.stop()


@pytest.fixture(params=["kafka", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    """The URL of either broker: a test that takes it runs with both."""
    if request.param == "kafka":
        return f"kafka://{request.getfixturevalue('kafka')}"
    url: str = request.getfixturevalue("redis_server").url
    return url


@pytest.fixture
def make_redis() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers of a test's own, with the arguments of `RedisServer`; they end with the test."""
    servers: list[RedisServer] = []

    def make(**options: Any) -> RedisServer:
        server = started(**options)
        servers.append(server)
        return server

    yield make
    for server in reversed(servers):
        server.stop()


@pytest.fixture
async def redis_clients(redis_server: RedisServer) -> AsyncIterator[RedisClients]:
    """Makes started Redis transports, and stops them after the test."""
    clients = RedisClients(redis_server.port)
    yield clients
    await clients.close()
