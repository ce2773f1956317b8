"""Agents of an app on memory: what they iterate, send, yield, and what becomes of what they can't take."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import faust
import pytest

from streamflow import CircuitBreaker, ConfigurationError, Event, RecordTooLarge, Retry
from tests.support.running import T0_MS, event, log, logged, make_app, moment, running, until


async def test_an_agent_sees_values_items_events_and_numbers() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=Event, partitions=1)
    seen: dict[str, list[Any]] = {"values": [], "items": [], "events": [], "numbers": []}

    @app.agent(topic, name="values")
    async def values(stream: Any) -> None:
        assert isinstance(stream, faust.Stream)
        async for value in stream:
            seen["values"].append(value.type)

    @app.agent(topic, name="items")
    async def items(stream: Any) -> None:
        async for key, value in stream.items():
            seen["items"].append((key, value.type))

    @app.agent(topic, name="events")
    async def events(stream: Any) -> None:
        async for each in stream.events():
            current: Any = faust.current_event()
            assert current is each
            message = each.message
            seen["events"].append(
                (each.key, each.value.type, message.partition, message.offset, each.headers)
            )

    @app.agent(topic, name="numbers")
    async def numbers(stream: Any) -> None:
        async for number, value in stream.enumerate(10):
            seen["numbers"].append((number, value.type))

    async with running(app):
        await topic.send(key="ann", value=event("click"), headers={"h": b"1"})
        await topic.send(key="bob", value=event("view"))
        await until(lambda: all(len(found) == 2 for found in seen.values()))
    assert seen["values"] == ["click", "view"]
    assert seen["items"] == [("ann", "click"), ("bob", "view")]
    assert seen["events"] == [("ann", "click", 0, 0, {"h": b"1"}), ("bob", "view", 0, 1, {})]
    assert seen["numbers"] == [(10, "click"), (11, "view")]


async def test_an_agent_that_is_declared_by_its_old_name_is_one_of_ours() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    seen = []

    @app.actor(topic, retry=Retry(attempts=1))
    async def old(stream: Any) -> None:
        async for value in stream:
            seen.append(value)
            if value == 1:
                raise ValueError(value)

    async with running(app):
        for value in range(3):
            await topic.send(value=value)
        await until(lambda: len(seen) == 3)
        letters = await logged(app, "in-dead-letters", 1)
    assert [value for _, value, _ in letters] == [b"1"]


async def test_filters_and_processors_see_each_value() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    seen: list[int] = []

    @app.agent(topic)
    async def even(stream: Any) -> None:
        stream.add_processor(lambda value: value * 10)
        async for value in stream.filter(lambda value: value % 20 == 0):
            seen.append(value)

    async with running(app):
        for number in range(5):
            await topic.send(value=number)
        await until(lambda: len(seen) == 3)
    assert seen == [0, 20, 40]


async def test_what_an_agent_yields_goes_to_its_sinks() -> None:
    app = make_app()
    topic, doubled = app.topic("in", value_type=int, partitions=1), app.topic("doubled", value_type=int)
    seen: list[int] = []

    @app.agent(topic, sink=[doubled, seen.append])
    async def double(stream: Any) -> Any:
        async for value in stream:
            yield value * 2

    async with running(app):
        await topic.send(value=4)
        await until(lambda: seen == [8])
        await logged(app, "doubled", 1)


async def test_what_an_agent_sends_comes_with_the_checkpoint_and_cannot_be_awaited_before() -> None:
    app = make_app()
    topic, out = app.topic("in", value_type=str, partitions=1), app.topic("out", key_type=str)
    told: list[Any] = []

    @app.agent(topic, retry=Retry(attempts=1))
    async def forward(stream: Any) -> None:
        async for value in stream:
            sent = await out.send(key="k", value={"is": value})
            assert not sent.done()
            try:
                await sent
            except RuntimeError as exc:
                told.append((str(exc), sent))

    async with running(app):
        await topic.send(value="a")
        ((why, sent),) = await until(lambda: told)
        assert "checkpoint" in why
        metadata = await sent  # outside of the event it comes
        assert (metadata.topic, metadata.offset) == ("out", -1)
        assert await log(app, "out") == [(b"k", b'{"is":"a"}', {})]


async def test_outside_of_agents_messages_go_at_once_and_in_order() -> None:
    app = make_app()
    out = app.topic("out", key_type=str, value_type=int, partitions=1)
    done: list[Any] = []

    async with running(app):
        sent = [await out.send(key="k", value=n, callback=done.append) for n in range(100)]
        assert [(await ack).offset for ack in sent] == list(range(100))
        assert [value for _, value, _ in await log(app, "out")] == [b"%d" % n for n in range(100)]
        await app.send("out", key=b"k", value=7)
        await until(lambda: len(done) == 100)
        out.send_soon(key="k", value=8, headers={"a": "b"})
        records = await logged(app, "out", 102)
        assert records[-1] == (b"k", b"8", {"a": b"b"})


async def test_a_record_that_is_too_large_is_refused_where_it_is_sent() -> None:
    app = make_app()
    out = app.topic("out", value_type=str)
    async with running(app):
        with pytest.raises(RecordTooLarge, match="producer_max_request_size"):
            await out.send(value="x" * 1_100_000)
        with pytest.raises(TypeError):
            await out.send(key=object(), value="x")


async def test_an_agent_that_raises_is_tried_again_and_then_the_event_is_set_aside() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    seen: list[int] = []

    @app.agent(topic, retry=Retry(attempts=3, first_wait_s=0.001))
    async def fragile(stream: Any) -> None:
        async for value in stream:
            seen.append(value)
            if value == 1:
                raise ValueError("not this one")

    async with running(app):
        for number in range(3):
            await topic.send(key="k", value=number)
        await until(lambda: seen == [0, 1, 1, 1, 2])
        ((key, value, headers),) = await logged(app, "in-dead-letters", 1)
        assert (key, value) == (b"k", b"1")
        assert headers["reason"] == b"agent-failed"
        assert headers["error"] == b"ValueError: not this one"
        assert headers["source-offset"] == b"1"


async def test_an_event_that_hangs_is_cancelled_and_counts_once() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    sums = app.Table("sums", default=int, partitions=1)
    tries = 0

    @app.agent(topic, name="hanging", timeout_s=0.05, retry=Retry(first_wait_s=0.001))
    async def hanging(stream: Any) -> None:
        nonlocal tries
        async for key, value in stream.items():
            sums[key] += value
            tries += 1
            if tries < 3:
                await asyncio.sleep(60)

    async with running(app):
        await topic.send(key="k", value=1)
        await topic.send(key="k", value=10)
        await until(lambda: app.engine.metrics.render()[0] != b"" and sums["k"] == 11)
        assert app.engine.metrics.events_failed_total.labels("hanging", "EventTimeout").value == 2
    assert tries == 4


async def test_an_outage_longer_than_all_attempts_costs_no_event_of_an_agent_with_a_breaker() -> None:
    breaker = CircuitBreaker("shop", failures_max=2, open_s=0.1)
    app = make_app(transient_errors=[LookupError])
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    sums = app.Table("sums", default=int, partitions=1)
    is_down, tries = True, 0

    @app.agent(topic, breaker=breaker, retry=Retry(attempts=2, first_wait_s=0.001))
    async def calling(stream: Any) -> None:
        nonlocal tries
        async for key, value in stream.items():
            sums[key] += value
            tries += 1
            if is_down and value == 2:
                raise IndexError("down")  # a LookupError

    @app.agent(topic, name="beside")
    async def beside(stream: Any) -> None:
        async for _ in stream:
            pass

    del beside
    async with running(app):
        for value in (1, 2, 3, 4):
            await topic.send(key="k", value=value)
        await until(lambda: tries >= 8)
        assert breaker.state in ("open", "half-open")
        is_down = False
        await until(lambda: sums["k"] == 10)
        await until(lambda: breaker.state == "closed")
        assert await log(app, "in-dead-letters") == []


@pytest.mark.parametrize("named", ["no.such:Thing", "builtins:print", [int], "builtins"])
async def test_what_names_no_exception_is_refused_at_the_start(named: Any) -> None:
    app = make_app(transient_errors=named)
    topic = app.topic("in", value_type=int, partitions=1)

    @app.agent(topic)
    async def any_agent(stream: Any) -> None:
        async for _ in stream:
            pass

    del any_agent
    with pytest.raises(ConfigurationError, match="transient_errors"):
        await app.start()
    await app.stop()


async def test_an_agent_without_dead_letters_stops_the_worker() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)

    @app.agent(topic, retry=Retry(attempts=1), dead_letter=False)
    async def fragile(stream: Any) -> None:
        async for _ in stream:
            raise ValueError("stop")

    async def main() -> None:
        async with running(app):
            await topic.send(value=1)
            await until(lambda: app.crashed)

    with pytest.raises(AssertionError, match="ValueError"):
        await main()


async def test_typed_handlers_get_their_events_and_others_are_set_aside() -> None:
    app = make_app()
    topic = app.topic("actions", key_type=str, value_type=Event, partitions=1)
    router = app.event_router(topic)
    seen: list[tuple[str, Event]] = []

    @router.on("user_action")
    async def user_action(each: Event) -> None:
        seen.append(("user", each))

    @router.on("system_event")
    def system_event(each: Event) -> None:
        seen.append(("system", each))

    with pytest.raises(ConfigurationError, match="two handlers"):
        router.on("user_action")(user_action)

    async with running(app):
        for kind in ("user_action", "unheard_of", "", "system_event"):
            await topic.send(key="k", value=event(kind))
        without = {"id": "1", "timestamp": moment(T0_MS).isoformat(), "data": {}}
        await app.topic("actions", partitions=1).send(key=b"k", value=without)
        await until(lambda: len(seen) == 2)
        letters = await logged(app, "actions-dead-letters", 3)
        assert [(who, each.type) for who, each in seen] == [
            ("user", "user_action"),
            ("system", "system_event"),
        ]
        reasons = [(json.loads(value).get("type"), headers["reason"]) for _, value, headers in letters]
        assert sorted(reasons, key=str) == sorted(
            [("unheard_of", b"unknown-type"), ("", b"missing-type"), (None, b"missing-type")], key=str
        )
        assert app.engine.metrics.retries_total.value == 0
        counted = app.engine.metrics.dead_letters_total.children
        assert sum(child.value for child in counted.values()) == 3


async def test_timers_and_tasks_run_and_end_with_the_app() -> None:
    app = make_app()
    topic = app.topic("ticks", value_type=int, partitions=1)
    ran: list[str] = []

    @app.task  # type: ignore[untyped-decorator]  # Faust's decorators have no types
    async def once() -> None:
        ran.append("task")

    @app.timer(0.01)  # type: ignore[untyped-decorator]  # Faust's decorators have no types
    async def often() -> None:
        ran.append("timer")
        await topic.send(value=len(ran))

    async with running(app):
        await until(lambda: ran.count("timer") > 3)
        assert ran.count("task") == 1
    after = len(ran)
    await asyncio.sleep(0.05)
    assert len(ran) == after


async def test_nothing_can_be_sent_to_memory_from_outside_of_a_worker() -> None:
    app = make_app()
    with pytest.raises(ConfigurationError, match="memory://"):
        await app.topic("in").send(value=1)


async def test_an_agent_that_returns_without_an_event_is_started_again_ever_more_seldom() -> None:
    app = make_app()
    started: list[float] = []

    @app.agent(app.topic("in", partitions=1))
    async def agent(stream: Any) -> None:
        started.append(asyncio.get_running_loop().time())

    async with running(app):
        await until(lambda: len(started) >= 4)
    waits = [after - before for before, after in pairwise(started[:4])]
    assert waits[1] > 1.5 * waits[0]
    assert waits[2] > 1.5 * waits[1]


async def test_a_header_without_value_goes_through_an_agent_as_it_is() -> None:
    app = make_app()
    topic, out = app.topic("in", key_type=str, value_type=int, partitions=1), app.topic("out", value_type=int)
    seen: list[Any] = []

    @app.agent(topic)
    async def forwarding(stream: Any) -> None:
        async for each in stream.events():
            seen.append(each.headers)
            await each.forward(out)
            await out.send(value=each.value, headers=each.headers)
            if each.value == 2:
                raise ValueError(each.value)

    headers: Any = {"none": None, "empty": b"", "text": "x"}
    async with running(app):
        await topic.send(key="ann", value=1, headers=headers)
        await topic.send(key="ann", value=2, headers=headers)
        sent = await logged(app, "out", 2)
        letters = await logged(app, "in-dead-letters", 1)
    kept = {"none": None, "empty": b"", "text": b"x"}
    assert seen[0] == kept
    assert [each for _, _, each in sent] == [kept, kept]
    assert {name: letters[0][2][name] for name in kept} == kept


@pytest.mark.parametrize("how", [{}, {"concurrency": 2}, {"isolated_partitions": True}])
async def test_an_agent_that_raises_before_its_loop_starts_again_and_the_worker_goes_on(how: Any) -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    tries: list[int] = []
    seen: list[int] = []

    @app.agent(topic, **how)
    async def early(stream: Any) -> None:
        tries.append(1)
        if len(tries) < 4:
            raise ConnectionError("the database is not there yet")
        async for value in stream:
            seen.append(value)

    async with running(app):
        await topic.send(value=7)
        await until(lambda: seen)
        assert await log(app, "in-dead-letters") == []  # no event was at fault
    assert seen == [7]
    assert len(tries) >= 4


async def test_an_agent_that_raises_behind_its_loop_starts_again() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    seen: list[int] = []

    @app.agent(topic)
    async def behind(stream: Any) -> None:
        async for value in stream:
            seen.append(value)
            if value == 1:
                stream.throw_soon = asyncio.ensure_future(stream.throw(KeyError("from elsewhere")))

    async with running(app):
        await topic.send(value=1)
        await until(lambda: seen == [1])
        await topic.send(value=2)
        await until(lambda: seen == [1, 2])


async def test_what_is_declared_wrong_before_the_loop_stops_the_worker() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)

    @app.agent(topic, concurrency=2, name="grouping")
    async def grouping(stream: Any) -> None:
        async for _ in stream.group_by(lambda value: value, name="self"):
            pass

    async def main() -> None:
        async with running(app):
            await until(lambda: app.crashed)

    with pytest.raises(AssertionError, match=r"agent grouping: .*cannot use group_by"):
        await main()
