"""Questions to agents: ask, map, join and their like, with agents that have a topic of their own."""

from __future__ import annotations

from typing import Any

import pytest

from streamflow import App, Record
from tests.support.running import make_app, running, until


class Point(Record):
    x: int


def doubling(app: App, **options: Any) -> Any:
    @app.agent(**options)
    async def double(stream: Any) -> Any:
        async for value in stream:
            yield value * 2

    return double


async def test_an_agent_without_a_topic_answers_what_it_is_asked() -> None:
    app = make_app()
    double = doubling(app)
    async with running(app):
        assert await double.ask(4, key="k") == 8
        assert double.channel.get_topic_name() == f"{app.conf.id}-{double.name}"
        promise = await double.ask_nowait(5)
        assert await promise == 10
        assert promise.reply_to == app.conf.reply_to


async def test_questions_in_an_envelope_are_answered_too() -> None:
    app = make_app()
    double = doubling(app, use_reply_headers=False)
    async with running(app):
        assert await double.ask(4) == 8


async def test_models_are_asked_and_answered_with() -> None:
    app = make_app()

    @app.agent(value_type=Point)
    async def right(stream: Any) -> Any:
        async for point in stream:
            yield Point(x=point.x + 1)

    async with running(app):
        assert await right.ask(Point(x=1)) == Point(x=2)


async def test_many_are_asked_at_once_in_order_or_as_they_come() -> None:
    app = make_app()
    double = doubling(app)
    async with running(app):
        assert await double.join(range(1_500)) == [n * 2 for n in range(1_500)]
        assert await double.join([]) == []
        assert await double.kvjoin([("a", 1), ("b", 2)]) == [2, 4]
        assert sorted([value async for value in double.map([1, 2, 3], key="k")]) == [2, 4, 6]
        assert sorted([value async for value in double.kvmap([("a", 1), ("b", 2)])]) == [2, 4]


async def test_a_cast_has_no_answer_and_agents_can_be_sinks() -> None:
    app = make_app()
    seen: list[int] = []

    @app.agent()
    async def last(stream: Any) -> None:
        async for value in stream:
            seen.append(value)

    @app.agent(sink=[last])
    async def first(stream: Any) -> Any:
        async for value in stream:
            yield value + 1

    async with running(app):
        await first.cast(1)
        await first.send(value=2, key="k")
        await until(lambda: sorted(seen) == [2, 3])


async def test_an_answer_may_go_to_another_agent() -> None:
    app = make_app()
    double = doubling(app)
    seen: list[Any] = []

    @app.agent()
    async def collect(stream: Any) -> None:
        async for reply in stream:
            seen.append(reply.value)

    async with running(app):
        await double.send(value=3, reply_to=collect)
        await until(lambda: seen == [6])


@pytest.mark.parametrize("how", ["ask", "join", "promise"])
async def test_asking_inside_an_event_is_refused_under_exactly_once(how: str) -> None:
    app = make_app()
    double = doubling(app)
    raised: list[str] = []

    @app.agent()
    async def asker(stream: Any) -> None:
        async for _ in stream:
            try:
                if how == "promise":
                    await (await double.ask_nowait(1))
                await (double.ask(1) if how == "ask" else double.join([1]))
            except RuntimeError as exc:
                raised.append(str(exc))

    async with running(app):
        await asker.cast(1)
        await until(lambda: raised)
    assert ("checkpoint of this event" if how == "promise" else "exactly_once") in raised[0]


async def test_asking_inside_an_event_works_at_least_once() -> None:
    app = make_app(processing_guarantee="at_least_once")
    double = doubling(app)
    seen: list[int] = []

    @app.agent()
    async def asker(stream: Any) -> None:
        async for value in stream:
            seen.append(await double.ask(value))

    async with running(app):
        await asker.cast(3)
        await until(lambda: seen == [6])
