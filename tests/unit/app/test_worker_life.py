"""The life of an app: signals, sensors, services, timers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streamflow import App, Monitor, Sensor, Service
from streamflow.clock import SystemClock
from streamflow.transports.memory import MemoryBroker, MemoryTransport
from tests.support.running import log, make_app, running, until

OPTIONS = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}}


async def test_signals_tell_of_an_apps_life_in_order() -> None:
    app = make_app()
    told: list[Any] = []
    for name in ("on_before_configured", "on_configured", "on_after_configured", "on_worker_init"):

        def handler(*_: Any, name: str = name, **__: Any) -> None:
            told.append(name)

        getattr(app, name).connect(handler, weak=False)
    for name in ("on_partitions_assigned", "on_partitions_revoked"):

        async def moved(_: Any, partitions: set[Any], *, name: str = name, **__: Any) -> None:
            told.append((name, sorted((tp.topic, tp.partition) for tp in partitions)))

        getattr(app, name).connect(moved, weak=False)
    for name in ("on_rebalance_complete", "on_before_shutdown"):

        async def happened(*_: Any, name: str = name, **__: Any) -> None:
            told.append(name)

        getattr(app, name).connect(happened, weak=False)

    topic = app.topic("in", partitions=2)
    table = app.Table("t", on_recover=None)

    @table.on_recover  # type: ignore[untyped-decorator]  # a table is Any to users
    async def recovered() -> None:
        told.append("recovered")

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for _ in stream:
            pass

    app.worker_init_post_autodiscover()
    async with running(app):
        assert app.consumer.assignment() == {("in", 0), ("in", 1)}
    assert told == [
        "on_before_configured",
        "on_configured",
        "on_after_configured",
        "on_worker_init",
        ("on_partitions_assigned", [("in", 0), ("in", 1)]),
        "recovered",
        "on_rebalance_complete",
        "on_before_shutdown",
    ]


async def test_partitions_that_move_are_told_to_both_sides() -> None:
    broker = MemoryBroker(SystemClock())
    told: dict[str, list[Any]] = {"one": [], "two": []}

    def worker(name: str) -> App:
        app = App("moving", transport=MemoryTransport(broker, "moving", name), **OPTIONS)
        topic = app.topic("in", partitions=2)

        @app.on_partitions_revoked.connect  # type: ignore[arg-type]  # by name, as Faust's users do
        async def revoked(_: Any, partitions: set[Any], **__: Any) -> None:
            told[name].append(("revoked", len(partitions)))

        @app.on_partitions_assigned.connect  # type: ignore[arg-type]  # likewise
        async def assigned(_: Any, partitions: set[Any], **__: Any) -> None:
            told[name].append(("assigned", len(partitions)))

        app.keep = (revoked, assigned)  # type: ignore[attr-defined]  # signals hold them weakly

        @app.agent(topic)
        async def agent(stream: Any) -> None:
            async for _ in stream:
                pass

        return app

    one, two = worker("one"), worker("two")
    async with running(one):
        async with running(two):
            await until(lambda: told["one"] == [("assigned", 2), ("revoked", 2), ("assigned", 1)])
            assert told["two"] == [("assigned", 1)]
            assert one.rebalancing_count == 2
        await until(lambda: told["one"][-1] == ("assigned", 2))


class Counting(Sensor):
    """Counts its calls by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[str] = []
        self.states: list[Any] = []

    def on_message_in(self, tp: Any, offset: int, message: Any) -> None:
        self.calls.append(f"message {tp.topic}[{tp.partition}]@{offset} {message.value.decode()}")

    def on_stream_event_in(self, tp: Any, offset: int, stream: Any, event: Any) -> dict[str, Any]:
        self.calls.append(f"in {event.value}")
        return {"value": event.value}

    def on_stream_event_out(self, tp: Any, offset: int, stream: Any, event: Any, state: Any = None) -> None:
        self.calls.append(f"out {state['value']}")

    def on_table_set(self, table: Any, key: Any, value: Any) -> None:
        self.calls.append(f"set {table.name} {key} {value}")

    def on_commit_initiated(self, consumer: Any) -> Any:
        return "begun"

    def on_commit_completed(self, consumer: Any, state: Any) -> None:
        self.states.append(state)

    def on_send_completed(self, producer: Any, state: Any, metadata: Any) -> None:
        self.calls.append(f"sent {metadata.topic}")

    def on_rebalance_end(self, app: Any, state: Any) -> None:
        self.calls.append("rebalanced")


async def test_a_sensor_of_the_users_is_told_of_each_event() -> None:
    app = make_app()
    sensor = Counting()
    app.sensors.add(sensor)
    topic = app.topic("in", value_type=int, partitions=1)
    table = app.Table("t", default=int)

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for value in stream:
            table["k"] = value

    async with running(app):
        for value in (1, 2):
            await (await topic.send(value=value))
        await until(lambda: "set t k 2" in sensor.calls and sensor.states)
    assert sensor.calls[0] == "rebalanced"
    assert sensor.calls.count("sent in") == 2
    seen = [call for call in sensor.calls if call.split()[0] in ("in", "out", "set", "message")]
    events = [call for call in seen if not call.startswith("message")]
    assert events == ["in 1", "set t k 1", "out 1", "in 2", "set t k 2", "out 2"]
    assert [call for call in seen if call.startswith("message")] == ["message in[0]@0 1", "message in[0]@1 2"]
    assert set(sensor.states) == {"begun"}


async def test_fausts_monitor_counts_by_batches() -> None:
    app = make_app()
    topic = app.topic("in", value_type=int, partitions=1)
    assert type(app.monitor) is Monitor

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for _ in stream:
            pass

    async with running(app):
        for value in range(10):
            await topic.send(value=value)
        monitor = app.monitor
        await until(lambda: monitor.events_total == 10)
        assert monitor.messages_received_total == 10
        assert monitor.messages_received_by_topic == {"in": 10}
        assert monitor.messages_sent == 10
        assert monitor.rebalances == 1
        assert monitor.tp_committed_offsets
        assert len(monitor.commit_latency) >= 1
        assert monitor.asdict()["events_total"] == 10


async def test_headers_may_be_added_to_what_is_produced() -> None:
    app = make_app()
    topic = app.topic("out", value_type=int, partitions=1)

    @app.on_produce_message.connect  # type: ignore[arg-type]  # likewise
    def tag(_: Any, key: Any = None, headers: Any = None, **__: Any) -> None:
        headers.append(("by", b"me"))

    async with running(app):
        await (await topic.send(value=1, headers={"own": "x"}))
        ((_, _, headers),) = await log(app, "out")
        assert headers == {"own": b"x", "by": b"me"}


async def test_services_timers_crontabs_and_tasks_of_the_leader_run() -> None:
    app = make_app()
    topic = app.topic("in", partitions=1)
    ran: list[str] = []

    @app.agent(topic)
    async def agent(stream: Any) -> None:
        async for _ in stream:
            pass

    @app.service
    class Own(Service):
        async def on_start(self) -> None:
            ran.append("service")

        async def on_stop(self) -> None:
            ran.append("service stopped")

        @Service.task
        async def work(self) -> None:
            ran.append("service task")

    @app.task(on_leader=True)  # type: ignore[untyped-decorator]  # Faust's decorators have no types
    async def led(app: App) -> None:
        ran.append(f"led {app.is_leader()}")

    @app.timer(interval=0.01, on_leader=True)  # type: ignore[untyped-decorator]  # likewise
    async def often() -> None:
        ran.append("timer")

    @app.crontab("* * * * *")
    async def cron() -> None:
        ran.append("cron")

    async with running(app):
        await until(lambda: ran.count("timer") >= 3 and "service task" in ran)
        assert "service" in ran
        assert "led True" in ran
    assert ran[-1] == "service stopped"


def test_a_crontab_waits_until_its_minute() -> None:
    from faust.utils import cron

    now = datetime.now(UTC)  # noqa: TID251  # what Faust's own clock says
    assert 0 < cron.secs_for_next("* * * * *") <= 60
    later = now + timedelta(hours=2)
    assert cron.secs_for_next(f"{later.minute} {later.hour} * * *", UTC) == pytest.approx(7_200, abs=61)
