"""Tumbling windows: which times they hold, when they close, what they refuse."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.errors import ConfigurationError, WindowError
from streamflow.windows import TumblingWindow, duration_ms


def windows() -> st.SearchStrategy[TumblingWindow]:
    return st.builds(
        lambda size, grace, retain, offset: TumblingWindow(
            size / 1000, grace_s=grace / 1000, retain_s=retain / 1000, offset_s=offset / 1000
        ),
        st.integers(1, 100_000),
        st.integers(0, 50_000),
        st.integers(0, 200_000),
        st.integers(-300_000, 300_000),
    )


times = st.integers(-(10**13), 10**13)


def test_known_facts_hold():
    assert TumblingWindow(0.012).windows_of(21) == [(12, 24)]
    assert TumblingWindow(10).windows_of(-1) == [(-10_000, 0)]
    assert TumblingWindow(10).windows_of(-10_000) == [(-10_000, 0)]
    assert TumblingWindow(10).windows_of(0) == [(0, 10_000)]
    assert TumblingWindow(10).windows_of(10_000) == [(10_000, 20_000)]


def test_fractions_of_a_second_are_kept():
    assert TumblingWindow(2.5).windows_of(2_500) == [(2_500, 5_000)]
    assert TumblingWindow(0.5).windows_of(1_499) == [(1_000, 1_500)]
    assert TumblingWindow(0.001).windows_of(-7) == [(-7, -6)]
    assert TumblingWindow(0.1 + 0.2).size_ms == 300


def test_an_offset_shifts_every_window_and_only_its_remainder_counts():
    assert TumblingWindow(10, offset_s=3).windows_of(2_999) == [(-7_000, 3_000)]
    assert TumblingWindow(10, offset_s=-7).windows_of(3_000) == [(3_000, 13_000)]
    assert TumblingWindow(10, offset_s=23).offset_ms == 3_000


def test_milliseconds_follow_the_seconds():
    window = TumblingWindow(60, grace_s=1.5, retain_s=3600, idle_close_s=None)
    assert (window.size_ms, window.grace_ms, window.retain_ms) == (60_000, 1_500, 3_600_000)
    assert window.offset_ms == 0
    assert window.idle_close_ms is None
    assert TumblingWindow(60).idle_close_ms == 10_000
    assert TumblingWindow(60).retain_ms == 86_400_000


def test_a_window_closes_when_the_watermark_reaches_its_end_and_the_grace():
    window = TumblingWindow(30, grace_s=60, retain_s=5)
    assert not window.closed(0, 89_999)
    assert window.closed(0, 90_000)
    assert not window.expired(0, 94_999)
    assert window.expired(0, 95_000)
    assert window.first_open_start(89_999) == 0
    assert window.first_open_start(90_000) == 30_000


@given(windows(), times)
def test_every_time_lies_in_exactly_one_aligned_window(window, t):
    [(start, end)] = window.windows_of(t)
    assert start <= t < end
    assert end - start == window.size_ms
    assert end == window.end_of(start)
    assert (start - window.offset_ms) % window.size_ms == 0
    assert window.start_of(t) == start
    assert window.start_of(end) == end


@given(windows(), st.one_of(st.lists(times), st.lists(st.integers(-90_000, 90_000), max_size=1_000)))
def test_a_column_is_the_same_as_one_by_one(window, column):
    assert window.starts_of_column(column) == [window.start_of(t) for t in column]


@given(windows(), times, st.integers(-400_000, 400_000))
def test_one_comparison_tells_what_is_closed_and_what_expired(window, watermark, distance):
    t = watermark + distance
    start = window.start_of(t)
    late = window.closed(start, watermark)
    assert late == (start < window.first_open_start(watermark))
    assert late == (t < window.first_open_start(watermark))
    assert window.expired(start, watermark) == (start < window.first_kept_start(watermark))
    assert not window.expired(start, watermark) or late


@pytest.mark.parametrize(
    "value", [0, -1, 0.0004, 0.0015, math.nan, math.inf, -math.inf, 1e30, "10", None, True]
)
def test_a_size_that_cannot_work_is_refused_by_name(value):
    with pytest.raises(WindowError, match="size_s"):
        TumblingWindow(value)


@pytest.mark.parametrize("name", ["grace_s", "retain_s", "idle_close_s"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf, "1", 0.0001])
def test_other_times_that_cannot_work_are_refused_by_name(name, value):
    with pytest.raises(WindowError, match=name):
        TumblingWindow(10, **{name: value})


def test_an_offset_may_be_negative_but_not_absurd():
    for value in (math.nan, math.inf, -1e30, 0.00001):
        with pytest.raises(WindowError, match="offset_s"):
            TumblingWindow(10, offset_s=value)


def test_an_idle_close_of_zero_is_refused():
    with pytest.raises(WindowError, match="idle_close_s"):
        TumblingWindow(10, idle_close_s=0)


def test_a_window_error_is_a_configuration_error():
    assert issubclass(WindowError, ConfigurationError)


def test_windows_are_values():
    window = TumblingWindow(10)
    assert window == TumblingWindow(10.0)
    assert hash(window) == hash(TumblingWindow(10.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        window.size_s = 20  # type: ignore[misc]  # the point of the test
    assert repr(window).startswith("TumblingWindow(size_s=10, ")


def test_the_description_changes_with_what_old_rows_depend_on():
    base = TumblingWindow(10).describe()
    assert base == TumblingWindow(10, retain_s=5, idle_close_s=1, offset_s=20).describe()
    for other in (
        TumblingWindow(11),
        TumblingWindow(10, grace_s=1),
        TumblingWindow(10, offset_s=1),
    ):
        assert other.describe() != base


def test_durations_may_be_named_by_others():
    assert duration_ms("expires", 3600) == 3_600_000
    with pytest.raises(WindowError, match="expires"):
        duration_ms("expires", -1)
