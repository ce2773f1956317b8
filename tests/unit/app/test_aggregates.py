"""Declared tables of an app, read in Python, and the pages of the app."""

from __future__ import annotations

import json
from base64 import b64encode
from functools import partial
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from yarl import URL

from streamflow import (
    App,
    ApproxDistinct,
    ConfigurationError,
    Count,
    CountBy,
    Event,
    Key,
    Record,
    SessionWindow,
    SlidingWindow,
    Sum,
    TopK,
    TumblingWindow,
)
from streamflow.clock import SystemClock
from streamflow.state.changelog import bare
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import T0_MS, event, logged, make_app, running, until

WINDOW = TumblingWindow(size_s=10)


async def test_an_aggregate_is_read_like_a_dict() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=Event, partitions=2)  # ann's and eva's
    by_user = app.aggregate("by_user", topic, by=Key(), window=WINDOW, values=Count())
    by_shop = app.aggregate(
        "by_shop", topic, by="data.shop", window=WINDOW, values={"n": Count(), "spent": Sum("data.amount")}
    )
    totals = app.aggregate(
        "totals", topic, by=None, window=WINDOW, values={"types": CountBy("type")}, emit_closed="closed"
    )
    ever = app.aggregate("ever", topic, by=Key(), values=Count(), where=lambda each: each.type == "buy")

    with pytest.raises(TypeError, match="running worker"):
        _ = by_user["ann"]
    async with running(app):
        for user, kind, shop, amount, at_ms in (
            ("ann", "buy", "a", 2, T0_MS),
            ("eva", "buy", "a", 3, T0_MS + 1),
            ("ann", "look", "b", 0, T0_MS + 2),
            ("ann", "buy", "a", 5, T0_MS + 10_000),
        ):
            await topic.send(key=user, value=event(kind, at_ms, shop=shop, amount=amount))
        await until(lambda: by_user.get("ann") == 1 and by_user.get("eva") == 1)
        assert [(row.start_ms, row.value) for row in by_user.windows("ann")] == [
            (T0_MS, 2),
            (T0_MS + 10_000, 1),
        ]
        assert sorted(by_user.items()) == [("ann", 1), ("eva", 1)]
        assert "nobody" not in by_user
        await until(lambda: by_shop.get("a") == {"n": 1, "spent": 5})
        assert dict(by_shop) == {"a": {"n": 1, "spent": 5}, "b": {"n": 1, "spent": 0}}
        await until(lambda: len(totals) == 2)
        assert totals[T0_MS] == {"types": {"buy": 2, "look": 1}}
        assert dict(ever) == {"ann": 2, "eva": 1}
        # Eva's partition closes the window too, as soon as it has come so far.
        await topic.send(key="eva", value=event("buy", T0_MS + 10_000, shop="b", amount=1))
        ((key, value, _),) = await logged(app, "closed", 1)
        assert key == b"2025-10-09T08:53:20Z"
        assert json.loads(value or b"") == {
            "window_start": "2025-10-09T08:53:20Z",
            "window_end": "2025-10-09T08:53:30Z",
            "types": {"buy": 2, "look": 1},
        }


def test_a_declaration_that_cannot_work_is_refused() -> None:
    app = make_app()
    topic = app.topic("in", value_type=Event)
    app.aggregate("one", topic, by=Key(), values=Count())
    with pytest.raises(ConfigurationError, match="two tables"):
        app.aggregate("one", topic, by=Key(), values=Count())
    with pytest.raises(ConfigurationError, match="never closed"):
        app.aggregate("two", topic, by=Key(), values=Count(), emit_closed="closed")
    with pytest.raises(ConfigurationError, match="have a 'key' of their own"):
        app.aggregate("two", topic, by="type", window=WINDOW, values={"key": Count()}, emit_closed="closed")


@pytest.mark.parametrize("key_type", [bytes, None])
async def test_raw_keys_are_shown_found_and_told_of_as_text_or_base64(key_type: Any) -> None:
    app = make_app(web_enabled=True, web_port=0)
    topic = app.topic("in", key_type=key_type, value_type=Event, partitions=2)
    app.aggregate("declared", topic, by=Key(), window=WINDOW, values=Count(), emit_closed="closed")
    counted = app.Table("counted", default=int).tumbling(10)

    @app.agent(topic)
    async def count(stream: Any) -> None:
        async for each in stream.events():
            counted[each.key] += 1

    raw = {b"ann": "ann", b"\xff\x00/": "base64:/wAv", b"\\xff": "\\xff"}
    async with running(app), aiohttp.ClientSession(str(app.web_server_url)) as client:
        for key in raw:
            await topic.send(key=key, value=event("x", T0_MS))

        async def shown(table: str) -> bool:
            async with client.get(f"/v1/tables/{table}/rows") as answer:
                return sorted(row["key"] for row in (await answer.json())["rows"]) == sorted(raw.values())

        for table in ("declared", "counted"):
            await until(partial(shown, table))
            for key, text in raw.items():
                for name in (quote(text, safe=""), f"-?key_b64={b64encode(key).decode()}"):
                    async with client.get(URL(f"/v1/tables/{table}/keys/{name}", encoded=True)) as answer:
                        assert (await answer.json())["key"] == text
        for key in raw:
            await topic.send(key=key, value=event("x", T0_MS + 10_000))
        told = await logged(app, "closed", 3)
        assert {key: json.loads(value or b"")["key"] for key, value, _ in told} == raw


async def test_what_a_function_gives_that_is_no_json_is_bad_input() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=Event, partitions=1)
    given = {1: "a", 2: object(), 3: "\ud800", 4: "a"}

    def field(each: Event) -> Any:
        return given[each.data["n"]]

    values = {"n": Count(), "by": CountBy(field), "users": ApproxDistinct(field), "top": TopK(field)}
    grouped = app.aggregate("grouped", topic, by=field, window=WINDOW, values=Count())
    counted = app.aggregate("counted", topic, by="type", window=WINDOW, values=values)
    async with running(app):
        for n in given:
            await topic.send(key="k", value=event("x", T0_MS, n=n))
        await until(lambda: grouped.get("a") == 2 and counted.get("x"))
        top = [{"value": "a", "count": 2, "error": 0}]
        await until(lambda: counted["x"] == {"n": 2, "by": {"a": 2}, "users": 1, "top": top})
        assert grouped.reader.status().counters == {"in": 4, "counted": 2, "bad": 2}
        letters = await logged(app, "in-dead-letters", 4)
        assert {headers["reason"] for _, _, headers in letters} == {b"wrong-type"}


class Place(Record):
    shop: str
    floor: int = 0


class Pair(msgspec.Struct, frozen=True):
    a: int
    b: str = ""


@pytest.mark.parametrize(
    "key_type, key, text",
    [
        (Place, Place(shop="x"), '{"shop": "x", "floor": 0}'),
        (Pair, Pair(1), '{"a":1,"b":""}'),
        (dict, {"b": 1, "a": [2]}, '{"b":1,"a":[2]}'),
        (list, [1, {"a": "x"}], '[1,{"a":"x"}]'),
        (Any, {"z": None}, '{"z":null}'),
    ],
)
@pytest.mark.parametrize("window", [WINDOW, SessionWindow(gap_s=1), SlidingWindow(size_s=1)])
async def test_keys_of_any_json_are_counted_on_after_a_restart(
    key_type: Any, key: Any, text: str, window: Any
) -> None:
    broker = MemoryBroker(SystemClock())
    for round_ in (1, 2):
        transport = MemoryTransport(broker, "app", f"worker-{round_}")
        options: Any = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_port": 0, "env": {}}
        app = App("app", transport=transport, **options)
        topic = app.topic("in", key_type=key_type, value_type=Event, partitions=3)
        counts = app.aggregate("counts", topic, by=Key(), window=window, values=Count(), emit_closed="closed")
        form = app.Table("form", default=int).tumbling(10)
        formed = isinstance(key, Place | Pair)  # arrays and objects are no keys in Python

        @app.agent(topic)
        async def count(stream: Any, form: Any = form, formed: bool = formed) -> None:
            async for each in stream.events():
                if formed:
                    form[each.key] += 1

        async with running(app), aiohttp.ClientSession(str(app.web_server_url)) as client:
            await topic.send(key=key, value=event("x", T0_MS))
            for table in ("counts", "form") if formed else ("counts",):
                url = URL(f"/v1/tables/{table}/keys/{quote(text, safe='')}", encoded=True)
                await until(partial(_answers, client, url, round_))
            assert [row.key for row in counts.rows()] == [json.loads(text)]
            if round_ == 2:
                await topic.send(key=key, value=event("x", T0_MS + 60_000))
                ((raw, value, _),) = await logged(app, "closed", 1)
                assert json.loads(value or b"")["key"] == json.loads(text)
                assert json.loads(value or b"")["value"] == 2
                assert bare(json.loads(raw or b"")) == json.loads(text)


async def _answers(client: aiohttp.ClientSession, url: URL, value: Any) -> bool:
    async with client.get(url) as answer:
        return answer.status == 200 and (await answer.json())["value"] == value


@pytest.mark.parametrize("window", [None, WINDOW, SessionWindow(gap_s=1), SlidingWindow(size_s=1)])
@pytest.mark.parametrize("by", [Key(), "type"])
async def test_an_answer_does_not_count_the_rows_of_its_table(
    by: Any, window: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(web_enabled=True, web_port=0)
    topic = app.topic("in", key_type=str, value_type=Event, partitions=1)
    table = app.aggregate("table", topic, by=by, window=window, values=Count())
    async with running(app), aiohttp.ClientSession(str(app.web_server_url)) as client:
        monkeypatch.setattr(type(table.reader), "row_count", None)  # what calls it fails
        await topic.send(key="x", value=event("x"))
        await until(partial(_answers, client, URL("/v1/tables/table/keys/x"), 1))
        async with client.get("/v1/tables/table/rows") as answer:
            assert len((await answer.json())["rows"]) == 1


async def test_pages_and_tables_are_served_by_one_server() -> None:
    app = make_app(web_enabled=True, web_port=0)
    topic = app.topic("in", key_type=str, value_type=Event, partitions=1)
    app.aggregate("by_user", topic, by=Key(), values=Count())

    @app.page("/hello/{name}")
    async def hello(self: Any, request: Any, name: str) -> Any:
        await topic.send(key=name, value=event())
        return self.json({"hello": name})

    async with running(app), aiohttp.ClientSession(str(app.web_server_url)) as client:
        async with client.get("/hello/ann") as answer:
            assert await answer.json() == {"hello": "ann"}

        async def counted() -> bool:
            async with client.get("/v1/tables/by_user/keys/ann") as answer:
                return answer.status == 200 and (await answer.json())["value"] == 1

        await until(counted)
        async with client.get("/readyz") as answer:
            assert answer.status == 200
