"""Broker URL -> transport."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError
from streamflow.settings import Settings
from streamflow.transports.base import Transport
from streamflow.transports.kafka import KafkaSettings, KafkaTransport
from streamflow.transports.memory import MemoryBroker, MemoryTransport


def connect(url: str, settings: Settings, clock: Clock, web_port: int) -> Transport:
    """The transport of a broker URL, not started. Raises ConfigurationError for one that is not known."""
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        return MemoryTransport(MemoryBroker(clock), settings.id, "worker")
    if scheme in ("kafka", "aiokafka"):
        return KafkaTransport(_kafka(url, settings, web_port), clock)
    raise ConfigurationError(f"broker URL {scheme}://...: use kafka://host:port or memory://")


def _kafka(url: str, settings: Settings, web_port: int) -> KafkaSettings:
    servers: list[str] = []
    for part in url.split(";"):
        split = urlsplit(part if "://" in part else f"kafka://{part}")
        if split.username is not None:
            raise ConfigurationError("a Kafka URL takes no user or password")
        servers.append(f"{split.hostname or 'localhost'}:{split.port or 9092}")
    return KafkaSettings(
        tuple(servers),
        settings.id,
        client_id=settings.id,
        transactional_slot=settings.transactional_slot or f"{socket.gethostname()}-{web_port}",
        transactions=settings.processing_guarantee == "exactly_once",
        session_timeout_ms=settings.session_timeout_ms,
        transaction_timeout_ms=settings.transaction_timeout_ms,
    )
