"""Dead letters over HTTP: why an event was set aside, and how it comes back when somebody asks for it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streamflow import App, Retry
from streamflow.engine.retry_topics import REPLAYED_FOR
from streamflow.query import letter_book
from tests.support.running import log, until
from tests.support.web_apps import Asker, make_web_app, served

LIST, ONE = "/v1/dead-letters", "/v1/dead-letters/{id}"
RIGHTS = ["* read", "* admin:topic:orders-dead-letters"]


class Order(msgspec.Struct):
    id: str
    amount: int


class Shop:
    """Two agents over one topic; the first can't do with negative amounts while ``is_broken``."""

    def __init__(self, **options: Any) -> None:
        self.app: App = make_web_app(topic_partitions=2, **{"web_rights": RIGHTS, **options})
        self.orders = self.app.topic("orders", key_type=str, value_type=Order)
        self.is_broken = True
        self.added: list[int] = []
        self.noted: list[int] = []

        @self.app.agent(self.orders, name="add", retry=Retry(attempts=2, first_wait_s=0.0))
        async def add(stream: Any) -> None:
            async for order in stream:
                if order.amount < 0 and self.is_broken:
                    raise ValueError(f"{order.amount} is negative")
                self.added.append(order.amount)

        @self.app.agent(self.orders, name="note")
        async def note(stream: Any) -> None:
            async for order in stream:
                self.noted.append(order.amount)

    async def send(self, *amounts: int) -> None:
        for amount in amounts:
            await (await self.orders.send(key="k", value=Order(str(amount), amount)))

    async def letters(self, asker: Asker, count: int, query: str = "") -> list[Any]:
        """As soon as there are so many."""

        async def found() -> Any:
            body = await asker.ok(f"{LIST}{query}", LIST)
            return (body["dead_letters"],) if len(body["dead_letters"]) == count else None

        (letters,) = await until(found)
        return list(letters)


async def test_a_letter_tells_what_is_wrong_who_gave_up_and_how_it_comes_back() -> None:
    shop = Shop()
    async with served(shop.app) as asker:
        await shop.send(1, -7)
        (letter,) = await shop.letters(asker, 1)
        assert (letter["key"], letter["value"]) == ("k", {"id": "-7", "amount": -7})
        assert (letter["reason"], letter["error"]) == ("agent-failed", "ValueError: -7 is negative")
        assert (letter["agent"], letter["attempts"], letter["worker"]) == ("add", 2, asker.url)
        assert (letter["state"], letter["handled"], letter["field"]) == ("waiting", None, None)
        assert letter["source"] == {"topic": "orders", "partition": 0, "offset": "1"}
        whole = await asker.ok(f"{LIST}/{letter['id']}", ONE)
        assert "in add" in whole["traceback"]
        assert whole["traceback"].rstrip().endswith("ValueError: -7 is negative")
        assert whole["replay"] == "streamflow dead-letters -A MODULE replay orders:0:1"
        assert {**letter, "traceback": whole["traceback"], "replay": whole["replay"]} == whole


async def test_bad_input_names_the_field() -> None:
    shop = Shop()
    async with served(shop.app) as asker:
        await shop.orders.send(key="k", value=b'{"id": "1", "amount": "much"}')
        (letter,) = await shop.letters(asker, 1)
        assert (letter["reason"], letter["field"], letter["agent"]) == ("wrong-type", "amount", None)
        assert letter["value"] == {"id": "1", "amount": "much"}


async def replay(asker: Asker, letter: Any, **body: Any) -> Any:
    path = f"{LIST}/{letter['id']}/replay"
    return await asker.ok(path, f"{ONE}/replay", method="post", body=body or None)


async def test_an_event_is_replayed_for_all_that_read_there() -> None:
    shop = Shop()
    async with served(shop.app) as asker:
        await shop.send(-7)
        (letter,) = await shop.letters(asker, 1)
        shop.is_broken = False
        told = await replay(asker, letter)
        assert told["position"] == {"topic": "orders", "partition": 0, "offset": "1"}
        await until(lambda: shop.added == [-7] and shop.noted == [-7, -7])
        await shop.letters(asker, 0)
        (again,) = await shop.letters(asker, 1, "?state=replayed")
        assert (again["id"], again["handled"] is not None) == (letter["id"], True)
        await asker.problem(f"{LIST}/{letter['id']}/replay", 409, "already-handled", method="post")
        await replay(asker, letter, again=True)
        await until(lambda: shop.added == [-7, -7] and len(shop.noted) == 3)


async def test_an_event_is_replayed_for_one_agent_and_passes_all_others() -> None:
    shop = Shop()
    async with served(shop.app) as asker:
        await shop.send(-7)
        (letter,) = await shop.letters(asker, 1)
        shop.is_broken = False
        await replay(asker, letter, agent="add")
        await shop.send(5)
        await until(lambda: shop.added == [-7, 5] and shop.noted == [-7, 5])
        headers = [dict(h) for _, _, h in await log(shop.app, "orders")]
        assert headers == [{}, {REPLAYED_FOR: b"agent:add"}, {}]
        problem = await asker.problem(
            f"{LIST}/{letter['id']}/replay",
            400,
            "bad-request",
            method="post",
            body={"agent": "x", "again": True},
        )
        assert "add, note" in problem["detail"]


async def test_one_that_fails_again_for_its_agent_is_a_letter_of_the_event_alone() -> None:
    shop = Shop()
    async with served(shop.app) as asker:
        await shop.send(-7)
        (letter,) = await shop.letters(asker, 1)
        await replay(asker, letter, agent="add")
        (second,) = await shop.letters(asker, 1)
        assert (second["headers"], second["source"]["offset"]) == ([], "1")
        shop.is_broken = False
        await replay(asker, second)
        await until(lambda: shop.added == [-7] and shop.noted == [-7, -7])


async def test_an_event_is_replayed_with_another_value_that_is_checked() -> None:
    shop = Shop()
    async with served(shop.app) as asker:
        await shop.send(-7)
        (letter,) = await shop.letters(asker, 1)
        path = f"{LIST}/{letter['id']}/replay"
        bad = {"value": {"id": "7", "amount": "much"}}
        problem = await asker.problem(path, 400, "bad-request", method="post", body=bad)
        assert "amount" in problem["detail"]
        await shop.letters(asker, 1)
        await replay(asker, letter, value={"id": "7", "amount": 7}, agent="add")
        await until(lambda: shop.added == [7] and shop.noted == [-7])
        await asker.problem(path, 400, "bad-request", method="post", body={"worth": 1})


async def test_what_is_dropped_waits_no_more_and_that_is_remembered() -> None:
    shop = Shop()
    async with served(shop.app) as asker:
        await shop.send(-7, -8, -9)
        letters = await shop.letters(asker, 3)
        path = f"{LIST}/{letters[1]['id']}"
        assert (await asker.ok(path, ONE, method="delete"))["state"] == "dropped"
        assert [each["value"]["amount"] for each in await shop.letters(asker, 2)] == [-7, -9]
        assert (await asker.ok(path, ONE))["state"] == "dropped"
        assert len(await shop.letters(asker, 3, "?state=all")) == 3
        await asker.problem(f"{path}/replay", 409, "already-handled", method="post")
        # Whoever reads the marks anew knows it too.
        book = letter_book.LetterBook(shop.app.engine)
        wanted = letter_book.Wanted(state="dropped")
        assert [entry.letter.id async for entry in book.every(wanted)] == [letters[1]["id"]]


async def test_letters_come_page_by_page_and_by_reason_and_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_book, "READ_AT_ONCE", 3)
    shop = Shop()
    async with served(shop.app) as asker:
        await shop.send(*range(-8, 0))
        await shop.orders.send(key="k", value=b"{")
        await shop.letters(asker, 9)
        seen, cursor, pages = [], "", 0
        while pages == 0 or cursor:
            body = await asker.ok(f"{LIST}?limit=4{cursor}", LIST)
            seen += [int(each["source"]["offset"]) for each in body["dead_letters"]]
            cursor, pages = f"&cursor={body['next']}" if body["next"] else "", pages + 1
        assert (sorted(seen), pages) == (list(range(9)), 3)
        await shop.letters(asker, 8, "?reason=agent-failed")
        for topic, count in (("orders", 9), ("orders-dead-letters", 9), ("others", 0)):
            await shop.letters(asker, count, f"?topic={topic}")
        for query, code in (
            ("cursor=x", "bad-cursor"),
            ("state=lost", "bad-parameter"),
            ("limit=0", "bad-parameter"),
        ):
            await asker.problem(f"{LIST}?{query}", 400, code)


async def test_nobody_replays_or_drops_without_the_right() -> None:
    shop = Shop(web_rights=["* read"])
    async with served(shop.app) as asker:
        await shop.send(-7)
        (letter,) = await shop.letters(asker, 1)
        await asker.problem(f"{LIST}/{letter['id']}/replay", 403, "forbidden", method="post")
        await asker.problem(f"{LIST}/{letter['id']}", 403, "forbidden", method="delete")
        assert shop.noted == [-7]
    shop = Shop(web_rights=["* read:topic:orders", "* admin"])
    async with served(shop.app) as asker:
        await asker.problem(f"{LIST}/orders-dead-letters:0:0", 403, "forbidden")
        await shop.letters(asker, 0)
    shop = Shop()
    async with served(shop.app) as asker:
        foreign = {"Origin": "https://evil.example"}
        path = f"{LIST}/orders-dead-letters:0:0"
        await asker.problem(path, 403, "forbidden", method="delete", **foreign)
        for missing in ("orders-dead-letters:0:7", "orders-dead-letters:9:0", "nonsense", "orders:0:0"):
            status, body = await asker.ask(f"{LIST}/{missing}")
            assert (status, body["code"]) == (404, "no-such-dead-letter")


async def test_a_traceback_is_bounded() -> None:
    shop = Shop()

    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError("x" * 20_000)

    @shop.app.agent(shop.orders, name="deep", retry=Retry(attempts=1))
    async def fails(stream: Any) -> None:
        async for _ in stream:
            deep(100)

    async with served(shop.app) as asker:
        await shop.send(1)
        (letter,) = await shop.letters(asker, 1)
        whole = await asker.ok(f"{LIST}/{letter['id']}", ONE)
        assert len(whole["traceback"]) <= 8_000


async def test_a_page_of_letters_ends_where_it_has_enough_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_book, "BYTES_MAX", 60)
    shop = Shop()
    async with served(shop.app) as asker:
        await shop.send(-1, -2, -3, -4)

        async def whole() -> list[int]:
            seen, cursor = [], ""
            while True:
                body = await asker.ok(f"{LIST}?{cursor}", LIST)
                assert len(body["dead_letters"]) <= 2
                seen += [each["value"]["amount"] for each in body["dead_letters"]]
                if body["next"] is None:
                    return seen if len(seen) == 4 else []
                cursor = f"cursor={body['next']}"

        assert await until(whole) == [-1, -2, -3, -4]
