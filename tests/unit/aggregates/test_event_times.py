"""Event times of declared aggregates: every one passes the same checks, whatever it is read from."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar

import msgspec
import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.declaration import checked as declared
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.clock import EPOCH
from streamflow.codecs import ValueCodec
from streamflow.codecs.event import Event
from streamflow.codecs.times import TimeChecks, TimeField, TimeLimits
from streamflow.errors import ConfigurationError, DecodeError
from streamflow.settings import Settings
from streamflow.transports.base import Record
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window
from tests.support.declared import T0_MS, Declared

YEAR_9999_MS = 253_402_300_799_000
WINDOW = TumblingWindow(10, idle_close_s=None)


class Sale(msgspec.Struct):
    ts: int
    shop: str = "a"


def spec(window: Window = WINDOW, **options: Any) -> AggregateSpec:
    return AggregateSpec("table", "events", Key(), window, RowFunctions(Count()), **options)


@pytest.mark.parametrize(
    "window",
    [
        WINDOW,
        HoppingWindow(10, 5, idle_close_s=None),
        SlidingWindow(10, idle_close_s=None),
        SessionWindow(10, idle_close_s=None),
    ],
    ids=["tumbling", "hopping", "sliding", "session"],
)
async def test_one_absurd_time_in_a_field_is_set_aside_and_moves_nothing(window: Window) -> None:
    world = Declared(spec(window, time="ts"), partitions=1, value=Sale)
    await world.start()
    try:
        times = (T0_MS, YEAR_9999_MS, -(10**13), T0_MS + 1_000, T0_MS + 20_000, T0_MS + 40_000)
        await world.write(0, *({"ts": at} for at in times))
        active = world.engine.active
        assert active is not None
        (progress,) = (at for (consumer, _, _), at in active.progress.items() if "table" in consumer)
        assert progress.event_ms == T0_MS + 40_000
        assert progress.counters == {"in": 6, "counted": 4, "bad": 2}
        if window is WINDOW:
            assert world.rows("table") == {
                ("k", T0_MS): 2,
                ("k", T0_MS + 20_000): 1,
                ("k", T0_MS + 40_000): 1,
            }
        assert [raw for _, raw in await world.read("events-dead-letters")] == [
            msgspec.json.encode({"ts": YEAR_9999_MS}),
            msgspec.json.encode({"ts": -(10**13)}),
        ]
    finally:
        await world.close()


def checked(
    times: list[int], stamps: list[int] | None = None, now_ms: int = T0_MS, **settings: Any
) -> dict[int, DecodeError]:
    bad: dict[int, DecodeError] = {}
    checks = TimeChecks(TimeLimits.of(Settings(id="app", **settings)), lambda: now_ms)
    checks.check_column("events", times, stamps or [T0_MS] * len(times), bad, "ts")
    return bad


def test_limits_name_the_field() -> None:
    bad = checked([T0_MS, YEAR_9999_MS])
    assert {index: (error.reason, error.field) for index, error in bad.items()} == {
        1: ("bad-timestamp", "ts")
    }
    assert "out of range" in bad[1].message


@pytest.mark.parametrize(
    "time_ms, stamp_ms, now_ms, said",
    [
        (T0_MS + 1_000, T0_MS, T0_MS, None),
        (T0_MS + 1_001, T0_MS, T0_MS + 9_000, "1001 ms ahead of the record's own"),
        (T0_MS + 1_001, T0_MS + 9_000, T0_MS, "1001 ms ahead of the clock"),
        (T0_MS + 1_000, -1, T0_MS, None),
        (T0_MS + 1_001, -1, T0_MS, "ahead of the clock"),
    ],
)
def test_what_lies_too_far_ahead_of_the_record_or_of_the_clock_is_set_aside(
    time_ms: int, stamp_ms: int, now_ms: int, said: str | None
) -> None:
    bad = checked([time_ms], [stamp_ms], now_ms, future_max_s=1.0)
    messages = [error.message for error in bad.values()]
    assert [said in message for message in messages if said] == ([True] if said else [])
    assert bool(messages) is bool(said)
    assert not checked([time_ms], [stamp_ms], now_ms), "off by default"


@pytest.mark.parametrize(
    "time, values",
    [
        (TimeField("ts", unit="s"), (T0_MS // 1_000, T0_MS / 1_000 + 20.25)),
        (TimeField("ts", unit="us"), (T0_MS * 1_000, T0_MS * 1_000 + 20_250_999)),
        (TimeField("ts", unit="ns"), (T0_MS * 1_000_000, (T0_MS + 20_250) * 1_000_000 + 1)),
        (TimeField("ts"), (T0_MS, T0_MS + 20_250)),
        (lambda value: int(value["ts"] * 1_000), (T0_MS // 1_000, T0_MS / 1_000 + 20.25)),
        (lambda value: EPOCH + timedelta(seconds=value["ts"]), (T0_MS // 1_000, T0_MS / 1_000 + 20.25)),
    ],
    ids=["s", "us", "ns", "ms", "a function", "a function of datetimes"],
)
async def test_times_are_read_in_their_unit(time: Any, values: tuple[float, ...]) -> None:
    world = Declared(spec(time=time), partitions=1, value=dict[str, Any])
    await world.start()
    try:
        await world.write(0, *({"ts": value} for value in values), {"ts": None}, {"ts": True})
        assert world.rows("table") == {("k", T0_MS): 1, ("k", T0_MS + 20_000): 1}
        active = world.engine.active
        assert active is not None
        (progress,) = (at for (consumer, _, _), at in active.progress.items() if "table" in consumer)
        assert progress.event_ms == T0_MS + 20_250
        assert progress.counters == {"in": 4, "counted": 2, "bad": 2} or callable(time)
    finally:
        await world.close()


async def test_a_model_may_name_its_time_field_with_a_unit() -> None:
    class Reading(msgspec.Struct):
        at: float
        time_field: ClassVar[TimeField] = TimeField("at", unit="s")

    for where in (None, lambda reading: reading.at > 0):  # decoded in part, and as a whole
        world = Declared(spec(where=where), partitions=1, value=Reading)
        await world.start()
        try:
            await world.write(0, {"at": T0_MS / 1_000 + 0.5}, {"at": T0_MS / 1_000 + 10})
            assert world.rows("table") == {("k", T0_MS): 1, ("k", T0_MS + 10_000): 1}
        finally:
            await world.close()


def test_declarations_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one of s, ms, us, ns"):
        TimeField("ts", unit="seconds")
    with pytest.raises(ConfigurationError, match="no field path"):
        TimeField("ts..x")
    with pytest.raises(ConfigurationError, match="as milliseconds"):
        declared(spec(time=TimeField("timestamp", unit="s")), ValueCodec(Event))
    assert declared(spec(time=TimeField("timestamp")), ValueCodec(Event)).time is None
    assert declared(spec(time="timestamp"), ValueCodec(Event)).time is None
    assert declared(spec(time=TimeField("ts", unit="ms")), ValueCodec(Sale)).time == "ts"
    assert spec(time=TimeField("ts", unit="s")).describe()["time"] == "ts [s]"


async def test_times_that_look_like_seconds_are_told_once_for_each_topic(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = Declared(spec(time="ts"), partitions=2, value=Sale)
    await world.start()
    try:
        for partition in (0, 1, 0):
            await world.write(partition, {"ts": T0_MS // 1_000})
        (said,) = (text for text in caplog.messages if "look like seconds" in text)
        assert "events" in said
        assert 'time=TimeField("ts", unit="s")' in said
        assert "2025-10-09T08:53:20Z" in said
    finally:
        await world.close()


def test_a_topic_with_times_of_today_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    checks = TimeChecks(TimeLimits.of(Settings(id="app")), lambda: T0_MS)
    for times in ([0, 20_000], [T0_MS], [T0_MS // 1_000]):
        checks.check_column("events", times, times, {})
    assert not caplog.messages


async def test_a_record_without_a_timestamp_is_bad_input_for_what_uses_it_alone() -> None:
    by_record = spec()
    by_field = AggregateSpec("other", "events", Key(), WINDOW, RowFunctions(Count()), time="ts")
    world = Declared(by_record, by_field, partitions=1, value=Sale)
    await world.start()
    try:
        value = msgspec.json.encode({"ts": T0_MS})
        await world.client.send([Record("events", 0, b"k", value, (), stamp) for stamp in (-1, T0_MS)])
        world.ends[0] = 2
        await world.done()
        assert world.rows("table") == {("k", T0_MS): 1}
        assert world.rows("other") == {("k", T0_MS): 2}
        assert len(await world.read("events-dead-letters")) == 1
    finally:
        await world.close()
