"""Events over HTTP: checked as the app's own sends are, all before any is sent, answered with positions."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from streamflow import App
from tests.support.running import log, logged, until
from tests.support.web_apps import Asker, make_web_app, served

ROUTE = "/v1/topics/{topic}"
RIGHTS = ["* read", "* publish:topic"]


class Order(msgspec.Struct):
    id: str
    amount: int


def shop(**options: Any) -> App:
    app = make_web_app(topic_partitions=2, **{"web_rights": RIGHTS, **options})
    app.topic("orders", key_type=str, value_type=Order)
    app.topic("texts", key_type=bytes, value_type=bytes, value_serializer="raw")
    return app


async def publish(asker: Asker, body: Any = None, topic: str = "orders", **how: Any) -> list[tuple[int, int]]:
    told = await asker.ok(f"/v1/topics/{topic}", ROUTE, method="post", body=body, **how)
    return [(each["partition"], int(each["offset"])) for each in told["positions"]]


async def refused(asker: Asker, status: int, code: str, topic: str = "orders", **how: Any) -> Any:
    return await asker.problem(f"/v1/topics/{topic}", status, code, method="post", **how)


def order(n: int) -> Any:
    return {"id": str(n), "amount": n}


async def test_one_event_lies_where_the_answer_says_with_all_that_was_said_of_it() -> None:
    async with served(app := shop()) as asker:
        event = {
            "key": "ann",
            "value": order(1),
            "headers": {"trace": "7", "none": None},
            "timestamp": "2026-01-02T03:04:05.678Z",
            "partition": 1,
        }
        assert await publish(asker, event) == [(1, 0)]
        (message,) = (await asker.ok("/v1/topics/orders/messages", ROUTE + "/messages"))["messages"]
        assert message == {
            **event,
            "offset": "0",
            "headers": [["trace", "7"], ["none", None]],
        }
        assert await publish(asker, {"key": "ann", "value": order(2), "headers": [["a", "1"], ["a", "2"]]})
        assert await publish(asker, {"value": None, "key": "aGk=", "timestamp": 5}, "texts")
        assert [value for _, value, _ in await log(app, "texts")] == [None]


@pytest.mark.parametrize("lines", [False, True])
async def test_several_events_keep_their_order_and_agents_take_them(lines: bool) -> None:
    app = shop()
    seen: list[int] = []

    @app.agent(app.topic("orders", key_type=str, value_type=Order))
    async def take(stream: Any) -> None:
        async for each in stream:
            seen.append(each.amount)

    events = [{"key": "ann", "value": order(n)} for n in range(5)]
    raw = b"\n".join(map(msgspec.json.encode, events)) + b"\n\n"
    how: dict[str, Any] = {"raw": raw, "Content_Type": "application/x-ndjson"} if lines else {}
    async with served(app) as asker:
        positions = await publish(asker, None if lines else {"events": events}, **how)
        assert [offset for _, offset in positions] == list(range(5))
        assert len({partition for partition, _ in positions}) == 1
        await until(lambda: seen == list(range(5)))
        assert await publish(asker, {"events": []}) == []


async def test_what_readers_would_set_aside_is_refused_and_nothing_of_it_sent() -> None:
    async with served(app := shop()) as asker:
        events = [{"value": order(1)}, {"value": {"id": "2", "amount": "much"}}, {"value": order(3)}]
        problem = await refused(asker, 400, "bad-event", body={"events": events})
        assert (problem["event"], "amount" in problem["detail"]) == (1, True)
        for wrong in (
            {"value": order(1), "key": 7},
            {"value": order(1), "partition": 2},
            {"value": order(1), "worth": 1},
            {"value": order(1), "timestamp": "noon"},
            {"key": "ann"},
        ):
            assert (await refused(asker, 400, "bad-event", body=wrong))["event"] == 0
        for raw in (b"", b"[]", b"{", b"\xff", b'{"events": 1}', b'{"events": [], "key": 1}'):
            await refused(asker, 400, "bad-request", raw=raw)
        assert await log(app, "orders") == []
        assert await publish(asker, {"value": order(4)})
        assert len(await logged(app, "orders", 1)) == 1


async def test_text_and_bytes_go_out_as_they_are_shown() -> None:
    async with served(app := shop()) as asker:
        assert await publish(asker, {"key": "base64:/w==", "value": "base64:/wA="}, "texts")
        assert await publish(asker, {"key": "k", "value": "7"}, "texts")
        assert sorted((key, value) for key, value, _ in await log(app, "texts")) == [
            (b"k", b"7"),
            (b"\xff", b"\xff\x00"),
        ]


async def test_a_key_of_the_clients_own_makes_a_request_count_once() -> None:
    async with served(app := shop()) as asker:
        event = {"key": "ann", "value": order(1)}
        both = await asyncio.gather(*(publish(asker, event, Idempotency_Key="a") for _ in range(5)))
        assert both == [both[0]] * 5
        assert len(await logged(app, "orders", 1)) == 1
        await refused(asker, 409, "key-reused", body={"value": order(2)}, Idempotency_Key="a")
        assert await publish(asker, event, Idempotency_Key="b") != both[0]
        await refused(asker, 400, "bad-request", body=event, Idempotency_Key="a" * 257)
        # What was refused has not used the key up.
        await refused(asker, 400, "bad-event", body={"key": 1, "value": order(3)}, Idempotency_Key="c")
        assert await publish(asker, {"key": "1", "value": order(3)}, Idempotency_Key="d")


async def test_nobody_publishes_without_the_right_and_nowhere_but_to_topics_of_events() -> None:
    async with served(shop(web_rights=["* read"])) as asker:
        await refused(asker, 403, "forbidden", body={"value": order(1)})
    app = shop(web_rights=["* read", "* publish:topic:orders:user/*", "* publish:topic:none"])
    async with served(app) as asker:
        assert await publish(asker, {"key": "user/7", "value": order(1)})
        await refused(asker, 403, "forbidden", body={"key": "ann", "value": order(1)})
        await refused(asker, 403, "forbidden", body={"value": order(1)})
        await refused(asker, 404, "no-such-topic", topic="none", body={"value": 1})
        assert "none" not in app.engine.topology.topics.counts
    app = shop()
    app.Table("counts", default=int)
    app.agent(app.topic("orders", key_type=str, value_type=Order))(_nothing)
    async with served(app) as asker:
        log_of_rows = f"{app.conf.id}-counts-changelog"
        await refused(asker, 409, "not-applicable", topic=log_of_rows, body={"value": 1})
        event = {"value": order(1)}
        await refused(asker, 403, "forbidden", body=event, Origin="https://evil.example")


async def _nothing(stream: Any) -> None:
    async for _ in stream:
        pass


async def test_a_body_is_bounded_in_bytes_and_in_events() -> None:
    async with served(shop(web_publish_bytes_max=1_000, web_publish_events_max=3)) as asker:
        await refused(asker, 413, "too-large", raw=b" " * 1_001)
        events = [{"value": order(n)} for n in range(4)]
        await refused(asker, 413, "too-large", body={"events": events})
        assert len(await publish(asker, {"events": events[:3]})) == 3
