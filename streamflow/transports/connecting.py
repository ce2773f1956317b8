"""Broker URL -> transport."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError
from streamflow.settings import Settings
from streamflow.transports.base import Transport
from streamflow.transports.kafka import KafkaSettings, KafkaTransport
from streamflow.transports.memory import MemoryBroker, MemoryTransport

SCHEMES = ("kafka", "memory")


def connect(
    url: str, settings: Settings, clock: Clock, *, slot: str = "", kafka: Mapping[str, Any] | None = None
) -> Transport:
    """The transport of a broker URL, not started. Raises ConfigurationError for one that is not known.

    ``slot`` tells this worker from others on this machine where the setting `transactional_slot` does
    not; ``kafka`` are further fields of `KafkaSettings`, such as credentials.
    """
    scheme = scheme_of(url)
    if scheme == "memory":
        return MemoryTransport(MemoryBroker(clock), settings.id, "worker")
    if scheme == "kafka":
        return KafkaTransport(_kafka(url, settings, slot, kafka or {}), clock)
    raise ConfigurationError(f"broker URL {scheme}://...: use kafka://host:port or memory://")


def scheme_of(url: str) -> str:
    """``kafka`` for Faust's other names of it as well, and for a bare ``host:port``."""
    scheme, colon, _ = url.partition(":")
    if scheme == "aiokafka" or ("://" not in url and not (colon and scheme in SCHEMES)):
        return "kafka"
    return scheme


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
        "session_timeout_ms": settings.session_timeout_ms,
        "heartbeat_ms": min(3_000, settings.session_timeout_ms // 3),
        "transaction_timeout_ms": settings.transaction_timeout_ms,
        "commit_timeout_ms": min(8_000, settings.transaction_timeout_ms * 4 // 5),
        **options,
    }
    return KafkaSettings(tuple(servers), settings.id, **fields)
