"""Broker URL -> transport."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError
from streamflow.settings import Settings
from streamflow.transports.base import Transport
from streamflow.transports.kafka import KafkaSettings, KafkaTransport
from streamflow.transports.kafka.security import security
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from streamflow.transports.redis_streams import RedisSettings, RedisTransport
from streamflow.transports.redis_streams.embedded import server as embedded

REBALANCE_MIN_MS = 30_000
SCHEMES = ("kafka", "redis", "rediss", embedded.SCHEME, "memory")


def connect(
    url: str,
    settings: Settings,
    clock: Clock,
    *,
    slot: str = "",
    kafka: Mapping[str, Any] | None = None,
    redis: Mapping[str, Any] | None = None,
) -> Transport:
    """The transport of a broker URL, not started. Raises ConfigurationError for one that is not known.

    ``slot`` tells this worker from others on this machine where the setting `transactional_slot` does
    not; ``kafka`` and ``redis`` are further fields of `KafkaSettings` and `RedisSettings`: credentials.
    """
    scheme = scheme_of(url)
    if scheme == "memory":
        return MemoryTransport(MemoryBroker(clock), settings.id, "worker")
    if scheme == "kafka":
        return KafkaTransport(_kafka(url, settings, slot, kafka or {}), clock)
    if scheme in ("redis", "rediss"):
        return RedisTransport(redis_settings(url, settings, slot, redis or {}), clock)
    if scheme == embedded.SCHEME:
        server = embedded.EmbeddedServer.of_url(url)
        fields = redis_settings("redis://localhost/0", settings, slot)
        return embedded.EmbeddedTransport(replace(fields, **embedded.reached_at(server)), clock, server)
    raise ConfigurationError(
        f"broker URL {scheme}://...: use kafka://host:port, redis://host:port/0, rediss://...,"
        f" {embedded.SCHEME}:///path or memory://"
    )


def scheme_of(url: str) -> str:
    """``kafka`` for Faust's other names of it as well, and for a bare ``host:port``."""
    scheme, colon, _ = url.partition(":")
    if scheme == "aiokafka" or ("://" not in url and not (colon and scheme in SCHEMES)):
        return "kafka"
    return scheme


def redis_settings(
    url: str, settings: Settings, slot: str = "", options: Mapping[str, Any] | None = None
) -> RedisSettings:
    """``redis[s]://host:port/db``; several, joined by ``;``, are Sentinels. Raises ConfigurationError."""
    hosts: list[tuple[str, int]] = []
    database = ""
    for part in url.split(";"):
        split = urlsplit(part if "://" in part else f"redis://{part}")
        if split.username is not None or split.password is not None:
            raise ConfigurationError(
                "broker: no user or password in the URL; use redis_username and redis_password"
                " (STREAMFLOW_REDIS_PASSWORD), or broker_credentials"
            )
        if split.query:
            raise ConfigurationError(
                f"broker: a redis URL takes no ?{split.query}; use the settings redis_..."
            )
        database = split.path.strip("/") or database
        port = 26_379 if settings.redis_sentinel_service else 6_379
        hosts.append((split.hostname or "localhost", split.port or port))
    if database and not database.isdigit():
        raise ConfigurationError(f"broker: the database of a redis URL is a number, not {database!r}")
    if len(hosts) > 1 and not settings.redis_sentinel_service:
        raise ConfigurationError(
            "broker: several redis hosts are Sentinels; redis_sentinel_service says which service of theirs"
        )
    named = {
        "username": settings.redis_username or None,
        "password": settings.redis_password or None,
        "tls_ca_file": settings.redis_tls_ca_file or None,
        "tls_cert_file": settings.redis_tls_cert_file or None,
        "tls_key_file": settings.redis_tls_key_file or None,
        "sentinel_service": settings.redis_sentinel_service,
        "sentinels": tuple(hosts) if settings.redis_sentinel_service else (),
        "stream_name": settings.redis_stream_name,
        "key_prefix": settings.redis_key_prefix,
        "wait_replicas": settings.redis_wait_replicas,
        "wait_aof": bool(settings.redis_wait_aof),
        "wait_timeout_ms": settings.redis_wait_timeout_ms,
        "trim": settings.redis_trim,
        "compact_records": settings.redis_compact_records,
        "standby_replicas": settings.table_standby_replicas,
    }
    fields: dict[str, Any] = {
        "host": hosts[0][0],
        "port": hosts[0][1],
        "db": int(database or 0),
        "tls": url.startswith("rediss"),
        "slot": settings.transactional_slot or f"{socket.gethostname()}-{slot or 'worker'}",
        "session_timeout_ms": settings.session_timeout_ms,
        "heartbeat_ms": min(1_000, settings.session_timeout_ms // 5),
        **_patience(settings),
        **named,
        **{name: value for name, value in (options or {}).items() if value is not None},
    }
    return RedisSettings(settings.id, **fields)


def _patience(settings: Settings) -> dict[str, int]:
    """With members whose code blocks.

    A rebalance waits for them as long as they may block, as KIP-62 has it: were it over before, each of two
    workers would lose its event to the other one, which is then lost to it in turn, and so on for ever.
    """
    blocked_ms = settings.max_poll_interval_ms
    return {"max_poll_interval_ms": blocked_ms, "rebalance_timeout_ms": max(REBALANCE_MIN_MS, blocked_ms)}


def _kafka(url: str, settings: Settings, slot: str, options: Mapping[str, Any]) -> KafkaSettings:
    servers: list[str] = []
    for part in url.split(";"):
        split = urlsplit(part if "://" in part else f"kafka://{part}")
        if split.username is not None:
            raise ConfigurationError("broker: no user or password in the URL; use broker_credentials")
        host = split.hostname or "localhost"
        servers.append(f"[{host}]:{split.port or 9092}" if ":" in host else f"{host}:{split.port or 9092}")
    fields: dict[str, Any] = {
        "client_id": settings.id,
        "transactional_slot": settings.transactional_slot or f"{socket.gethostname()}-{slot or 'worker'}",
        "transactions": settings.processing_guarantee == "exactly_once",
        "standby_replicas": settings.table_standby_replicas,
        "session_timeout_ms": settings.session_timeout_ms,
        "heartbeat_ms": min(3_000, settings.session_timeout_ms // 3),
        **_patience(settings),
        "transaction_timeout_ms": settings.transaction_timeout_ms,
        "commit_timeout_ms": min(8_000, settings.transaction_timeout_ms * 4 // 5),
        **options,
        **security(settings, options),
    }
    return KafkaSettings(tuple(servers), settings.id, **fields)
