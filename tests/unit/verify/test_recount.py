"""`streamflow verify`: it agrees with a table that is right, and finds what is wrong."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest

from streamflow import App, Event, Retry
from streamflow.aggregates import ApproxDistinct, Count, Last, Quantile, Sum
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import SystemClock
from streamflow.query.worker_view import WorkerView
from streamflow.settings import Settings
from streamflow.transports.base import Record
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from streamflow.verify.agents import AgentVerifier, verify_agents
from streamflow.verify.recount import Verifier
from streamflow.verify.report import Report, VerifyError
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window
from tests.support.declared import T0_MS, Declared, event, raw
from tests.support.running import log, running, until

VALUES = {"n": Count(), "sum": Sum("data.n"), "last": Last("data.n"), "users": ApproxDistinct("data.u")}
OPTIONS: dict[str, Any] = {"grace_s": 2, "retain_s": 60, "idle_close_s": None}
WINDOWS: dict[str, Window | None] = {
    "none": None,
    "tumbling": TumblingWindow(5, **OPTIONS),
    "hopping": HoppingWindow(5, 2, **OPTIONS),
    "sliding": SlidingWindow(3, **OPTIONS),
    "session": SessionWindow(1, **OPTIONS),
}


def spec(by: Any, window: Window | None, **options: Any) -> AggregateSpec:
    return AggregateSpec(
        "table", "events", by, window, RowFunctions(options.pop("values", VALUES)), **options
    )


async def verified(world: Declared) -> Report:
    (declared,) = world.specs
    settings = Settings(id="app")
    seen: list[tuple[int, int]] = []
    verifier = Verifier(
        world.client,
        settings,
        world.clock,
        declared,
        world.source,
        lambda done, total: seen.append((done, total)),
    )
    report = await verifier.run()
    if seen:
        assert seen[-1][0] == seen[-1][1], "the bar comes to its end"
    return report


def disorder(seed: int, count: int) -> list[dict[str, Any]]:
    """Events over two minutes, up to 10 s behind, some of them late and some bad."""
    rng = random.Random(seed)
    return [
        event(
            at * 120_000 // count - rng.choice([0, 0, rng.randrange(10_000)]),
            rng.choice(["a", "b"]),
            shop=rng.choice(["x", "y", 1]),
            n=rng.choice([1, 2.5, 3, "bad"]),
            u=rng.randrange(50),
        )
        for at in range(count)
    ]


@pytest.mark.parametrize("by", [Key(), "data.shop", None], ids=["key", "field", "none"])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
async def test_a_right_table_is_verified_whatever_its_windows_and_grouping(
    by: Any, window: Window | None
) -> None:
    world = Declared(spec(by, window, where="type == 'a'"))
    await world.start()
    try:
        for partition in range(2):
            await world.write(partition, b"no JSON", *disorder(partition, 400), key=f"k{partition}")
        await world.restart()
        report = await verified(world)
        assert report.ok, (report.differences, report.partitions)
        assert report.rows > 0
        counters = {name: sum(c.counters.get(name, 0) for c in report.partitions) for name in ("in", "bad")}
        assert counters["in"] == 802, "every record, also those that could not be decoded"
        assert counters["bad"] > 100
        if window is not None:
            assert all(count.counters["late"] > 0 for count in report.partitions)
        assert all(count.adds_up and count.same for count in report.partitions)
    finally:
        await world.close()


@pytest.mark.parametrize("by", [Key(), "data.shop"], ids=["key", "field"])
async def test_what_was_applied_late_is_part_of_what_is_verified(by: Any) -> None:
    world = Declared(spec(by, WINDOWS["tumbling"], values=Count()))
    await world.start()
    try:
        for partition in range(2):
            three = [event(at_ms, shop="x") for at_ms in (1, 20_000, 2)]
            await world.write(partition, *three, key=f"k{partition}")
        view = WorkerView(world.engine, "")
        view.open()
        assert (await view.apply_late("table"))["applied"] == 2
        report = await verified(world)
        assert report.ok, report.differences
        assert report.rows == len(world.rows("table"))
        await world.until(lambda: sum(world.rows("table").values()) == 6)
    finally:
        await world.close()


@pytest.mark.parametrize("kind", [TumblingWindow, SessionWindow, SlidingWindow])
@pytest.mark.parametrize("by", [Key(), "data.shop"], ids=["key", "field"])
async def test_rows_that_events_after_a_silence_revised_are_right(by: Any, kind: Any) -> None:
    window = kind(0.1, retain_s=60, idle_close_s=0.05)
    world = Declared(spec(by, window, values=Count()), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="x"))
        await world.until(lambda: "closed" in world.states("table").values())
        await world.write(0, event(2, shop="x"), event(3, shop="x"))
        await world.until(lambda: "revised" in world.states("table").values())
        report = await verified(world)
        assert report.ok, (report.differences, report.partitions)
        assert max(world.rows("table").values()) == 3
    finally:
        await world.close()


async def test_lateness_that_only_silence_made_is_known_from_the_late_event_store() -> None:
    """No recount can see that the wall clock ended a window; the late-event store says what it made late."""
    window = TumblingWindow(0.1, retain_s=0, idle_close_s=0.05)
    world = Declared(spec("data.shop", window, values=Count()), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="x"))
        active = world.engine.active
        assert active is not None
        (aggregate,) = active.aggregate_partitions
        await world.until(lambda: (aggregate.progress.watermark_ms or 0) >= T0_MS + 100)
        await world.write(0, event(2, shop="x"))
        assert world.reader("table").status().counters == {"in": 2, "counted": 1, "late": 1}
        report = await verified(world)
        assert report.ok, (report.differences, report.partitions)
    finally:
        await world.close()


@pytest.mark.parametrize("by", [Key(), "data.shop"], ids=["key", "field"])
async def test_a_row_that_is_wrong_is_found(by: Any) -> None:
    world = Declared(spec(by, WINDOWS["tumbling"], values=Count()), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="x"), event(2, shop="y"), key="k")
        assert (await verified(world)).ok
        topic = "app-table-changelog" if isinstance(by, Key) else "app-table-shuffle"
        (key, value) = next(
            (k, v) for k, v in (await world.compacted(topic)).items() if v in (b"2", b"1") and k is not None
        )
        await world.client.send([Record(topic, 0, key, b"7")])
        report = await verified(world)
        assert not report.ok
        assert report.differing == 1
        (one,) = report.differences
        assert (one.table, one.recount) == (7, int(value))
        assert one.window == ("2025-10-09T08:53:20Z", "2025-10-09T08:53:25Z")
    finally:
        await world.close()


async def test_an_event_that_the_table_never_counted_is_found() -> None:
    world = Declared(spec("data.shop", WINDOWS["tumbling"], values=Count()), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="x"), event(2, shop="x"))
        progress = next(
            (k, v) for k, v in (await world.compacted("app-progress")).items() if k and b"aggregate:" in k
        )
        # As if the position had moved past an event that nobody took.
        await world.engine.stop()
        await world.client.send([Record("events", 0, b"k", raw(event(3, shop="x")))])
        moved = progress[1].replace(b'"position":2', b'"position":3')
        assert moved != progress[1]
        await world.client.send([Record("app-progress", 0, progress[0], moved)])
        report = await verified(world)
        (count,) = report.partitions
        assert not report.ok
        assert count.adds_up
        assert not count.same
        assert (count.counters["in"], count.recounted["in"]) == (2, 3)
        assert report.differing == 1
    finally:
        await world.client.stop()


async def test_counters_that_do_not_add_up_are_found() -> None:
    world = Declared(spec("data.shop", None, values=Count()), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="x"))
        await world.engine.stop()
        key, value = next(
            (k, v) for k, v in (await world.compacted("app-progress")).items() if k and b"aggregate:" in k
        )
        await world.client.send(
            [Record("app-progress", 0, key, value.replace(b'"counted":1', b'"counted":0'))]
        )
        report = await verified(world)
        assert not report.ok
        assert not report.partitions[0].adds_up
    finally:
        await world.client.stop()


async def test_sketches_are_compared_within_their_error_and_named() -> None:
    world = Declared(spec("data.shop", None, values={"n": Count(), "q": Quantile("data.n")}), partitions=1)
    await world.start()
    try:
        await world.write(0, event(1, shop="x", n=1), event(2, shop="x", n=2))
        report = await verified(world)
        assert report.ok
        assert any("Quantile" in note for note in report.notes)
        key, value = next(iter((await world.compacted("app-table-shuffle")).items()))
        wrong = value.replace(b"[1,2]", b"[5,2]")
        assert wrong != value
        await world.client.send([Record("app-table-shuffle", 0, key, wrong)])
        report = await verified(world)
        assert [(d.table["q"], d.recount["q"]) for d in report.differences] == [(2, 1)]
    finally:
        await world.close()


async def test_what_never_ran_cannot_be_verified() -> None:
    world = Declared(spec("data.shop", None), partitions=1)
    await world.client.start()
    try:
        with pytest.raises(VerifyError, match="nothing to verify"):
            await verified(world)
    finally:
        await world.client.stop()


async def test_of_a_table_in_fausts_form_each_record_is_accounted_for() -> None:
    clock = SystemClock()
    broker = MemoryBroker(clock)
    transport = MemoryTransport(broker, "app", "worker")
    app = App("app", transport=transport, commit_interval=0.01, fetch_wait_ms=5, web_enabled=False, env={})
    topic = app.topic("in", key_type=str, value_type=Event, partitions=2)
    table = app.Table("counts", default=int).tumbling(10, expires=0)

    @app.agent(topic, retry=Retry(attempts=1))
    async def count(stream: Any) -> None:
        async for key, one in stream.items():
            table[key] += 1
            if one.type == "b":
                raise ValueError("once and again")

    client = MemoryTransport(broker, "outside", "client")
    await client.start()
    async with running(app):
        values = [raw(event(at, kind)) for at, kind in [(0, "a"), (1, "b"), (60_000, "a"), (2, "a")]]
        await client.send([Record("in", 1, b"k", value) for value in [*values, b"no JSON"]])
        (agent,) = (each.spec for each in app.engine.topology.agents)
        agents = {agent.name: app.engine.topology.sources[agent.consumer]}

        async def report() -> Report:
            make = partial(AgentVerifier, client, Settings(id="app"), clock)
            return await verify_agents("counts", agents.items(), make)

        async def taken() -> bool:
            return (await report()).partitions[1].position == 5

        await until(taken)
        found = await report()
        assert found.ok
        assert not found.rows_compared
        assert {count.agent for count in found.partitions} == {agent.name}
        assert [count.counters["in"] for count in found.partitions] == [0, 5]
        kept = {name: n for name, n in found.partitions[1].counters.items() if n}
        assert kept == {"in": 5, "counted": 2, "late": 1, "failed": 1, "bad": 1}
        records = [(k, v) for k, v, _ in await log(app, "app-progress") if k and agent.consumer.encode() in k]
    # As if the position had moved past an event that nobody took.
    key, value = records[-1]
    assert value is not None
    moved = value.replace(b'"in":4', b'"in":3').replace(b'"counted":2', b'"counted":1')
    await client.send([Record("app-progress", 1, key, moved)])
    found = await report()
    assert not found.ok
    assert found.partitions[1].adds_up
    await client.stop()


async def test_in_means_the_same_over_http_and_in_verify(caplog: pytest.LogCaptureFixture) -> None:
    """Every record, also what could not be decoded; of the agents that write the table, and no others."""
    clock = SystemClock()
    broker = MemoryBroker(clock)
    transport = MemoryTransport(broker, "app", "worker")
    app = App("app", transport=transport, commit_interval=0.01, fetch_wait_ms=5, web_enabled=False, env={})
    topic = app.topic("in", key_type=str, value_type=Event, partitions=2)
    counts, others = app.Table("counts", default=int), app.Table("others", default=int)
    declared = app.aggregate("declared", topic, by="type", values=Count())

    @app.agent(topic)
    async def count(stream: Any) -> None:
        async for key, _event in stream.items():  # noqa: PERF102  # a stream, not a dict
            counts[key] += 1

    @app.agent(topic)
    async def other(stream: Any) -> None:
        async for key, _event in stream.items():  # noqa: PERF102  # likewise
            others[key] += 1

    client = MemoryTransport(broker, "outside", "client")
    await client.start()
    async with running(app):
        values = [raw(event(0, "a")), b"no JSON", raw(event(1, "b")), b"{}"]
        await client.send([Record("in", 1, b"k", value) for value in values])
        view = app.worker_view
        assert view is not None

        def told(name: str) -> dict[str, int]:
            return dict(view.tables[name].status().counters)

        wanted = {"in": 4, "counted": 2, "bad": 2}
        await until(lambda: all(told(name) == wanted for name in ("counts", "others", "declared")))
        caplog.clear()
        agents = {
            each.spec.name: app.engine.topology.sources[each.spec.consumer]
            for each in app.engine.topology.agents
        }
        make = partial(AgentVerifier, client, Settings(id="app"), clock)
        for name in ("counts", "others"):
            report = await verify_agents(name, agents.items(), make)
            assert report.ok
            assert len({one.agent for one in report.partitions}) == 1, "who writes the table"
            assert {n: sum(one.counters.get(n, 0) for one in report.partitions) for n in wanted} == wanted
        source = app.engine.topology.sources[declared.spec.consumer]
        report = await Verifier(client, Settings(id="app"), clock, declared.spec, source).run()
        assert report.ok
        assert {n: sum(one.counters.get(n, 0) for one in report.partitions) for n in wanted} == wanted
    assert "goes to" not in caplog.text, "a recount sets nothing aside"
    await client.stop()


@pytest.mark.parametrize("by", [Key(), "data.shop"], ids=["key", "field"])
@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_a_table_that_began_when_the_app_had_a_past_is_counted_from_there(by: Any, start: Any) -> None:
    world = Declared(AggregateSpec("before", "events", Key(), None, RowFunctions(Count())))
    await world.start()
    try:
        for partition in range(2):
            await world.write(partition, b"no JSON", *disorder(partition, 50), key=f"k{partition}")
        world.specs = (*world.specs, spec(by, WINDOWS["tumbling"], start=start))
        await world.restart()
        for partition in range(2):
            await world.write(partition, b"no JSON", *disorder(partition + 2, 50), key=f"k{partition}")
        world.specs = world.specs[1:]
        report = await verified(world)
        assert report.ok, (report.differences, report.partitions)
        assert report.rows > 0
        taken = [count.counters["in"] for count in report.partitions]
        assert taken == ([102, 102] if start == "earliest" else [51, 51])
        assert ("it began" in " ".join(report.notes)) is (start == "latest")
    finally:
        await world.close()
