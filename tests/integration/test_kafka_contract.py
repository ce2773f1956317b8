"""The contract of every transport, on real Kafka."""

from __future__ import annotations

import pytest

from tests.contract.transport_contract import TransportContract
from tests.integration.kafka_clients import KafkaClients


@pytest.fixture
def harness(clients: KafkaClients) -> KafkaClients:
    return clients


class TestKafka(TransportContract):
    pass
