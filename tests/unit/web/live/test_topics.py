"""Topics over the WebSocket and as server-sent events: each committed record once and in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from streamflow import App
from streamflow.client import Client, ClientError
from streamflow.errors import TransportError
from streamflow.query.follow import Follower, Stretch
from streamflow.query.worker_view import WorkerView
from streamflow.transports.base import Record
from streamflow.web.live import topic_feed
from streamflow.web.messages import SUBPROTOCOL
from streamflow.web.server import WebServer
from streamflow.web.settings import WebSettings
from tests.support.told import as_declared
from tests.support.web_apps import Asker, make_web_app, served

EVENTS = "/v1/topics/orders/events"


class Order(msgspec.Struct):
    id: str
    amount: int


def shop(**options: Any) -> App:
    app = make_web_app(topic_partitions=2, **options)
    app.topic("orders", key_type=str, value_type=Order)
    return app


def order(n: int, partition: int = 0, **more: Any) -> Record:
    return Record("orders", partition, b"k%d" % n, msgspec.json.encode(Order(str(n), n)), **more)


async def put(app: App, *numbers: int, partition: int = 0) -> None:
    await app.engine.transport.send([order(n, partition) for n in numbers])


class Live:
    """One WebSocket; ``amounts`` of what it was told, ``cursor`` where it stands."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.features: list[str] = []
        self.records: list[Any] = []
        self.cursor: str | None = None

    @property
    def amounts(self) -> list[int]:
        return [record["value"]["amount"] for record in self.records]

    async def say(self, name: str, **members: Any) -> None:
        await self.socket.send_str(json.dumps({"t": name, **members}))

    async def hear(self) -> Any:
        received = await self.socket.receive(timeout=5)
        assert received.type is aiohttp.WSMsgType.TEXT, (received, self.socket.close_code)
        said = as_declared(json.loads(received.data))
        self.records += said.get("records", [])
        if said["t"] in ("events", "synced", "reset"):
            self.cursor = said["cursor"]
        return said

    async def until(self, name: str) -> Any:
        while (said := await self.hear())["t"] != name:
            pass
        return said

    async def count(self, amounts: int) -> list[int]:
        while len(self.records) < amounts:
            await self.hear()
        return self.amounts

    async def subscribe(self, **members: Any) -> Any:
        await self.say("subscribe", **{"id": "orders", "topic": "orders", **members})
        said = await self.hear()
        assert said["t"] == "subscribed", said
        return said


@asynccontextmanager
async def connect(asker: Asker) -> AsyncIterator[Live]:
    async with asker.session.ws_connect(asker.url + "/v1/ws", protocols=(SUBPROTOCOL,)) as socket:
        live = Live(socket)
        await live.say("init")
        live.features = (await live.hear())["features"]
        yield live


async def test_records_come_as_they_are_committed_from_now_on() -> None:
    async with served(app := shop()) as asker, connect(asker) as live:
        assert live.features == ["topics"]
        await put(app, 1)
        said = await live.subscribe()
        assert (said["recovered"], said["position"], said["partitions"]) == (
            False,
            {"0": "1", "1": "0"},
            [0, 1],
        )
        assert (await live.hear())["t"] == "synced"
        await put(app, 2, 3)
        await put(app, 4, partition=1)
        assert sorted(await live.count(3)) == [2, 3, 4]
        first = live.records[0]
        assert (first["key"], first["partition"], first["offset"], first["headers"]) == ("k2", 0, "1", [])
        await live.say("unsubscribe", id="orders")
        await live.say("ping")
        await live.until("pong")
        await put(app, 5)
        await live.say("ping")
        assert (await live.hear())["t"] == "pong"


async def test_a_cursor_goes_on_where_it_was_with_any_reader_of_the_topic() -> None:
    async with served(app := shop()) as asker:
        async with connect(asker) as live:
            await live.subscribe()
            await live.until("synced")
            await put(app, 0, 1)
            await live.count(2)
            cursor = live.cursor
        await put(app, *range(2, 30))
        await put(app, *range(30, 40), partition=1)
        for _ in range(2):
            async with connect(asker) as other:
                assert (await other.subscribe(since=cursor))["recovered"]
                await other.count(38)
                assert sorted(other.amounts) == list(range(2, 40))
                for partition in (0, 1):
                    mine = [int(r["offset"]) for r in other.records if r["partition"] == partition]
                    assert mine == sorted(set(mine))


async def test_a_cursor_is_good_on_every_worker() -> None:
    async with served(app := shop()) as asker:
        # The same engine seen twice: each has its own readers, and knows nothing of what the other has told.
        other_server = WebServer(WebSettings(port=0))
        view = WorkerView(app.engine, other_server.bind())
        view.open()
        await other_server.start(view)
        other = Asker(asker.session, view.url)
        cursor, told = None, list[int]()
        for n, where in enumerate([asker, other, asker, other]):
            async with connect(where) as live:
                await live.subscribe(**({} if cursor is None else {"since": cursor}))
                await live.until("synced")
                await put(app, 10 * n, 10 * n + 1)
                while not live.records or live.amounts[-1] != 10 * n + 1:
                    await live.hear()
                told, cursor = told + live.amounts, live.cursor
            await put(app, 10 * n + 2, 10 * n + 3)
        assert told == [10 * n + k for n in range(4) for k in range(4)][:-2]
        await other_server.stop()


async def test_who_was_away_for_long_is_read_for_and_joins_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topic_feed, "RING_BYTES", 500)
    monkeypatch.setattr(topic_feed, "TURN_BYTES", 400)
    async with served(app := shop()) as asker, connect(asker) as first:
        await first.subscribe()
        await first.until("synced")
        cursor = first.cursor
        writer = asyncio.create_task(write(app, 300))
        async with connect(asker) as late, connect(asker) as later:
            await first.count(100)
            await late.subscribe(since=cursor)
            await first.count(200)
            await later.subscribe(since=first.cursor)
            from_there = len(first.records)
            await writer
            await first.count(300)
            assert await late.count(300) == list(range(300))
            assert await later.count(300 - from_there) == list(range(from_there, 300))
            await put(app, 1_000)
            for live in (first, late, later):
                await live.count(301 if live is not later else 301 - from_there)
        assert first.amounts == late.amounts == [*range(300), 1_000]
        assert later.amounts == first.amounts[from_there:]


async def write(app: App, count: int) -> None:
    for n in range(count):
        await put(app, n)
        await asyncio.sleep(0)


async def test_a_test_and_rights_pick_records_and_the_cursor_moves_on_all_the_same() -> None:
    rights = ["* read:topic:orders:k1*"]
    async with served(app := shop(web_rights=rights)) as asker, connect(asker) as live:
        await live.subscribe(where="amount >= 11")
        await live.until("synced")
        await put(app, *range(1, 20))
        assert await live.count(9) == list(range(11, 20))
        await put(app, *range(2, 9))
        said = await live.until("synced")
        assert said["position"]["0"] == "26"
        await live.say("subscribe", id="x", topic="orders", where="amount is")
        assert (await live.until("error"))["code"] == "bad-subscription"
        for members in ({"topic": "orders", "key": "k1"}, {"table": "orders", "where": "value > 1"}):
            await live.say("subscribe", id="x", **members)
            assert (await live.until("error"))["code"] in ("bad-subscription", "forbidden")
        await live.say("subscribe", id="x", topic="other")
        assert (await live.until("error"))["code"] == "forbidden"


async def test_a_cursor_of_another_topic_of_the_name_or_none_at_all_is_told_so() -> None:
    async with served(app := shop()) as asker:
        await put(app, 1, 2)
        async with connect(asker) as live:
            for since, reason, recovered in (
                ("nonsense", "cursor-expired", False),
                ("abcd1234~0:1,1:0", "topic-recreated", False),
            ):
                said = await live.subscribe(id=reason, since=since)
                assert said["recovered"] is recovered
                assert (await live.hear())["reason"] == reason
                assert (await live.until("synced"))["position"] == {"0": "2", "1": "0"}
            topic_id = (live.cursor or "").partition("~")[0]
            await live.subscribe(id="ahead", since=f"{topic_id}~0:9,1:0")
            said = await live.until("reset")
            assert (said["reason"], said["partitions"]) == ("records-lost", [0])
            await live.until("synced")
            # A partition that a cursor does not name was not there when it was given.
            await live.subscribe(id="grown", since=f"{topic_id}~1:0")
            await live.until("synced")
            assert live.amounts == [1, 2]


class Flaky(WorkerView):
    """Its broker does not answer while ``is_away``, and has dropped what ``gone`` says."""

    is_away = False
    gone = 0

    def follow(self, topic: str) -> FlakyFollower:
        return FlakyFollower(self, topic)


class FlakyFollower(Follower):
    def __init__(self, view: Flaky, topic: str) -> None:
        super().__init__(view.engine, topic)
        self._view = view

    async def read(self, wait_ms: int) -> list[Stretch]:
        if self._view.is_away:
            raise TransportError("the broker is away")
        stretches = await super().read(min(wait_ms, 20))
        if stretches and self._view.gone:
            messages = stretches[0].messages[self._view.gone :]
            stretches[0] = stretches[0]._replace(messages=messages, gone=self._view.gone)
            self._view.gone = 0
        return stretches


@asynccontextmanager
async def flaky(app: App) -> AsyncIterator[tuple[Asker, Flaky]]:
    async with served(app) as asker:
        server = WebServer(WebSettings(port=0))
        view = Flaky(app.engine, server.bind())
        view.open()
        await server.start(view)
        yield Asker(asker.session, view.url), view
        await server.stop()


async def test_a_broker_that_is_away_makes_it_stale_and_nothing_is_lost() -> None:
    async with flaky(app := shop()) as (asker, view), connect(asker) as live:
        await live.subscribe()
        await live.until("synced")
        view.is_away = True
        assert (await live.until("rebalancing"))["partitions"] == [0, 1]
        await put(app, 1, 2)
        view.is_away = False
        await live.until("synced")
        assert await live.count(2) == [1, 2]


async def test_what_has_left_the_topic_is_told_of() -> None:
    async with flaky(app := shop()) as (asker, view), connect(asker) as live:
        await live.subscribe()
        cursor = (await live.until("synced"))["cursor"]
        view.gone = 2
        await put(app, 1, 2, 3)
        said = await live.until("reset")
        assert (said["reason"], said["partitions"]) == ("records-lost", [0])
        assert said["cursor"].endswith("~0:2,1:0")
        assert await live.count(1) == [3]
        view.gone = 1  # of what is read for one who was away: as if its beginning had gone meanwhile
        async with connect(asker) as late:
            await late.subscribe(since=cursor)
            assert (await late.until("reset"))["partitions"] == [0]
            assert await late.count(2) == [2, 3]
            await late.until("synced")
            view.gone = 0
            await put(app, 4)
            assert await late.count(3) == [2, 3, 4]
            assert await live.count(2) == [3, 4]


async def test_a_slow_client_is_read_for_again_and_misses_nothing() -> None:
    async with served(app := shop()) as asker, connect(asker) as live:
        await live.subscribe()
        await live.until("synced")
        big = "x" * 100_000
        for n in range(200):
            value = msgspec.json.encode(Order(big, n))
            await app.engine.transport.send([Record("orders", 0, b"k", value)])
            await asyncio.sleep(0)
        assert await live.count(200) == list(range(200))


async def test_what_is_published_is_answered_and_comes_back() -> None:
    rights = ["* read", "* publish:topic:orders:k/*"]
    async with served(shop(web_rights=rights)) as asker, connect(asker) as live:
        assert live.features == ["topics", "publish"]
        await live.subscribe()
        await live.until("synced")
        for n in range(5):
            await live.say(
                "publish",
                id=f"p{n}",
                topic="orders",
                key="k/1",
                value={"id": "a", "amount": n},
                headers={"h": "1"},
            )
        places: list[tuple[str, str]] = []
        while len(places) < 5:
            said = await live.hear()
            if said["t"] == "published":
                places.append((said["id"], said["position"]["offset"]))
        assert places == [(f"p{n}", str(n)) for n in range(5)]
        assert await live.count(5) == list(range(5))
        assert live.records[0]["headers"] == [["h", "1"]]
        good: dict[str, Any] = {"topic": "orders", "key": "k/1", "value": {"id": "a", "amount": 1}}
        for wrong, code in (
            ({"key": "other"}, "forbidden"),
            ({"topic": "none"}, "forbidden"),
            ({"value": {"id": "a", "amount": "much"}}, "bad-event"),
        ):
            await live.say("publish", id="w", **{**good, **wrong})
            said = await live.until("error")
            assert (said["id"], said["code"], said["retry"]) == ("w", code, False)


async def test_nobody_publishes_without_the_right() -> None:
    async with served(shop()) as asker, connect(asker) as live:
        await live.say("publish", id="p", topic="orders", value={"id": "a", "amount": 1})
        assert (await live.until("error"))["code"] == "forbidden"


@pytest.mark.parametrize("members", [{}, {"topic": "orders", "table": "orders"}])
async def test_a_subscription_names_a_table_or_a_topic(members: Any) -> None:
    async with served(shop()) as asker, connect(asker) as live:
        await live.say("subscribe", id="x", **members)
        await live.socket.receive(timeout=5)
        assert live.socket.close_code == 4400


async def hear_events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any, str | None]]:
    fields: dict[str, str] = {}
    while line := (await response.content.readline()).decode():
        name, _, value = line.rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "event" in fields:
            yield fields["event"], as_declared(json.loads(fields["data"])), fields.get("id")
            fields = {}


async def test_server_sent_events_resume_by_themselves() -> None:
    async with served(app := shop()) as asker:
        cursor: str | None = None
        told: list[int] = []
        for n in range(3):
            headers = {} if cursor is None else {"Last-Event-ID": cursor}
            await put(app, 10 * n)  # the first before anybody listens, the others while nobody does
            async with asker.session.get(asker.url + EVENTS, headers=headers) as response:
                assert response.content_type == "text/event-stream"
                async for name, said, event_id in hear_events(response):
                    told += [record["value"]["amount"] for record in said.get("records", [])]
                    cursor = event_id or cursor
                    if name == "synced":
                        await put(app, 10 * n + 1)
                    if name == "events" and told[-1] == 10 * n + 1:
                        break
        assert told == [1, 10, 11, 20, 21]
        await asker.problem("/v1/topics/none/events", 404, "no-such-topic")
        await asker.problem(EVENTS + "?where=amount+is", 400, "bad-request")
        await asker.problem(EVENTS + "?what=1", 400, "bad-parameter")


async def test_the_client_listens_publishes_and_is_told_what_it_may_not() -> None:
    rights = ["* read:topic:orders", "* publish:topic:orders"]
    async with served(app := shop(web_rights=rights)) as asker, Client(asker.url) as client:
        async with client.topic("orders", where="amount > 1") as topic:
            places = [await client.publish("orders", {"id": "a", "amount": n}, key="ann") for n in range(4)]
            assert [place.offset for place in places] == ["0", "1", "2", "3"]
            records = topic.__aiter__()
            assert [(await anext(records)).value["amount"] for _ in range(2)] == [2, 3]
            with pytest.raises(ClientError, match="amount"):
                await client.publish("orders", {"id": "a", "amount": "much"})
            with pytest.raises(ClientError, match="publish:topic:none"):
                await client.publish("none", 1)
        await put(app, 7)
        async with client.topic("orders", since=topic.cursor) as again:
            assert (await anext(again.__aiter__())).value["amount"] == 7
