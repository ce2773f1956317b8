"""The contract of every transport, on real Kafka."""

from __future__ import annotations

import pytest

from tests.contract.transport_contract import TransportContract
from tests.integration.kafka_clients import Clients


@pytest.fixture
def harness(clients: Clients) -> Clients:
    return clients


class TestKafka(TransportContract):
    pass
