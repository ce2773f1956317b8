"""Records of topics over HTTP: decoded as the topic says, in pages, within bounds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streamflow import App
from streamflow.query import browse
from streamflow.transports.base import Record
from tests.support.running import T0_MS
from tests.support.web_apps import Asker, make_web_app, served

ROUTE = "/v1/topics/{topic}/messages"


class Order(msgspec.Struct):
    id: str
    amount: int


def shop(**options: Any) -> App:
    app = make_web_app(topic_partitions=2, **options)
    app.topic("orders", key_type=str, value_type=Order)
    app.topic("texts", key_type=bytes, value_type=str, value_serializer="raw")
    app.topic("empty")
    return app


def order(n: int, partition: int = 0, **more: Any) -> Record:
    raw = msgspec.json.encode(Order(str(n), n))
    return Record("orders", partition, b"k%d" % n, raw, timestamp_ms=T0_MS + n * 1_000, **more)


async def look(asker: Asker, query: str, topic: str = "orders") -> Any:
    return await asker.ok(f"/v1/topics/{topic}/messages{query}", ROUTE)


def amounts(body: Any) -> list[int]:
    return [message["value"]["amount"] for message in body["messages"]]


async def test_a_partition_is_walked_page_by_page() -> None:
    app = shop()
    async with served(app) as asker:
        await app.engine.transport.send([order(n) for n in range(25)])
        seen: list[int] = []
        query, following = "?partition=0&limit=10", None
        for _ in range(3):
            body = await look(asker, query)
            seen += amounts(body)
            following = body["next"]
            query = f"?partition=0&limit=10&offset={following['offset']}" if following else ""
        assert (seen, following) == (list(range(25)), None)
        assert amounts(await look(asker, "?partition=0&offset=7&limit=2")) == [7, 8]
        assert amounts(await look(asker, "?partition=0&offset=latest&limit=3")) == [22, 23, 24]
        assert amounts(await look(asker, f"?partition=0&time={T0_MS + 23_000}")) == [23, 24]
        assert await look(asker, "?partition=1") == {"messages": [], "next": None}
        assert await look(asker, "?partition=0&offset=999999") == {"messages": [], "next": None}


async def test_all_partitions_are_merged_by_their_timestamps() -> None:
    app = shop()
    async with served(app) as asker:
        await app.engine.transport.send([order(n, n % 2) for n in range(10)])
        assert amounts(await look(asker, "?limit=3")) == [7, 8, 9]
        assert amounts(await look(asker, f"?limit=3&time={T0_MS + 4_000}")) == [4, 5, 6]


async def test_the_newest_are_found_however_far_they_lie_apart() -> None:
    app = shop()
    async with served(app) as asker:
        transport = app.engine.transport
        await transport.send([order(n) for n in range(5)])
        await transport.send([order(n) for n in range(100, 100 + 3 * browse.SPAN_FIRST)])
        assert amounts(await look(asker, "?partition=0&offset=latest&limit=100"))[:5] == [1, 2, 3, 4, 100]
        assert len(amounts(await look(asker, "?partition=0&offset=latest&limit=1000"))) == 101


async def test_what_is_shown_is_what_the_topic_says_and_what_its_readers_make_of_it() -> None:
    app = shop()
    async with served(app) as asker:
        records = [
            Record("orders", 0, b"k", b'{"id":"1","amount":"much"}', [("trace", b"7"), ("none", None)]),
            Record("orders", 0, b"k", b"\xff\xfe"),
            Record("orders", 0, None, None),
            Record("texts", 0, b"\xff", b"123"),
            Record("texts", 0, b"k", b'"' + b"x" * 300_000 + b'"'),
        ]
        await app.engine.transport.send(records)
        wrong, broken, null = (await look(asker, "?partition=0"))["messages"]
        assert (wrong["key"], wrong["value"]) == ("k", {"id": "1", "amount": "much"})
        assert "amount" in wrong["error"]
        assert wrong["headers"] == [["trace", "7"], ["none", None]]
        assert (broken["value"], "error" in broken) == ("base64://4=", True)
        assert (null["key"], null["value"], "null-value" in null["error"]) == (None, None, True)
        text, long = (await look(asker, "?partition=0", "texts"))["messages"]
        assert (text["key"], text["value"], "error" in text) == ("base64:/w==", "123", False)
        assert (len(long["value"]), long["bytes"]) == (1_024, 300_002)


async def test_a_look_ends_where_it_has_enough_bytes_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(browse, "BYTES_MAX", 100)
    app = shop()
    async with served(app) as asker:
        await app.engine.transport.send([order(n) for n in range(9)])
        body = await look(asker, "?partition=0")
        assert 1 <= len(body["messages"]) < 9
        rest = await look(asker, f"?partition=0&offset={body['next']['offset']}")
        assert amounts(rest)[0] == amounts(body)[-1] + 1
        newest = amounts(await look(asker, "?partition=0&offset=latest"))
        assert newest == list(range(9 - len(newest), 9))
        assert 1 <= len(newest) < 9


async def test_a_look_ends_in_time_and_says_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    app = shop()
    async with served(app) as asker:
        await app.engine.transport.send([order(n) for n in range(9)])
        monkeypatch.setattr(browse, "LOOK_MAX_MS", -1.0)
        body = await look(asker, "?partition=0&offset=4")
        assert body == {"messages": [], "next": {"partition": 0, "offset": "4"}}


@pytest.mark.parametrize(
    "query, name",
    [
        ("?partition=2", "partition"),
        ("?partition=x", "partition"),
        ("?partition=0&offset=-1", "offset"),
        ("?offset=3", "offset"),
        ("?partition=0&offset=3&time=0", "time"),
        ("?time=noon", "time"),
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?page=2", "page"),
    ],
)
async def test_what_can_not_be_asked_is_told_by_its_name(query: str, name: str) -> None:
    async with served(shop()) as asker:
        problem = await asker.problem(f"/v1/topics/orders/messages{query}", 400, "bad-parameter")
        assert problem["parameter"] == name


async def test_topics_that_are_not_there_or_not_to_be_read_are_refused() -> None:
    app = shop(web_rights=["* read:topic:orders", "* read:topic:texts:aGk*"])
    async with served(app) as asker:
        await app.engine.transport.send(
            [Record("texts", 0, b"aGk1", b"mine"), Record("texts", 0, b"other", b"theirs")]
        )
        await asker.problem("/v1/topics/empty/messages", 403, "forbidden")
        await asker.problem("/v1/topics/none/messages", 403, "forbidden")
        assert [m["value"] for m in (await look(asker, "", "texts"))["messages"]] == ["mine"]
        topics = await asker.ok("/v1/topics", "/v1/topics")
        assert [topic["topic"] for topic in topics["topics"]] == ["orders"]
        await asker.problem("/v1/agents", 403, "forbidden")
        await asker.problem("/v1/workers", 403, "forbidden")
    async with served(shop()) as asker:
        problem = await asker.problem("/v1/topics/none/messages", 404, "no-such-topic")
        assert {"orders", "texts"} <= set(problem["topics"])


async def test_the_apps_own_state_is_shown_by_its_tables() -> None:
    app = shop()
    counts = app.Table("counts", default=int)

    @app.agent(app.topic("orders", key_type=str, value_type=Order))
    async def add(stream: Any) -> None:
        async for key, _ in stream.items():  # noqa: PERF102  # a stream is no dict
            counts[key] += 1

    async with served(app) as asker:
        log = f"{app.conf.id}-counts-changelog"
        topics = {t["topic"]: t for t in (await asker.ok("/v1/topics", "/v1/topics"))["topics"]}
        assert (topics[log]["internal"], topics[log]["tables"]) == (True, ["counts"])
        assert (topics["orders"]["internal"], topics["orders"]["tables"]) == (False, ["counts"])
        assert topics["orders"]["partitions"][0]["owner"] == asker.url
        await asker.problem(f"/v1/topics/{log}/messages", 409, "not-applicable")
