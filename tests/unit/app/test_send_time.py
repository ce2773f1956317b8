"""What is stamped with what: sends of agents and closed rows, by now or by the time of what they tell of."""

from __future__ import annotations

from typing import Any

import pytest

from streamflow import App, ConfigurationError, Count, Event, Key, TumblingWindow
from tests.support.running import T0_MS, event, make_app, running, until


async def stamps(app: App, topic: str, count: int) -> list[int]:
    """The timestamps of what is committed in a topic of one partition, once there is so much."""
    engine = app.engine

    async def found() -> list[int]:
        reader = engine.transport.log_reader()
        await reader.assign({(topic, 0): 0})
        try:
            times = [at for batch in await reader.read(1) for at in batch.timestamps_ms]
            return times if len(times) >= count else []
        finally:
            await reader.close()

    told: list[int] = await until(found)
    return told


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_an_agent_stamps_its_sends_with_its_events_time(
    concurrency: int,
) -> None:
    app = make_app()
    topic = app.topic("in", value_type=Event, partitions=1)
    names = ("by_now", "by_event", "own", "sunk")
    out = {name: app.topic(name, value_type=int, partitions=1) for name in names}

    @app.agent(topic, concurrency=concurrency)
    async def by_now(stream: Any) -> None:
        async for _ in stream:
            await out["by_now"].send(value=1)

    @app.agent(topic, concurrency=concurrency, send_time="event", sink=[out["sunk"]])
    async def by_event(stream: Any) -> Any:
        async for _ in stream:
            await out["by_event"].send(value=1)
            await out["own"].send(value=1, timestamp=5.0)
            yield 1

    async with running(app):
        began_ms = app.now_ms()
        for at_ms in (T0_MS, T0_MS - 7, -5, began_ms + 3_600_000):
            await topic.send(value=event(at_ms=at_ms))
        now = await stamps(app, "by_now", 4)
        told = await stamps(app, "by_event", 4)
        assert all(stamp >= began_ms for stamp in now)
        assert told[:2] == [T0_MS, T0_MS - 7]
        assert told[2] == 0, "no broker takes a time before 1970"
        assert began_ms <= told[3] <= app.now_ms(), "nor one far ahead of its clock"
        assert (await stamps(app, "sunk", 4))[:3] == told[:3]
        assert await stamps(app, "own", 4) == [5_000] * 4


@pytest.mark.parametrize("by", [Key(), "type", None])
async def test_closed_rows_are_stamped_with_their_windows_end_where_they_are_asked_to(by: Any) -> None:
    app = make_app()
    topic = app.topic("in", key_type=str, value_type=Event, partitions=1)
    window = TumblingWindow(10, idle_close_s=None)
    for name in ("now", "event"):
        app.aggregate(
            f"by_{name}",
            topic,
            by=by,
            window=window,
            values=Count(),
            emit_closed=f"{name}-closed",
            send_time=name,
        )
        app.topic(f"{name}-closed", partitions=1)

    async with running(app):
        began_ms = app.now_ms()
        start_ms = T0_MS - T0_MS % 10_000
        for at_ms in (start_ms, start_ms + 10_000, start_ms + 50_000):
            await topic.send(key="a", value=event(at_ms=at_ms))
        assert await stamps(app, "event-closed", 2) == [start_ms + 10_000, start_ms + 20_000]
        assert all(stamp >= began_ms for stamp in await stamps(app, "now-closed", 2))


def test_what_is_neither_is_refused_where_it_is_declared() -> None:
    app = make_app()
    topic = app.topic("in", value_type=Event)
    with pytest.raises(ConfigurationError, match="agent: send_time='evnt': this is"):
        app.agent(topic, send_time="evnt")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="aggregate 'n': send_time"):
        app.aggregate("n", topic, by=None, values=Count(), send_time="evnt")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="aggregate 'n': there is no option 'strt'"):
        app.aggregate("n", topic, by=None, values=Count(), strt="latest")  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="aggregate 'n': start='tomorrow': this is"):
        app.aggregate("n", topic, by=None, values=Count(), start="tomorrow")  # type: ignore[arg-type]
