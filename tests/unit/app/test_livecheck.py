"""LiveCheck: an app that follows events through another one while it runs."""

# No `from __future__ import annotations`: LiveCheck reads the annotations of its cases.

from functools import partial
from typing import Any

from streamflow import App
from streamflow.clock import SystemClock
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import running, until

OPTIONS = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}}


def has(items: list[Any], count: int) -> bool:
    return len(items) == count


async def test_livecheck_follows_an_event_through_the_app() -> None:
    broker = MemoryBroker(SystemClock())
    app = App("shop", transport=MemoryTransport(broker, "shop", "one"), origin="shop", **OPTIONS)
    check = app.LiveCheck(transport=MemoryTransport(broker, "livecheck-shop", "check"))
    orders = app.topic("orders", key_type=str, value_type=dict)
    ended: list[Any] = []

    @check.case(probability=1.0, name="stored")
    class Stored(check.Case):  # type: ignore[name-defined, misc]
        in_agent: check.Signal  # type: ignore[name-defined]

        async def run(self, order: str) -> None:
            assert await self.in_agent.wait(timeout=5) == order

        async def on_test_pass(self, runner: Any) -> None:
            ended.append("pass")
            await super().on_test_pass(runner)

        async def on_test_failed(self, runner: Any, exc: BaseException) -> None:
            ended.append("fail")

    @app.agent(orders)
    async def store(stream: Any) -> None:
        async for order in stream:
            await Stored.in_agent.send(order["id"])

    async with running(app), running(check):
        for sent, expected in (("o1", "o1"), ("o2", "another")):
            async with Stored.maybe_trigger(expected, order=expected):
                await orders.send(key=sent, value={"id": sent})
            count = 1 if sent == "o1" else 2
            await until(partial(has, ended, count))
        assert ended == ["pass", "fail"]
