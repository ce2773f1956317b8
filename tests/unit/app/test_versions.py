"""An app whose topic holds events of several versions."""

from __future__ import annotations

import json
from typing import Any

from streamflow import Event, Sum
from streamflow.windows import TumblingWindow
from tests.support.running import T0_MS, log, make_app, moment, running, until


class Order(Event, version=2):
    customer: str
    cents: int


@Order.upgrade(from_version=1)
def in_cents(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "cents": round(data.pop("euros") * 100)}


async def test_agents_and_aggregates_see_the_class_as_it_is_now_and_sends_say_their_version() -> None:
    app = make_app()
    orders = app.topic("orders", key_type=str, value_type=Order, partitions=1)
    raw = app.topic("orders", key_type=str, value_type=bytes, value_serializer="raw", partitions=1)
    big = app.topic("big", key_type=str, value_type=Order, partitions=1)
    spent = app.aggregate(
        "spent", orders, by="customer", window=TumblingWindow(10), values={"cents": Sum("cents")}
    )
    seen: list[tuple[str, int]] = []

    @app.agent(orders)
    async def passing_on(stream: Any) -> None:
        async for event in stream.events():
            seen.append((event.value.customer, event.value.cents))
            await big.send(key=event.key, value=event.value, headers=event.headers)

    del passing_on
    old = {"id": "1", "type": "order", "timestamp": T0_MS, "data": {}, "customer": "ann", "euros": 1.5}
    async with running(app):
        await raw.send(key="ann", value=json.dumps(old).encode(), headers={"trace": b"x"})
        new = Order(id="2", type="order", timestamp=moment(T0_MS), data={}, customer="ann", cents=20)
        await orders.send(key="ann", value=new)
        await raw.send(key="ann", value=json.dumps({**old, "euros": "much"}).encode())
        await until(lambda: len(seen) == 2)
        await until(lambda: spent.get("ann") == {"cents": 170})
        passed = await until(lambda: _both(app))
        assert [headers["schema-version"] for _, _, headers in passed] == [b"2", b"2"]
        assert passed[0][2]["trace"] == b"x"
        assert json.loads(passed[0][1])["cents"] == 150
        ((_, value, headers),) = await until(lambda: log(app, "orders-dead-letters"))
        assert headers["reason"] == b"upgrade-failed"
        assert json.loads(value)["euros"] == "much"  # as it came
    assert seen == [("ann", 150), ("ann", 20)]


async def _both(app: Any) -> Any:
    records = await log(app, "big")
    return records if len(records) == 2 else None
