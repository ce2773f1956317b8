"""Kafka transports for tests, and what the world does to them."""

from __future__ import annotations

from typing import Any

from streamflow.clock import SystemClock
from streamflow.transports.base import OnPoint
from streamflow.transports.kafka import KafkaSettings, KafkaTransport
from tests.contract.harness import Clients

LIMIT_S = Clients.limit_s
QUICK = {"session_timeout_ms": 1_500, "heartbeat_ms": 200, "rebalance_timeout_ms": 15_000}


class KafkaClients(Clients[KafkaTransport]):
    """Real clients."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__()
        self.bootstrap = bootstrap

    def make(self, group: str, name: str, on_point: OnPoint, **settings: Any) -> KafkaTransport:
        options = {**QUICK, "transactional_slot": name, **settings}
        return KafkaTransport(KafkaSettings((self.bootstrap,), group, **options), SystemClock(), on_point)
