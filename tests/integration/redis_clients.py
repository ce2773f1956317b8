"""Redis transports for tests, and what the world does to them."""

from __future__ import annotations

from typing import Any

from streamflow.clock import SystemClock
from streamflow.transports.base import OnPoint
from streamflow.transports.redis_streams import RedisSettings, RedisTransport
from tests.contract.harness import Clients

LIMIT_S = Clients.limit_s
QUICK = {"session_timeout_ms": 1_000, "heartbeat_ms": 100, "rebalance_timeout_ms": 15_000}


class RedisClients(Clients[RedisTransport]):
    """Real clients; ``settings`` are those of all of them."""

    def __init__(self, port: int, **settings: Any) -> None:
        super().__init__()
        self.port = port
        self.settings = settings

    def make(self, group: str, name: str, on_point: OnPoint, **settings: Any) -> RedisTransport:
        options = {"port": self.port, "slot": name, **QUICK, **self.settings, **settings}
        return RedisTransport(RedisSettings(group, **options), SystemClock(), on_point)
