"""Event times of declared aggregates: every one passes the same checks, whatever it is read from."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streamflow.aggregates import Count
from streamflow.aggregates.row_values import RowFunctions
from streamflow.aggregates.spec import AggregateSpec, Key
from streamflow.codecs.times import TimeLimits
from streamflow.settings import Settings
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


def test_limits_name_the_field_and_leave_other_reasons_alone() -> None:
    limits = TimeLimits.of(Settings(id="app", future_max_s=1.0))
    bad: dict[int, Any] = {}
    limits.check_column([T0_MS, YEAR_9999_MS, T0_MS + 1_001], [T0_MS] * 3, bad, "ts")
    assert {index: (error.reason, error.field) for index, error in bad.items()} == {
        1: ("bad-timestamp", "ts"),
        2: ("bad-timestamp", "ts"),
    }
    assert "out of range" in bad[1].message
    assert "1001 ms ahead" in bad[2].message
