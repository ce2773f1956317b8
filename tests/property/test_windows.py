"""Windows against their definitions: what they hold, what is late, and facts that are known by heart."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamflow.errors import WindowError
from streamflow.windows import HoppingWindow, SessionWindow, SlidingWindow, TumblingWindow, Window
from streamflow.windows.session import Part, sessions_of
from tests.property.oracle import OracleEvent, ask

times = st.integers(-(10**13), 10**13)


def ms(**sizes: int) -> dict[str, float]:
    """Arguments in seconds, of milliseconds."""
    return {f"{name}_s": value / 1_000 for name, value in sizes.items()}


def counts(window: Window, stream: Sequence[int]) -> dict[tuple[int, int], int]:
    answer = ask(window, [[OracleEvent(t, "k", t) for t in stream]])
    return {(start, end): len(values) for (start, end, _), values in answer.rows.items()}


hoppings = st.builds(
    lambda step, extra, grace, offset: HoppingWindow(
        **ms(size=step + extra, step=step, grace=grace, offset=offset)
    ),
    st.integers(1, 5_000),
    st.integers(0, 9_000),
    st.integers(0, 5_000),
    st.integers(-30_000, 30_000),
)


def test_known_facts_of_hopping_windows_hold():
    starts = [start for start, _ in HoppingWindow(**ms(size=12, step=5)).windows_of(21)]
    assert starts == [10, 15, 20]
    assert HoppingWindow(**ms(size=6, step=5)).windows_of(7) == [(5, 11)]
    assert HoppingWindow(10, 10).windows_of(-1) == [(-10_000, 0)]
    assert HoppingWindow(10, 10).windows_of(-10_000) == [(-10_000, 0)]
    assert HoppingWindow(10, 5, offset_s=1).windows_of(0) == [(-9_000, 1_000), (-4_000, 6_000)]


def test_known_facts_of_grace_hold():
    window = TumblingWindow(**ms(size=2, grace=1))
    final = counts(window, [0, 1, 2, 1, 0, 5, 0])
    assert {bounds: n for bounds, n in final.items() if bounds[1] <= 4} == {(0, 2): 4, (2, 4): 1}
    window = TumblingWindow(**ms(size=2, grace=2))
    final = counts(window, [0, 1, 2, 0, 3, 0, 4, 0, 30])
    closed = {bounds: n for bounds, n in final.items() if bounds[1] <= 6}
    assert closed == {(0, 2): 4, (2, 4): 2, (4, 6): 1}


def test_known_facts_of_sessions_hold():
    window = SessionWindow(**ms(gap=10, grace=1_000))
    assert counts(window, [0, 10]) == {(0, 21): 2}
    assert counts(window, [0, 11]) == {(0, 11): 1, (11, 22): 1}
    assert counts(window, [1, 15, 30, 100, 101, 95, 22, 10]) == {(1, 41): 5, (95, 112): 3}


def test_known_facts_of_sliding_windows_hold():
    window = SlidingWindow(**ms(size=10, grace=100))
    assert counts(window, [100, 105]) == {(91, 101): 1, (96, 106): 2, (101, 111): 1}
    # Both windows of the first are those of the second.
    assert counts(window, [100, 110]) == {(91, 101): 1, (101, 111): 1}
    assert counts(window, [105, 100]) == counts(window, [100, 105])


def test_an_event_counts_until_the_grace_has_passed_whatever_its_key():
    window = TumblingWindow(30, grace_s=60)
    for last, first, late in ((89_999, 10_009, 0), (90_000, 10_010, 1)):
        stream = [OracleEvent(last, "a", 1), OracleEvent(first, "b", 1)]
        assert ask(window, [stream]).late == [late]


@given(hoppings, times)
def test_a_time_lies_in_each_hopping_window_that_holds_it_and_in_no_other(window, t):
    found = window.windows_of(t)
    assert found
    assert all(start <= t < end == start + window.size_ms for start, end in found)
    assert [start for start, _ in found] == list(
        range(found[0][0], found[0][0] + len(found) * window.step_ms, window.step_ms)
    )
    assert all((start - window.offset_ms) % window.step_ms == 0 for start, _ in found)
    assert t >= found[0][0] - window.step_ms + window.size_ms, "the window before ends before it"
    assert found[-1][0] + window.step_ms > t
    pane = window.pane_of(t)
    assert pane <= t < pane + window.pane_ms
    assert window.windows_of(pane) == window.windows_of(pane + window.pane_ms - 1) == found


windows = st.one_of(
    hoppings,
    st.builds(lambda s, g, r: SlidingWindow(**ms(size=s, grace=g, retain=r)), *[st.integers(1, 9_999)] * 3),
    st.builds(lambda s, g, r: SessionWindow(**ms(gap=s, grace=g, retain=r)), *[st.integers(1, 9_999)] * 3),
)


@given(windows, times, st.integers(-50_000, 50_000))
def test_one_comparison_tells_what_is_closed_and_what_has_expired(window, watermark, distance):
    number = window.windows_of(watermark + distance)[0][0]
    assert window.closed(number, watermark) == (number < window.first_open_start(watermark))
    assert window.expired(number, watermark) == (number < window.first_kept_start(watermark))


@given(hoppings, times, st.integers(-50_000, 50_000))
def test_a_time_before_the_first_open_start_is_late_in_every_hopping_window(window, watermark, distance):
    t = watermark + distance
    late = all(window.closed(start, watermark) for start in window.starts_of(t))
    assert late == (t < window.first_open_start(watermark))


@given(st.integers(1, 9_999), st.integers(0, 9_999), st.integers(0, 9_999), times, st.integers(-30_000, 9))
def test_a_pane_takes_events_as_long_as_any_sliding_window_could_hold_them(size, grace, retain, mark, back):
    window = SlidingWindow(**ms(size=size, grace=grace, retain=retain))
    panes, t = window.panes(), mark + back
    assert panes.windows_of(t) == [(t, t + 1)]
    assert panes.closed(t, mark) == window.closed(t, mark), "the last window that can hold t begins with it"
    assert panes.expired(t, mark) == window.expired(t + 1, mark), "the last that it tells of begins after it"


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: HoppingWindow(10, 0), "step_s"),
        (lambda: HoppingWindow(10, 11), "step_s"),
        (lambda: HoppingWindow(0, 1), "size_s"),
        (lambda: HoppingWindow(86_400, 0.001), "step_s"),
        (lambda: HoppingWindow(10, 5, grace_s=-1), "grace_s"),
        (lambda: SlidingWindow(0), "size_s"),
        (lambda: SlidingWindow(float("nan")), "size_s"),
        (lambda: SlidingWindow(1, retain_s=float("inf")), "retain_s"),
        (lambda: SessionWindow(0), "gap_s"),
        (lambda: SessionWindow("5"), "gap_s"),  # type: ignore[arg-type]  # the point of the test
        (lambda: SessionWindow(1, idle_close_s=0), "idle_close_s"),
    ],
)
def test_what_cannot_work_is_refused_by_name(make, named):
    with pytest.raises(WindowError, match=named):
        make()


def test_windows_are_values_and_their_description_changes_with_what_old_rows_depend_on():
    kinds = [
        HoppingWindow(10, 5),
        HoppingWindow(10, 2),
        HoppingWindow(10, 5, offset_s=1),
        HoppingWindow(10, 5, grace_s=1),
        SlidingWindow(10),
        SlidingWindow(10, grace_s=1),
        SessionWindow(10),
        SessionWindow(10, grace_s=1),
        TumblingWindow(10),
    ]
    for one, other in itertools.combinations(kinds, 2):
        assert one != other
        assert one.describe() != other.describe()
    assert HoppingWindow(10, 5) == HoppingWindow(10.0, 5.0, offset_s=0)
    assert HoppingWindow(10, 5).describe() == HoppingWindow(10, 5, retain_s=1, offset_s=5).describe()


# -- sessions of parts ----------------------------------------------------------------------------------


def parts_of(taken: list[tuple[int, int]], gap: int) -> list[Part]:
    """(time, where sessions were closed up to) as parts of one event each."""
    return [Part(t, t + gap + 1, None if t >= c else c, (n,)) for n, (t, c) in enumerate(taken)]


streams = st.lists(st.integers(0, 60), min_size=1, max_size=14)


@settings(max_examples=300)
@example([[3, 0, 4, 1, 0]], 2, 0)
@given(st.lists(streams, min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 9))
def test_sessions_of_parts_are_those_of_the_definition_in_any_order(partitions, gap, grace):
    window = SessionWindow(**ms(gap=gap, grace=grace))
    answer = ask(window, [[OracleEvent(t, "k", (p, t)) for t in part] for p, part in enumerate(partitions)])
    taken = [value for values in answer.rows.values() for value in values]
    offered = Counter((p, t) for p, part in enumerate(partitions) for t in part)
    if any(0 < count < offered[event] for event, count in Counter(taken).items()):
        return  # of several events at one time only some were late: which ones does not show here
    parts = []
    for p, part in enumerate(partitions):
        mark = -(10**9)
        for t in part:
            mark = max(mark, t)
            if (p, t) in taken:
                taken.remove((p, t))
                after = mark - grace
                parts.append(Part(t, t + gap + 1, None if t >= after else after, (p, t)))
    assert not taken
    want = {(start, end): sorted(values) for (start, end, _), values in answer.rows.items()}
    for seed in range(3):
        random.Random(seed).shuffle(parts)
        found = {(s.start, s.end): sorted(p.state for p in s.parts) for s in sessions_of(parts)}
        assert found == want


@given(streams, st.integers(1, 9), st.integers(0, 9))
def test_one_partition_taken_event_by_event_has_the_sessions_of_its_parts(stream, gap, grace):
    """The order of arrival and the order by watermark are the same thing where there is one partition."""
    sessions: list[list[int]] = []
    taken: list[tuple[int, int]] = []
    mark = -(10**9)
    for t in stream:
        mark = max(mark, t)
        closed_at = mark - grace
        touched = [s for s in sessions if max(s) + gap + 1 > closed_at and any(abs(t - x) <= gap for x in s)]
        if touched or t + gap + 1 > closed_at:
            taken.append((t, closed_at))
            sessions = [s for s in sessions if s not in touched]
            sessions.append(sorted([t, *itertools.chain.from_iterable(touched)]))
    found: list[Any] = [(s.start, s.end) for s in sessions_of(parts_of(taken, gap))]
    assert sorted(found) == sorted((s[0], s[-1] + gap + 1) for s in sessions)
