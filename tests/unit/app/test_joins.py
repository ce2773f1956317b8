"""Joins of streams with streams and with tables, on memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import faust
import pytest
from faust.exceptions import ImproperlyConfigured

from streamflow import App, ConfigurationError, TumblingWindow
from streamflow.clock import SystemClock
from streamflow.processing.joins import JoinSpec
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import logged, make_app, running, until

T0 = 1_700_000_000


class Order(faust.Record):
    id: str
    item: str


class Payment(faust.Record):
    order: str
    amount: int


def topics(app: Any, partitions: int = 2) -> tuple[Any, Any]:
    return (
        app.topic("orders", key_type=str, value_type=Order, partitions=partitions),
        app.topic("payments", key_type=str, value_type=Payment, partitions=partitions),
    )


async def order(topic: Any, key: str, item: str, at_s: float) -> None:
    await topic.send(key=key, value=Order(id=key, item=item), timestamp=T0 + at_s)


async def payment(topic: Any, key: str, amount: int, at_s: float) -> None:
    await topic.send(key=key, value=Payment(order=key, amount=amount), timestamp=T0 + at_s)


def shown(pairs: list[Any]) -> list[tuple[str | None, int | None]]:
    """(item, amount) of each pair."""
    return sorted(
        ((left.item if left else None, right.amount if right else None) for left, right in pairs),
        key=str,
    )


async def joined(kind: str, **options: Any) -> list[tuple[str | None, int | None]]:
    """The pairs of one story: a match, one too late, one of each side without a match, and time goes on."""
    app = make_app()
    orders, payments = topics(app, partitions=1)
    seen: list[Any] = []

    @app.agent(orders)
    async def agent(stream: Any) -> None:
        both = stream & payments.stream()
        async for pair in getattr(both, f"{kind}_join")(Order.id, Payment.order, within=10, **options):
            if pair[0] is None or pair[0].item != "end":
                seen.append(pair)

    async with running(app):
        await order(orders, "a", "apple", 0)
        await payment(payments, "a", 1, 10)
        await payment(payments, "a", 2, 11)
        await order(orders, "b", "bread", 2)
        await payment(payments, "c", 3, 3)
        for at_s in (100, 200):
            await order(orders, "end", "end", at_s)
            await payment(payments, "end", 0, at_s)
        progress = [p for (name, _, _), p in app.engine.active.progress.items() if name.startswith("agent:")]  # type: ignore[union-attr]
        await until(lambda: sorted(p.position for p in progress) == [4, 5])
    return shown([pair for pair in seen if pair[1] is None or pair[1].amount])


async def test_an_inner_join_gives_what_matches_within_the_time() -> None:
    assert await joined("inner") == [("apple", 1)]


async def test_a_left_join_gives_what_is_alone_on_the_left_too() -> None:
    assert await joined("left") == [("apple", 1), ("bread", None)]


async def test_a_right_join_gives_what_is_alone_on_the_right_too() -> None:
    assert await joined("right") == sorted([("apple", 1), (None, 2), (None, 3)], key=str)


async def test_an_outer_join_gives_what_is_alone_on_either_side() -> None:
    assert await joined("outer") == sorted([("apple", 1), ("bread", None), (None, 2), (None, 3)], key=str)


async def test_the_other_side_may_come_first_and_in_any_order() -> None:
    app = make_app()
    orders, payments = topics(app)
    seen: list[Any] = []

    @app.agent(orders)
    async def agent(stream: Any) -> None:
        async for pair in stream.inner_join(payments.stream(), within=60, grace=30):
            seen.append(pair)

    async with running(app):
        for number in range(20):
            await payment(payments, f"k{number % 5}", number, 50 - number)
        for number in range(5):
            await order(orders, f"k{number}", f"item{number}", 40)
        await until(lambda: len(seen) == 20)
        assert {(left.id, right.order) for left, right in seen} == {(f"k{n}", f"k{n}") for n in range(5)}


async def test_what_is_alone_comes_out_too_when_nothing_comes_any_more() -> None:
    app = make_app()
    orders, payments = topics(app)
    out = app.topic("out", value_type=str, partitions=1)
    seen: list[Any] = []

    @app.agent(orders)
    async def agent(stream: Any) -> None:
        async for left, right in stream.left_join(payments.stream(), within=0.05, idle=0.1):
            seen.append((left.item, right))
            await out.send(value=left.item)

    async with running(app):
        await order(orders, "a", "apple", 0)
        await until(lambda: seen == [("apple", None)])
        assert [value for _, value, _ in await logged(app, "out", 1)] == [b'"apple"']


async def test_an_event_that_fails_in_a_join_is_joined_again_as_before() -> None:
    app = make_app()
    orders, payments = topics(app, partitions=1)
    seen: list[Any] = []

    @app.agent(orders)
    async def agent(stream: Any) -> None:
        async for pair in stream.left_join(payments.stream(), within=10):
            seen.append(pair)
            if len(seen) == 1:
                raise ValueError("once")

    async with running(app):
        await order(orders, "a", "apple", 0)
        for at_s in (100, 101):
            await payment(payments, "z", 0, at_s)
            await order(orders, "end", "end", at_s)
        await until(lambda: len(seen) == 2)
    assert shown(seen) == [("apple", None), ("apple", None)]


async def test_a_join_with_a_table_gives_each_value_with_its_row() -> None:
    app = make_app()
    orders, payments = topics(app)
    paid = app.Table("paid", default=int, partitions=2)
    seen: dict[str, list[Any]] = {"inner": [], "left": []}

    @app.agent(payments)
    async def pay(stream: Any) -> None:
        async for key, each in stream.items():
            paid[key] += each.amount

    @app.agent(orders)
    async def inner(stream: Any) -> None:
        async for each, amount in stream.inner_join(paid):
            seen["inner"].append((each.item, amount))

    @app.agent(orders)
    async def left(stream: Any) -> None:
        async for each, amount in (stream & paid).left_join(Order.id):
            seen["left"].append((each.item, amount))

    async with running(app):
        await payment(payments, "a", 3, 0)
        await payment(payments, "a", 4, 0)
        await until(lambda: paid.get("a") == 7)
        await order(orders, "a", "apple", 1)
        await order(orders, "b", "bread", 1)
        await until(lambda: len(seen["left"]) == 2)
    assert seen["inner"] == [("apple", 7)]
    assert sorted(seen["left"], key=str) == [("apple", 7), ("bread", None)]


async def test_a_key_that_lies_elsewhere_is_set_aside_with_what_to_do() -> None:
    app = make_app()
    orders, payments = topics(app, partitions=4)

    @app.agent(orders)
    async def agent(stream: Any) -> None:
        async for _ in (stream & payments.stream()).inner_join(Order.id, Payment.order, within=10):
            pass

    async with running(app):
        await orders.send(key="x", value=Order(id="a", item="apple"), timestamp=T0)
        ((_, _, headers),) = await logged(app, "orders-dead-letters", 1)
        assert b"group_by it first" in headers["error"]


async def test_what_cannot_be_joined_says_so() -> None:
    app = make_app()
    orders, payments = topics(app)
    raised: list[Exception] = []

    @app.agent(orders)
    async def agent(stream: Any) -> None:
        for call in (
            lambda: stream.inner_join(payments.stream()),
            lambda: stream.inner_join(within=1),
            lambda: stream.inner_join(payments.stream(), within=1, colour="red"),
        ):
            try:
                call()
            except (ConfigurationError, ImproperlyConfigured, TypeError) as exc:
                raised.append(exc)
        await asyncio.Event().wait()

    @app.agent(payments, concurrency=2)
    async def several(stream: Any) -> None:
        if len(raised) == 3:
            with pytest.raises(ImproperlyConfigured) as told:
                stream.inner_join(orders.stream(), within=1)
            raised.append(told.value)
        await asyncio.Event().wait()

    async with running(app):
        await until(lambda: len(raised) == 4)
    assert [type(exc) for exc in raised] == [
        ConfigurationError,
        ConfigurationError,
        TypeError,
        ImproperlyConfigured,
    ]


def test_a_join_waits_for_its_time_and_the_grace() -> None:
    assert JoinSpec("j", (True, False), 10_000, 5_000).stays_ms == 15_000
    with pytest.raises(AttributeError):
        JoinSpec("j", (True, False), 10_000).within_ms = 5  # type: ignore[misc]  # it is frozen


def has_come_to(times: Callable[[str], list[int]], time_ms: float) -> bool:
    return max(times("count"), default=0) > time_ms


async def test_a_join_is_not_hurried_by_the_silence_that_ends_another_agents_windows() -> None:
    broker = MemoryBroker(SystemClock())
    window = TumblingWindow(size_s=2, idle_close_s=0.1)
    seen: list[Any] = []
    for life in (1, 2):
        options: Any = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}}
        app = App("app", transport=MemoryTransport(broker, "app", f"worker-{life}"), **options)
        orders, payments = topics(app, partitions=1)
        counts = app.Table("counts", default=int, window=window)

        @app.agent(orders)
        async def count(stream: Any, counts: Any = counts) -> None:
            async for key, _ in stream.items():  # noqa: PERF102  # a stream, not a dict
                counts[key] += 1

        @app.agent(orders)
        async def match(stream: Any, payments: Any = payments) -> None:
            async for pair in (stream & payments.stream()).inner_join(within=0.001, idle=3_600):
                seen.append(pair)

        def times(name: str, app: App = app) -> list[int]:
            held = app.engine.active.progress.values() if app.engine.active is not None else ()
            return [p.watermark_ms for p in held if name in p.consumer and p.watermark_ms is not None]

        async with running(app):
            if life == 1:
                await order(orders, "a", "apple", 0)
                await payment(payments, "a", 1, 0)
                await until(lambda: len(seen) == 1)
            if life == 2:
                # Nobody has written since the restart; a window ends for who wrote before it all the same.
                await until(partial(has_come_to, times, (T0 + 2) * 1_000 - 1))
                await order(orders, "b", "bread", 0.05)
                await payment(payments, "b", 2, 0.05)
                await until(lambda: len(seen) == 2)
    assert shown(seen) == [("apple", 1), ("bread", 2)]


class Refund(faust.Record):
    payment: int
    amount: int


async def refused(app: App, topic: Any, declare: Callable[[Any], Any]) -> str:
    """What is said of a join or a grouping when an agent declares it."""
    told: list[str] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        try:
            declare(stream)
        except ConfigurationError as exc:
            told.append(str(exc))
        else:
            told.append("")
        await asyncio.Event().wait()

    async with running(app):
        await until(lambda: told)
    return told[0]


async def test_three_streams_are_no_join() -> None:
    for nested in (False, True):
        app = make_app()
        orders, payments = topics(app)
        refunds = app.topic("refunds", key_type=str, value_type=Refund, partitions=2)

        def declare(stream: Any, ways: tuple[Any, Any, bool] = (payments, refunds, nested)) -> Any:
            second, third, pairs_first = ways
            both = stream & second.stream()
            if pairs_first:
                both = both.inner_join(within=1)
            return (both & third.stream()).inner_join(within=1)

        assert "a join is of two streams" in await refused(app, orders, declare)


@pytest.mark.parametrize(
    "key_type, fields, said",
    [
        (int, (), "the key of topic 'orders' is str, and the key of topic 'refunds' is int"),
        (None, (), "is bytes"),
        (str, (Order.id, Refund.payment), "a join by Refund.payment needs keys of type int"),
        (int, (Order.id, Refund.payment), "Order.id is str, and Refund.payment is int"),
        (str, (), ""),
        (object, (), ""),
    ],
)
async def test_keys_that_can_never_match_are_refused_where_the_join_is_declared(
    key_type: Any, fields: Any, said: str
) -> None:
    app = make_app()
    orders, _ = topics(app)
    refunds = app.topic("refunds", key_type=key_type, value_type=Refund, partitions=2)

    def declare(stream: Any) -> Any:
        return (stream & refunds.stream()).inner_join(*fields, within=1)

    told = await refused(app, orders, declare)
    assert said in told
    assert bool(said) == bool(told)


async def test_group_by_a_field_that_the_topics_keys_cannot_be_is_refused_where_it_is_declared() -> None:
    for field, key_type, fits in (
        (Refund.payment, str, False),
        (Refund.payment, int, True),
        (Refund.payment, object, True),
    ):
        app = make_app()
        refunds = app.topic("refunds", key_type=str, value_type=Refund, partitions=2)
        other = app.topic("other", key_type=key_type, value_type=Refund, partitions=2)

        def declare(stream: Any, by: Any = field, topic: Any = other) -> Any:
            return stream.group_by(by, topic=topic)

        told = await refused(app, refunds, declare)
        assert ("sends keys of type int to topic 'other'" in told) == (not fits)
        assert bool(told) == (not fits)


async def test_group_by_a_text_of_a_topic_with_numbers_as_keys_has_texts_as_keys() -> None:
    app = make_app()
    orders = app.topic("orders", key_type=int, value_type=Order, partitions=2)
    seen: list[Any] = []

    @app.agent(orders)
    async def agent(stream: Any) -> None:
        async for key, value in stream.group_by(Order.item).items():
            seen.append((key, value.id))

    async with running(app):
        await orders.send(key=1, value=Order(id="a", item="apple"))
        await until(lambda: seen)
    assert seen == [("apple", "a")]
