"""Indexes of rows whose windows events make: true to the rows of all layers."""

from __future__ import annotations

import random

import pytest

from streamflow.state.changelog import RowCodec
from streamflow.state.panes import PaneIndex
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.row_index import RowIndex
from streamflow.state.sessions import SessionIndex, session_at, touched
from streamflow.state.stores.base import DELETED
from streamflow.state.stores.memory import MemoryStore
from streamflow.windows import SessionWindow
from streamflow.windows.session import Part, first_start, joined, sessions_of

WINDOW = SessionWindow(0.009)


def partition() -> TablePartition:
    return TablePartition(TableSpec("t", WINDOW, RowCodec(WINDOW), "t-log", 1), 0, MemoryStore())


def known(index: RowIndex) -> list[int]:
    assert isinstance(index, SessionIndex | PaneIndex)
    return list(index.after("k", -1) if isinstance(index, SessionIndex) else index.times_of("k", 0, 100))


@pytest.mark.parametrize("kind", [SessionIndex, PaneIndex])
def test_an_index_is_made_of_the_rows_of_all_layers(kind: type[RowIndex]) -> None:
    part = partition()
    part.store.apply({10: {"k": 1}, 20: {"k": 1}, 30: {"k": 1}})
    part.cut = {20: {"k": DELETED}, 40: {"k": 1}}
    part.changes = {40: {"k": 2}, 50: {"k": 1}, 30: {"k": DELETED}}
    assert sorted(part.row_ids()) == [(10, "k"), (40, "k"), (50, "k")]
    assert known(part.indexed(kind)) == [10, 40, 50]
    assert part.indexed(kind) is part.indexed(kind)


@pytest.mark.parametrize("kind", [SessionIndex, PaneIndex])
def test_what_is_dropped_is_known_no_more_and_what_is_added_is_in_order(kind: type[RowIndex]) -> None:
    index, rng, there = kind(), random.Random(3), set[int]()
    for _ in range(500):
        start = rng.randrange(30)
        if rng.random() < 0.5:
            index.add(start, "k")
            there.add(start)
        else:
            index.drop(start, ["k", "unknown"])
            there.discard(start)
        assert known(index) == sorted(there)


def test_a_cut_that_is_durable_takes_its_deleted_rows_out_of_the_index() -> None:
    part = partition()
    part.changes = {10: {"k": (Part(1, 10, None, 1),)}, 20: {"k": (Part(11, 20, None, 1),)}}
    index = part.indexed(SessionIndex)
    part.begin_cut(None)
    part.fold_cut(None)
    part.changes = {10: {"k": DELETED}}
    assert known(index) == [10, 20], "it may be undone"
    part.begin_cut(None)
    part.fold_cut(None)
    assert known(index) == [20]


@pytest.mark.parametrize("seed", range(20))
def test_events_one_by_one_make_the_sessions_that_all_of_them_make(seed: int) -> None:
    rng, part = random.Random(seed), partition()
    events = [Part(t, t + WINDOW.size_ms, None, 1) for t in (rng.randrange(300) for _ in range(40))]
    for event in events:
        before = touched(part, "k", event.start, event.end)
        parts = [event, *(row[0] for _, row in before)]
        one = joined(parts, sum(old.state for old in parts))
        for end, _ in before:
            part.changes[end]["k"] = DELETED
        part.changes.setdefault(one.end, {})["k"] = (one,)
        part.indexed(SessionIndex).add(one.end, "k")
    rows = [part.get(end, "k") for end, _ in part.row_ids()]
    found = sorted((row[0].end, row[0].start, row[0].state) for row in rows)
    wanted = sessions_of(events)
    assert found == [(session.end, session.start, len(session.parts)) for session in wanted]
    for session in wanted:
        held = session_at(part, "k", session.end - 1, part.get)
        assert held is not None
        assert first_start(held) == session.start
        assert session_at(part, "k", session.end, part.get) != held
