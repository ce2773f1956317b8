"""The quick way to merge what sliding windows hold is the plain one: each window by itself."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.aggregates import Collect, Count, Max, Quantile, Sum
from streamflow.aggregates.row_values import RowFunctions
from streamflow.state.panes import Pane, PaneIndex, SlidingRows
from streamflow.state.two_stacks import TwoStacks
from streamflow.windows import SlidingWindow

SIZE_MS = 12
COLUMN = ["value"]
MERGING = {
    "scalar": RowFunctions(Sum(lambda event: event)),
    "named": RowFunctions({"n": Count(), "sum": Sum(lambda event: event), "max": Max(lambda event: event)}),
    "mutable": RowFunctions(Collect()),
    "approximate": RowFunctions(Quantile(lambda event: event, q=0.5)),
}
# (time, group, source, came so late that it counts in windows that end after this, value)
EVENTS = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.sampled_from("ab"),
        st.integers(0, 1),
        st.one_of(st.none(), st.none(), st.integers(0, 80)),
        st.integers(-5, 5),
    ),
    max_size=40,
)


def state_of(values: RowFunctions, time_ms: int, value: int) -> object:
    column: list[object] = [(time_ms, 0, value, value)] if values.functions[0].placed else [value]
    return values.fold_columns([0], [column for _ in values.functions])[0]


@pytest.mark.parametrize("values", MERGING.values(), ids=MERGING.keys())
@given(events=EVENTS, steps=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_closing_rows_are_those_that_are_read(
    values: RowFunctions, events: list[tuple[int, str, int, int | None, int]], steps: list[int]
) -> None:
    panes: dict[tuple[int, str], dict[int, dict[int | None, object]]] = {}
    index: PaneIndex[str] = PaneIndex()
    for time_ms, group, source, after_ms, value in events:
        pane = panes.setdefault((time_ms, group), {}).setdefault(source, {})
        state = state_of(values, time_ms, value)
        pane[after_ms] = values.merge(pane[after_ms], state) if after_ms in pane else state
        index.add(time_ms, group)

    def lookup(time_ms: int, group: str) -> Iterable[Pane]:
        return panes.get((time_ms, group), {}).values()

    rows = SlidingRows(SlidingWindow(SIZE_MS / 1_000), index, lookup)
    before_ms, low_ms = None, 0
    told: dict[tuple[int, str], object] = {}
    for step in [*steps, 200]:
        low_ms += step
        for start, states in rows.merged(rows.closing(before_ms, low_ms), values):
            for group, state in states.items():
                assert (start, group) not in told
                told[start, group] = values.dump(state)
        before_ms = low_ms
    plain = {
        (start, group): values.dump(values.merge_all(rows.states(start, group)))
        for group in "ab"
        for start in rows.starts_of(group)
    }
    assert told == plain


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=40), st.integers(1, 12))
def test_two_stacks_hold_what_a_list_would(moves: list[tuple[int, int]], size: int) -> None:
    values = MERGING["mutable"]
    queue, plain, now_ms = TwoStacks(values), [], 0
    for step, value in moves:
        now_ms += step
        state = state_of(values, now_ms, value)
        before = values.dump(state)
        queue.push(now_ms, state)
        plain.append((now_ms, state))
        queue.drop_before(now_ms - size)
        plain = [(at, each) for at, each in plain if at >= now_ms - size]
        assert bool(queue) == bool(plain)
        assert values.dump(queue.merged()) == values.dump(values.merge_all([each for _, each in plain]))
        assert values.dump(state) == before, "what was pushed is never changed"
