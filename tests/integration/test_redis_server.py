"""The servers of the Redis tests do what the tests believe of them."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.integration.workers import wait_for
from tests.support.redis_server import FLAVOURS, RedisServer, SentinelServer

MakeServer = Callable[..., RedisServer]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_was_acknowledged_under_appendfsync_always_outlives_a_kill(
    make_redis: MakeServer, flavour: str
) -> None:
    server = make_redis(flavour=flavour, appendonly="always")
    with contextlib.closing(server.client()) as client:
        client.set("a", "1")
        server.kill()
        assert not server.running
        server.start()
        assert client.get("a") == b"1"
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_paused_server_does_not_answer_until_it_goes_on(make_redis: MakeServer) -> None:
    server = make_redis()
    with contextlib.closing(server.client(socket_timeout=0.2, retry=None)) as client:
        assert client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.unpause()
        assert client.ping()


def test_tls_is_served_and_its_authority_is_checked(make_redis: MakeServer) -> None:
    server = make_redis(tls=True)
    assert server.url.startswith("rediss://")
    with contextlib.closing(server.client()) as client:
        assert client.ping()
    with (
        contextlib.closing(server.client(ssl_ca_certs=None, retry=None)) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.ping()


def test_an_acl_user_may_do_only_what_its_line_says(make_redis: MakeServer) -> None:
    server = make_redis(users=["ann on >secret ~a:* +get"])
    options: dict[str, Any] = {"username": "ann", "password": "secret"}
    with contextlib.closing(server.client(**options)) as client:
        assert client.get("a:1") is None
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("b:1")


def fill(client: redis.Redis) -> None:
    for number in range(1_000):
        client.set(str(number), b"x" * 10_000)


def test_a_full_server_refuses_writes(make_redis: MakeServer) -> None:
    server = make_redis(maxmemory="3mb")
    with contextlib.closing(server.client()) as client:
        client.set("first", "stays")
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            fill(client)
        assert client.get("first") == b"stays"


def test_a_sentinel_promotes_the_replica_of_a_killed_master(make_redis: MakeServer) -> None:
    master = make_redis()
    replica = make_redis(replica_of=master)
    with SentinelServer(master) as sentinel:
        assert sentinel.master() == ("127.0.0.1", master.port)
        master.kill()
        wait_for("the replica is master", lambda: sentinel.master() == ("127.0.0.1", replica.port), 20)


def test_a_stopped_server_leaves_nothing_behind(make_redis: MakeServer) -> None:
    server = make_redis(unix_socket=True)
    assert isinstance(server.socket, pathlib.Path)
    assert server.socket.is_socket()
    server.stop()
    assert not server.directory.exists()
