"""A broker of its own, which the tests may kill, with a listener that a proxy stands in front of."""

from __future__ import annotations

import os
import pathlib
import random
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy
from tests.faults.rounds import Scene
from tests.faults.stage import Stage
from tests.integration.conftest import _missing, kafka
from tests.support.kafka_server import KafkaServer, NoBroker
from tests.support.server import free_ports

__all__ = ["kafka", "scene"]


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Iterator[Scene]:
    """Two workers, the second behind a proxy. ``STREAMFLOW_SEED`` chooses the random moments."""
    behind, front = free_ports(2)
    own = "PLAINTEXT://{bind}:{port},CONTROLLER://127.0.0.1:{controller_port}"
    overrides = {
        "listeners": f"{own},PROXIED://{{bind}}:{behind}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},PROXIED://127.0.0.1:{front}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
    }
    server = KafkaServer(overrides, ports=(behind,))
    try:
        server.start()
    except NoBroker as exc:
        _missing(str(exc))
    proxy = Proxy(front, behind)
    seed = os.environ.get("STREAMFLOW_SEED") or str(random.randrange(2**32))
    print(f"STREAMFLOW_SEED={seed}")
    stage = Stage(server.bootstrap, tmp_path, bootstraps=(server.bootstrap, f"127.0.0.1:{front}"))
    try:
        stage.start()
        yield Scene(stage, server, proxy, random.Random(seed))
    finally:
        stage.end()
        proxy.close()
        server.stop()
