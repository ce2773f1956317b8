"""Streams of an app on memory: batches, manual acknowledgement, repartitioning, merging, concurrency."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from typing import Any, cast

import faust
import pytest
from mode.supervisors import CrashingSupervisor

from streamflow import ConfigurationError, Retry
from tests.support.running import LIMIT_S, logged, make_app, running, until

ONCE_MORE = Retry(attempts=2, first_wait_s=0.001)


async def test_take_gives_batches_by_count_and_by_time() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    seen: list[list[int]] = []
    go_on = asyncio.Event()

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for values in stream.take(3, within=0.2):
            seen.append(list(values))
            if len(seen) == 3:
                await go_on.wait()

    async with running(app):
        for number in range(7):
            await topic.send(value=number)
        await until(lambda: sum(map(len, seen)) == 7)
        assert seen == [[0, 1, 2], [3, 4, 5], [6]]
        # The last batch is in flight until the next one is taken.
        (progress,) = [p for key, p in app.engine.active.progress.items() if key[0].startswith("agent:")]  # type: ignore[union-attr]
        await until(lambda: progress.position == 6)
        go_on.set()
        await until(lambda: progress.position == 7)


async def test_batches_are_events_and_have_timestamps_where_they_are_asked_for() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=dict, partitions=1)
    events: list[Any] = []
    values: list[Any] = []

    @app.agent(topic)
    async def of_events(stream: Any) -> None:
        async for batch in stream.take_events(2, within=1):
            events.extend((event.key, event.value, event.message.offset) for event in batch)

    @app.agent(topic)
    async def with_time(stream: Any) -> None:
        async for batch in stream.take_with_timestamp(2, within=1, timestamp_field_name="at"):
            values.extend(batch)

    async with running(app):
        await topic.send(key="a", value={"n": 1}, timestamp=1_700_000_000.5)
        await topic.send(key="b", value={"n": 2}, timestamp=1_700_000_001.0)
        await until(lambda: len(events) == 2 and len(values) == 2)
    assert events == [("a", {"n": 1}, 0), ("b", {"n": 2}, 1)]
    assert values == [{"n": 1, "at": 1_700_000_000.5}, {"n": 2, "at": 1_700_000_001.0}]


async def test_a_batch_counts_in_the_partition_and_window_of_each_event() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=4)
    counts = app.Table("counts", default=int)
    minutes = app.Table("minutes", default=int).tumbling(60, expires=3600)

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for batch in stream.take_events(100, within=0.05):
            for event in batch:
                minutes[event.key] += 1
            for key, number in Counter(event.key for event in list(batch)).items():
                counts[key] += number

    async with running(app):
        for number in range(60):
            await topic.send(
                key=f"k{number % 10}", value=number, timestamp=1_700_000_040 + 20 * (number // 10)
            )
        await until(lambda: {key: counts.get(key) for key in counts} == {f"k{n}": 6 for n in range(10)})
        assert app.engine.metrics.scattered_writes_total.labels("counts").value == 0
        rows = {
            (start, key): value
            for part in app.engine.topology.tables["minutes"].parts.values()
            for start, key, value in part.store.scan()
        }
        assert sorted(rows.values()) == [3] * 20


async def test_of_a_batch_that_fails_only_the_event_at_fault_is_set_aside() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    counts = app.Table("counts", default=int)

    @app.agent(topic, retry=ONCE_MORE)
    async def agent(stream: Any) -> None:
        async for batch in stream.take(10, within=0.05):
            for value in batch:
                counts["all"] += 1
                if value == 3:
                    raise ValueError(value)

    async with running(app):
        for number in range(6):
            await topic.send(key="all", value=number)
        ((_, letter, _),) = await logged(app, "in-dead-letters", 1)
        assert letter == b"3"
        await until(lambda: counts.get("all") == 5)


async def test_without_acks_an_event_is_done_when_it_is_acknowledged() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    counts = app.Table("counts", default=int)
    kept: list[Any] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for event in stream.noack().events():
            counts[event.key] += 1
            if event.value == 1:
                kept.append(event)
            else:
                event.ack()

    async with running(app):
        for number, key in enumerate("abc"):
            await topic.send(key=key, value=number)
        await until(lambda: counts.get("c") == 1)
        assert counts.get("b") is None
        progress = app.engine.active.progress[f"agent:{agent.name}", "in", 0]  # type: ignore[union-attr]
        assert (progress.position, progress.done) == (1, ((2, 2),))
        assert kept[0].ack()
        await until(lambda: counts.get("b") == 1)
        assert (progress.position, progress.done) == (3, ())
        assert not kept[0].ack()


async def test_a_batch_without_acks_is_done_with_its_last_event() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    batches: list[Any] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for events in stream.noack_take(2, within=1):
            batches.append(events)

    async with running(app):
        for number in range(4):
            await topic.send(value=number)
        await until(lambda: len(batches) == 2)
        progress = app.engine.active.progress[f"agent:{agent.name}", "in", 0]  # type: ignore[union-attr]
        batches[0][0].ack()
        async with batches[0][1]:
            pass
        await until(lambda: progress.position == 2)


async def test_group_by_counts_by_another_key_in_the_partition_of_that_key() -> None:
    app = make_app()

    class Order(faust.Record):
        account: str
        amount: int

    topic = app.topic("orders", key_type=str, value_type=Order, partitions=3)
    sums = app.Table("sums", default=int)

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for order in stream.filter(lambda order: order.amount > 0).group_by(Order.account):
            sums[order.account] += order.amount

    async with running(app):
        for number in range(30):
            await topic.send(key=f"u{number}", value=Order(account=f"a{number % 3}", amount=number % 5))
        want = {f"a{a}": sum(n % 5 for n in range(30) if n % 3 == a) for a in range(3)}
        await until(lambda: {key: sums.get(key) for key in sums} == want)
        assert app.engine.metrics.scattered_writes_total.labels("sums").value == 0
        name = f"{agent.name}-orders-Order.account-repartition"
        assert len(await logged(app, name, 24)) == 24


async def test_group_by_a_function_and_a_topic_of_ones_own() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=2)
    other = app.topic("other", key_type=str, value_type=int, partitions=2)
    seen: list[Any] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        with pytest.raises(TypeError, match="name="):
            stream.group_by(lambda value: str(value % 2))
        async for key, value in stream.group_by(
            lambda value: str(value % 2), name="parity", topic=other
        ).items():
            seen.append((key, value))

    async with running(app):
        for number in range(4):
            await topic.send(key="k", value=number)
        await until(lambda: len(seen) == 4)
    assert sorted(seen) == [("0", 0), ("0", 2), ("1", 1), ("1", 3)]


async def test_the_function_of_a_group_sees_the_event() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    seen: list[Any] = []

    async def by_header(_: int) -> str:
        current: Any = faust.current_event()
        return cast("bytes", current.headers["id"]).decode()

    def tagged(value: int) -> int:
        current: Any = faust.current_event()
        return value + int(current.message.offset)

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        stream.add_processor(tagged)
        async for key, value in stream.group_by(by_header, name="h").through("next").items():
            current: Any = faust.current_event()
            seen.append((key, value, current.headers, current.message.topic))

    async with running(app):
        for name in (b"h1", b"h2"):
            await topic.send(value=5, headers={"id": name})
        await until(lambda: len(seen) == 2)
    assert sorted(seen) == [
        (b"h1", 5, {"id": b"h1"}, "next"),
        (b"h2", 5, {"id": b"h2"}, "next"),
    ]


async def test_through_passes_events_by_another_topic_or_by_memory() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=1)
    memory = app.channel()
    seen: dict[str, list[int]] = {"topic": [], "memory": []}

    @app.agent(topic)
    async def by_topic(stream: Any) -> None:
        async for value in stream.through("between"):
            seen["topic"].append(value)

    @app.agent(topic)
    async def by_memory(stream: Any) -> None:
        async for value in stream.through(memory):
            seen["memory"].append(value)

    async with running(app):
        for number in range(3):
            await topic.send(key="k", value=number)
        await until(lambda: all(len(found) == 3 for found in seen.values()))
        assert [(key, value) for key, value, _ in await logged(app, "between", 3)] == [
            (b"k", b"0"),
            (b"k", b"1"),
            (b"k", b"2"),
        ]
    assert seen == {"topic": [0, 1, 2], "memory": [0, 1, 2]}


async def test_echo_sends_each_value_and_passes_it_on() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    seen: list[int] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for value in stream.echo("copy", app.topic("second", value_type=int)):
            seen.append(value)

    async with running(app):
        await topic.send(value=5)
        assert [value for _, value, _ in await logged(app, "copy", 1)] == [b"5"]
        assert [value for _, value, _ in await logged(app, "second", 1)] == [b"5"]
    assert seen == [5]


async def test_combined_streams_are_one_each_with_its_own_processors() -> None:
    app = make_app()
    left = app.topic("left", value_type=int, partitions=1)
    right = app.topic("right", value_type=int, partitions=1)
    seen: list[tuple[str, int]] = []

    @app.agent(left)
    async def agent(stream: Any) -> None:
        other = right.stream()
        other.add_processor(lambda value: value * 10)
        async for value in stream & other:
            event: Any = faust.current_event()
            seen.append((event.message.topic, value))

    async with running(app):
        await left.send(value=1)
        await right.send(value=2)
        await until(lambda: len(seen) == 2)
    assert sorted(seen) == [("left", 1), ("right", 20)]


async def test_an_agent_reads_several_topics_by_name_or_by_pattern() -> None:
    app = make_app()
    first, second = (app.topic(name, value_type=int, partitions=1) for name in ("logs-a", "logs-b"))
    seen: dict[str, list[int]] = {"names": [], "pattern": []}

    @app.agent(app.topic("logs-a", "logs-b", value_type=int))
    async def by_name(stream: Any) -> None:
        async for value in stream:
            seen["names"].append(value)

    @app.agent(app.topic(pattern="logs-.*", value_type=int))
    async def by_pattern(stream: Any) -> None:
        async for value in stream:
            seen["pattern"].append(value)

    async with running(app):
        await first.send(value=1)
        await second.send(value=2)
        await until(lambda: all(sorted(found) == [1, 2] for found in seen.values()))


async def test_a_task_streams_over_a_topic_from_its_own_place_in_the_log() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    fresh = app.topic("fresh", value_type=int, partitions=1)
    seen: dict[str, list[int]] = {"agent": [], "task": [], "fresh": []}

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for value in stream:
            seen["agent"].append(value)

    @app.task  # type: ignore[untyped-decorator]  # Faust's decorators have no types
    async def on_the_same() -> None:
        async for value in app.stream(topic, processors=[lambda value: value + 100]):
            seen["task"].append(value)

    @app.task  # type: ignore[untyped-decorator]  # Faust's decorators have no types
    async def on_another() -> None:
        async for event in fresh.stream().events():
            seen["fresh"].append(event.value)

    async with running(app):
        await topic.send(value=1)
        await fresh.send(value=2)
        await until(lambda: seen == {"agent": [1], "task": [101], "fresh": [2]})
        await topic.send(value=3)
        await fresh.send(value=4)
        await until(lambda: seen == {"agent": [1, 3], "task": [101, 103], "fresh": [2, 4]})


async def test_streams_over_memory_and_over_anything_that_can_be_iterated() -> None:
    app = make_app()
    channel = app.channel()
    seen: list[Any] = []

    @app.agent(channel)
    async def agent(stream: Any) -> None:
        async for key, value in stream.items():
            seen.append((key, value))
            if value == "bad":
                raise ValueError(value)

    numbers = [value async for value in app.stream([1, 2, 3]).filter(lambda value: value != 2)]
    assert numbers == [1, 3]
    batches = [list(batch) async for batch in app.stream(range(5)).take(2, within=1)]
    assert batches == [[0, 1], [2, 3], [4]]
    async with running(app):
        await channel.send(key="k", value="bad")
        await channel.send(key="k", value="good")
        await until(lambda: seen == [("k", "bad"), ("k", "good")])
        loop = asyncio.get_running_loop()
        ending_s = loop.time()
    assert loop.time() - ending_s < LIMIT_S / 2  # whoever took the failed one's place is ended too


async def test_several_coroutines_of_one_agent_work_at_once_and_count_exactly() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=2)
    counts = app.Table("counts", default=int)
    out = app.topic("out", value_type=int, partitions=1)
    together = most = 0

    @app.agent(topic, concurrency=4)
    async def agent(stream: Any) -> None:
        nonlocal together, most
        async for key, value in stream.items():
            together += 1
            most = max(most, together)
            counts[key] += 1
            await asyncio.sleep(0.001)
            await out.send(value=value)
            together -= 1

    async with running(app):
        for number in range(100):
            await topic.send(key=f"k{number % 3}", value=number)
        await until(lambda: {key: counts.get(key) for key in counts} == {"k0": 34, "k1": 33, "k2": 33})
        sent = sorted(int(value) for _, value, _ in await logged(app, "out", 100))
        assert app.engine.topology.agents[0].processed == 100
    assert most == 4
    assert sent == list(range(100))


async def test_isolated_partitions_have_a_coroutine_each() -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=int, partitions=3)
    seen: dict[int, list[int]] = {}

    @app.agent(topic, isolated_partitions=True)
    async def agent(stream: Any) -> None:
        mine: list[int] = []
        async for event in stream.events():
            seen.setdefault(event.message.partition, mine)
            mine.append(event.message.partition)
            if event.message.partition == 0:
                await asyncio.Event().wait()  # the others go on

    async with running(app):
        for partition in range(3):
            for number in range(2):
                await topic.send(partition=partition, value=number)
        await until(lambda: seen == {0: [0], 1: [1, 1], 2: [2, 2]})


async def test_on_error_is_told_and_a_crashing_supervisor_stops_the_worker() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    told: list[str] = []

    async def on_error(agent: Any, exc: BaseException) -> None:
        told.append(f"{agent.name} {exc}")

    @app.agent(topic, name="fragile", on_error=on_error, supervisor_strategy=CrashingSupervisor)
    async def agent(stream: Any) -> None:
        async for _ in stream:
            raise ValueError("stop")

    async def main() -> None:
        async with running(app):
            await topic.send(value=1)
            await until(lambda: app.crashed)

    with pytest.raises(AssertionError, match="ValueError"):
        await main()
    assert told == ["fragile stop"]


async def test_sinks_are_functions_coroutines_topics_and_other_agents() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    out = app.topic("out", value_type=int, partitions=1)
    seen: dict[str, list[int]] = {"function": [], "coroutine": [], "agent": []}

    async def coroutine(value: int) -> None:
        seen["coroutine"].append(value)

    @app.agent(app.topic("second", value_type=int, partitions=1))
    async def second(stream: Any) -> None:
        async for value in stream:
            seen["agent"].append(value)

    @app.agent(topic, sink=[seen["function"].append, coroutine, out, second], concurrency=2)
    async def first(stream: Any) -> Any:
        async for value in stream:
            yield value + 1

    async with running(app):
        await topic.send(value=1)
        await until(lambda: all(found == [2] for found in seen.values()))
        assert [value for _, value, _ in await logged(app, "out", 1)] == [b"2"]


@pytest.mark.parametrize("noack", [True, False])
async def test_an_exception_that_is_thrown_into_a_stream_comes_out_of_its_loop(noack: bool) -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    streams: list[Any] = []
    raised: list[str] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        streams.append(stream)
        try:
            async for _ in stream.noack() if noack else stream:
                pass
        except KeyError as exc:
            raised.append(str(exc))

    async with running(app):
        await until(lambda: streams)
        await streams[0].throw(KeyError("thrown"))
        await until(lambda: raised == ["'thrown'"])


async def test_an_exception_that_is_thrown_while_an_event_is_in_flight_comes_after_it() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    table = app.Table("sums", default=int, partitions=1)
    streams: list[Any] = []
    raised: list[str] = []
    sums: list[int] = []
    go_on = asyncio.Event()

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        streams.append(stream)
        try:
            async for value in stream:
                if value == 1:
                    streams.append("in flight")
                    await go_on.wait()
                table["sum"] += value
                sums.append(table["sum"])
        except KeyError as exc:
            raised.append(str(exc))

    async with running(app):
        for value in range(5):
            await topic.send(key="sum", value=value)
        await until(lambda: "in flight" in streams)
        await streams[0].throw(KeyError("thrown"))
        go_on.set()
        await until(lambda: sums[-1:] == [10])
        assert raised == ["'thrown'"]


async def test_streams_of_several_tasks_over_one_topic_each_see_every_event() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    seen: dict[str, list[int]] = {"one": [], "two": [], "again": []}

    async def read(name: str) -> None:
        async for value in topic.stream():
            seen[name].append(value)

    async def read_one() -> None:
        async for value in app.stream(topic):
            seen["again"].append(value)
            break

    async with running(app):
        tasks = [asyncio.create_task(read(name)) for name in ("one", "two")]
        once = asyncio.create_task(read_one())
        await until(lambda: len(app.engine.topology.agents) == 3)
        for value in range(3):
            await topic.send(value=value)
        await until(lambda: seen["one"] == seen["two"] == [0, 1, 2])
        for number in (1, 2, 3):  # a stream that was left gives its place in the log to the next one
            await asyncio.wait_for(once, 5)
            assert seen["again"] == list(range(number))
            once = asyncio.create_task(read_one())
        tasks.append(once)
        for task in tasks:
            task.cancel()
        consumers = {agent.spec.name for agent in app.engine.topology.agents}
        place = (
            f"stream:{test_streams_of_several_tasks_over_one_topic_each_see_every_event.__name__}.<locals>"
        )
        assert consumers == {f"{place}.{each}" for each in ("read:in", "read:in#2", "read_one:in")}


async def test_a_stream_over_memory_that_is_left_ends_its_reading() -> None:
    app = make_app()

    async def left() -> None:
        async for value in app.stream([1, 2, 3]):
            if value == 2:
                break

    async with running(app):
        await left()
        # A stream is a service, and those refer to themselves.
        await until(lambda: gc.collect() >= 0 and not app.pumps)


async def test_events_that_fail_now_and_then_do_not_keep_several_coroutines_from_getting_on() -> None:
    app = make_app(commit_interval=0.2)
    topic = app.topic("in", key_type=str, value_type=int, partitions=2)
    counts = app.Table("counts", default=int)
    dice = random.Random(7)

    @app.agent(topic, concurrency=8, retry=Retry(attempts=50, first_wait_s=0.001, wait_max_s=0.01))
    async def agent(stream: Any) -> None:
        async for key, value in stream.items():
            counts[key] += value
            await asyncio.sleep(0)
            if dice.random() < 0.03:
                raise ValueError("now and then")

    async with running(app):
        for number in range(2_000):
            await topic.send(key=f"k{number % 4}", value=1)
        await until(lambda: dict(counts) == {f"k{number}": 500 for number in range(4)})


async def test_a_stream_of_a_stream_takes_all_options() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    seen: list[Any] = []

    async def begun() -> None:
        seen.append("begun")

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        stream.add_processor(lambda value: value + 1)
        async for value in app.stream(stream, processors=[lambda value: value * 10], on_start=begun):
            seen.append(value)

    async with running(app):
        for value in (1, 2):
            await topic.send(value=value)
        await until(lambda: len(seen) == 3)
    assert seen == ["begun", 20, 30]


async def test_streams_of_channels_topics_and_lists_take_all_options_too() -> None:
    app = make_app()
    topic, memory = app.topic("in", value_type=int, partitions=1), cast("Any", app.channel())
    seen: dict[str, list[Any]] = {"topic": [], "memory": [], "list": []}

    def options(name: str) -> Any:
        async def begun() -> None:
            seen[name].append("begun")

        return {"processors": [lambda value: value * 10], "on_start": begun, "prefix": name, "beacon": None}

    @app.task  # type: ignore[untyped-decorator]
    async def by_topic() -> None:
        async for value in topic.stream(**options("topic")):
            seen["topic"].append(value)

    @app.task  # type: ignore[untyped-decorator]
    async def by_memory() -> None:
        async for event in memory.stream(**{**options("memory"), "processors": []}):
            seen["memory"].append(event)

    @app.task  # type: ignore[untyped-decorator]
    async def by_list() -> None:
        async for value in app.stream([1, 2], **options("list")).clone():
            seen["list"].append(value)

    async with running(app):
        await until(lambda: seen["topic"] and seen["memory"])
        for value in (1, 2):
            await topic.send(value=value)
            await memory.put(value)
        await until(lambda: all(len(found) == 3 for found in seen.values()))
    assert seen == {"topic": ["begun", 10, 20], "memory": ["begun", 1, 2], "list": ["begun", 10, 20]}


@pytest.mark.parametrize(
    "name", ["active_partitions", "combined", "concurrency_index", "join_strategy", "prev"]
)
def test_options_for_fausts_own_parts_are_refused_by_name(name: str) -> None:
    app = make_app()
    stream = app.stream([1])
    for make in (lambda option: app.stream([1], **option), lambda option: stream.clone(**option)):
        with pytest.raises(ConfigurationError, match=f"no {name}="):
            make({name: [1]})
        with pytest.raises(TypeError, match="no option 'procesors'"):
            make({"procesors": []})


async def test_an_agent_sends_to_a_channel_that_a_task_reads() -> None:
    app = make_app()
    topic, memory = app.topic("in", value_type=int, partitions=1), cast("Any", app.channel())
    seen: list[int] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for value in stream:
            await memory.send(value=value)

    @app.task  # type: ignore[untyped-decorator]
    async def reads() -> None:
        async for event in memory.stream():
            seen.append(event)

    async with running(app):
        await until(lambda: memory.subscriber_count)
        await topic.send(value=7)
        await until(lambda: seen == [7])
