"""What is sent is held against the topic's type, as its readers will do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from streamflow import Event, Record
from tests.support.running import T0_MS, event, log, make_app, moment, running

NAIVE = datetime(2026, 11, 27, 12)  # noqa: DTZ001  # that is the point


class Order(msgspec.Struct):
    shop: str
    amount: int


class Stamped(msgspec.Struct):
    at: datetime
    time_field = "at"


class Payment(Record):
    amount: int


GOOD: dict[str, tuple[Any, list[Any]]] = {
    "event": (
        Event,
        [event(), {"id": "1", "type": "a", "timestamp": T0_MS, "data": {}}, b"not for us", None],
    ),
    "struct": (Order, [Order("x", 1), {"shop": "x", "amount": 1}]),
    "stamped": (Stamped, [Stamped(moment(0))]),
    "record": (Payment, [Payment(amount=1), {"amount": 1}]),
    "number": (int, [1]),
    "any": (None, [{"a": NAIVE}, "text", 1]),
    "text": (str, ["text"]),
}
BAD: dict[str, tuple[Any, Any, str]] = {
    "no zone": (Event, Event(id="1", type="a", timestamp=NAIVE, data={}), "bad-timestamp.*timestamp"),
    "no zone in a struct": (Stamped, Stamped(NAIVE), "bad-timestamp.*at"),
    "missing field": (Event, {"id": "1"}, "no Event: missing-type.*type"),
    "another model": (Event, Order("x", 1), "no Event: "),
    "wrong type within": (Order, Order("x", "many"), "no Order: wrong-type.*amount"),  # type: ignore[arg-type]  # that is the point
    "no number": (int, "one", "no int: wrong-type"),
}


@pytest.mark.parametrize("kind, values", GOOD.values(), ids=GOOD.keys())
async def test_what_readers_take_is_sent(kind: Any, values: list[Any]) -> None:
    app = make_app()
    topic = app.topic("out", key_type=str, value_type=kind, partitions=1)
    async with running(app):
        for value in values:
            await (await topic.send(key="k", value=value))
        assert len(await log(app, "out")) == len(values)


@pytest.mark.parametrize("kind, value, said", BAD.values(), ids=BAD.keys())
async def test_what_readers_would_set_aside_is_not_sent(kind: Any, value: object, said: str) -> None:
    app = make_app()
    topic = app.topic("out", key_type=str, value_type=kind, partitions=1)
    async with running(app):
        with pytest.raises(TypeError, match=f"topic 'out': its readers would set this value aside.*{said}"):
            await topic.send(key="k", value=value)
        assert await log(app, "out") == []
