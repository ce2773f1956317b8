"""The indexes that lists are read by: in order whatever comes, and true of what came while they were made."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamflow.query.key_order import key_order, key_text
from streamflow.query.list_index import KEPT_MS, ListIndex
from streamflow.query.listing import prefix_bounds
from streamflow.query.row_query import RowQuery
from streamflow.query.rows import PartitionMoved, Row
from streamflow.query.slices import Slices
from streamflow.query.sorted_chunks import SortedChunks, sorted_in_slices
from streamflow.state.starts import SortedStarts
from streamflow.state.stores.base import DELETED
from streamflow.state.stores.memory import MemoryStore
from streamflow.testing import ManualClock
from streamflow.windows import TumblingWindow

KEYS = [f"k{n}" for n in range(40)]


class HurriedClock(ManualClock):
    """Every look at it finds the slice over."""

    looks = 0

    def monotonic_ms(self) -> float:
        self.looks += 1
        return 5.0 * self.looks


class Rows:
    """One table partition's store, as an index reads it."""

    window = TumblingWindow(10)
    kept_as_panes = False

    def __init__(self) -> None:
        self.owned = frozenset({0})
        self.store = MemoryStore()

    def starts(self, partition: int) -> list[int]:
        return self.store.starts()

    def keys(self, partition: int, start: int) -> Iterable[Any]:
        return self.store.window(start)

    def has(self, partition: int, start: int, key: Hashable) -> bool:
        return key in self.store.window(start)

    def value(self, partition: int, start: int, key: Hashable) -> Any:
        return self.store.get(start, key)

    def next_start(self, partition: int, start: int | None, *, descending: bool = False) -> int | None:
        return self.store.next_start(start, descending=descending)

    def begins(self, partition: int, start: int, key: Hashable) -> int:
        return start

    def starts_of(self, partition: int, key: Hashable) -> list[int]:
        return [start for start in self.store.starts() if self.has(0, start, key)]

    def groups(self, partition: int) -> Iterable[Any]:
        return ()

    def shown(self, key: Hashable) -> Any:
        return key

    def next_kept(self, partition: int, kept: int | None) -> int | None:
        return self.store.next_start(kept)

    def kept_keys(self, partition: int, kept: int) -> Iterable[Any]:
        return self.keys(partition, kept)

    def ids_made_of(self, kept: list[int]) -> list[int]:
        return kept

    def is_part(self, kept: int, start: int) -> bool:
        return kept == start


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 50))), st.integers(0, 60), st.integers(0, 60))
def test_chunks_are_a_sorted_list(acts: list[tuple[bool, int]], low: int, high: int) -> None:
    chunks, plain = SortedChunks(), set[int]()
    for adds, number in acts:
        if adds and number not in plain:
            chunks.add((number, "x"))
            plain.add(number)
        elif not adds and number in plain:
            chunks.remove((number, "x"))
            plain.remove(number)
    wanted = [(n, "x") for n in sorted(plain) if low <= n < high]
    assert chunks.block((low,), (high,), 1_000, descending=False) == wanted
    assert chunks.block((low,), (high,), 3, descending=True) == wanted[::-1][:3]
    assert len(chunks) == len(plain)


@given(st.sets(st.integers(0, 30)), st.lists(st.sets(st.integers(0, 30))), st.none() | st.integers(-1, 31))
def test_starts_stay_in_order(first: set[int], acts: list[set[int]], at: int | None) -> None:
    starts, plain = SortedStarts(first), set(first)
    for some in acts:
        starts.drop(sorted(some & plain))
        plain -= some
        starts.add(sorted(some - first))
        plain |= some - first
    assert list(starts) == sorted(plain)
    assert starts.after(at) == min((s for s in plain if at is None or s > at), default=None)
    assert starts.after(at, descending=True) == max((s for s in plain if at is None or s < at), default=None)


async def test_many_entries_are_sorted_in_slices() -> None:
    numbers = random.Random(1).sample(range(100_000), 20_000)
    made = await sorted_in_slices([(n,) for n in numbers], Slices(HurriedClock()))
    assert made.block(None, None, 20_000, descending=False) == [(n,) for n in sorted(numbers)]


@pytest.mark.parametrize("seed", range(20))
async def test_what_is_committed_while_an_index_is_made_is_in_it(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamflow.query.list_index.BLOCK", 3)
    dice, rows, clock = random.Random(seed), Rows(), HurriedClock()
    lists = ListIndex(rows, clock)
    rows.store.apply({start: dict.fromkeys(dice.sample(KEYS, 30), 1) for start in (0, 10, 20)})

    def commit() -> None:
        start = dice.choice((0, 10, 20, 30))
        if dice.random() < 0.1 and start in rows.store.starts():
            lists.change(0, start, (), list(rows.store.window(start)))
            rows.store.apply({}, drops=[start])
            return
        there = [key for key in rows.store.window(start) if dice.random() < 0.2]
        came = {key: 2 for key in dice.sample(KEYS, 5) if key not in there}
        rows.store.apply({start: {**came, **dict.fromkeys(there, DELETED)}})
        lists.change(0, start, came, there)

    async def commits() -> None:
        while True:
            commit()
            await asyncio.sleep(0)

    task = asyncio.create_task(commits())
    windows = [await lists.window(0, start, Slices(clock)) for start in (0, 10)]
    keys = await lists.keys(0, Slices(clock))
    for _ in range(30):
        await asyncio.sleep(0)
    task.cancel()
    for index, start in zip(windows, (0, 10), strict=True):
        found = [entry[-1] for entry in index.order.block(None, None, 1_000, descending=False)]
        assert found == sorted(rows.store.window(start))
    found = [entry[-1] for entry in keys.order.block(None, None, 1_000, descending=False)]
    assert found == sorted({key for start in rows.store.starts() for key in rows.store.window(start)})
    assert {key: keys.ids(key) for key in found} == {key: rows.starts_of(0, key) for key in found}


async def test_an_index_of_rows_that_went_is_not_used() -> None:
    rows, clock = Rows(), HurriedClock()
    lists = ListIndex(rows, clock)
    rows.store.apply({0: dict.fromkeys(KEYS, 1)})
    making = asyncio.create_task(lists.window(0, 0, Slices(clock)))
    await asyncio.sleep(0)
    lists.forget()
    with pytest.raises(PartitionMoved):
        await making
    assert not lists.active
    await lists.window(0, 0, Slices(clock))
    rows.owned = frozenset()
    with pytest.raises(PartitionMoved):
        await lists.keys(0, Slices(clock))


async def test_an_index_that_nobody_asks_for_is_forgotten() -> None:
    rows, clock = Rows(), ManualClock()
    lists = ListIndex(rows, clock)
    rows.store.apply({0: dict.fromkeys(KEYS, 1)})
    await lists.window(0, 0, Slices(clock))
    await clock.advance(KEPT_MS / 2)
    lists.checked()
    assert lists.active
    await clock.advance(KEPT_MS)
    lists.checked()
    assert not lists.active


@given(
    st.lists(st.one_of(st.text(max_size=3), st.integers(-20, 20), st.none(), st.booleans())),
    st.text(max_size=2),
)
def test_between_the_bounds_of_a_prefix_are_all_keys_that_begin_so(keys: list[Any], prefix: str) -> None:
    order = SortedChunks([sorted({(*key_order(key), n) for n, key in enumerate(keys)})])
    found = [
        keys[entry[-1]]
        for low, high in prefix_bounds(prefix)
        for entry in order.block(low, high, 1_000, descending=False)
    ]
    wants = RowQuery(prefix=prefix).wants
    wanted = [key for key in found if wants(Row(key, None, None, None, 1, 0))]
    assert len(wanted) == sum(key_text(key).startswith(prefix) for key in keys)
