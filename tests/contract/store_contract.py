"""What every store must do: see `streamflow.stores.base`.

A driver's tests subclass `StoreContract` and give ``new_store``; ``reopened`` where it keeps rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamflow.state.stores.base import DELETED, MISSING, NO_WINDOW, Store

Steps = list[tuple[dict[int, dict[str, Any]], list[int]]]
starts = st.sampled_from([-10_000, 0, 10_000, 20_000, 1_700_000_000_000])
keys = st.sampled_from(["a", "b", "ab", "", "ü", "z\x00"])
rows = st.dictionaries(
    starts, st.dictionaries(keys, st.integers() | st.just(DELETED), min_size=1), max_size=4
)


class StoreContract(ABC):
    @abstractmethod
    def new_store(self) -> Store:
        """An empty one."""

    def reopened(self, store: Store) -> Store | None:
        """The same after its process has ended and another has begun; None: it keeps nothing."""
        return None

    def test_a_new_store_is_empty_and_has_read_nothing(self) -> None:
        store = self.new_store()
        assert (len(store), store.offset, store.starts(), store.first_start()) == (0, 0, [], None)
        assert store.get(NO_WINDOW, "a") is MISSING
        assert list(store.scan()) == []
        assert dict(store.window(NO_WINDOW)) == {}

    def test_rows_are_found_where_they_were_written(self) -> None:
        store = self.new_store()
        store.apply({0: {"a": 1, "b": 2}, 10_000: {"a": 3}}, 7)
        assert [store.get(0, "a"), store.get(0, "b"), store.get(10_000, "a")] == [1, 2, 3]
        assert store.get(10_000, "b") is MISSING
        assert store.get(20_000, "a") is MISSING
        assert store.window(0).get("a") == 1
        assert "b" not in store.window(10_000)
        assert len(store.window(0)) == 2
        assert store.offset == 7

    def test_windows_come_in_order_of_their_starts_also_before_1970(self) -> None:
        store = self.new_store()
        store.apply({20_000: {"a": 1}, -10_000: {"a": 2}, 0: {"a": 3}, 1_700_000_000_000: {"a": 4}})
        assert store.starts() == [-10_000, 0, 20_000, 1_700_000_000_000]
        assert store.first_start() == -10_000
        assert [value for _, _, value in store.scan()] == [2, 3, 1, 4]

    def test_a_deleted_row_is_gone_and_with_its_last_row_the_window(self) -> None:
        store = self.new_store()
        store.apply({0: {"a": 1, "b": 2}})
        store.apply({0: {"a": DELETED, "never there": DELETED}})
        assert store.get(0, "a") is MISSING
        assert len(store) == 1
        store.apply({0: {"b": DELETED}})
        assert store.starts() == []
        store.apply({0: {"b": DELETED}})
        assert len(store) == 0

    def test_dropped_windows_go_behind_the_changes_and_leave_their_neighbours(self) -> None:
        store = self.new_store()
        store.apply({0: {"a": 1}, 1: {"a": 2}, 256: {"a": 3}})
        store.apply({1: {"b": 4}, 2: {"a": 5}}, 9, drops=[1, 77])
        assert list(store.scan()) == [(0, "a", 1), (2, "a", 5), (256, "a", 3)]
        assert (len(store), store.starts(), store.offset) == (3, [0, 2, 256], 9)
        store.apply({1: {"a": 6}})
        assert dict(store.window(1)) == {"a": 6}

    def test_the_offset_stays_where_none_is_given(self) -> None:
        store = self.new_store()
        store.apply({0: {"a": 1}}, 5)
        store.apply({0: {"a": 2}})
        assert store.offset == 5
        store.apply({}, 6)
        assert store.offset == 6

    def test_a_cleared_store_is_as_new(self) -> None:
        store = self.new_store()
        store.apply({0: {"a": 1}, 10_000: {"a": 1}}, 5)
        store.clear()
        assert (len(store), store.offset, store.starts()) == (0, 0, [])
        assert store.get(0, "a") is MISSING
        store.apply({0: {"b": 1}}, 1)
        assert list(store.scan()) == [(0, "b", 1)]

    def test_values_come_back_as_they_were(self) -> None:
        store = self.new_store()
        values = [None, True, 0, -1.5, "ü", [1, [2]], {"a": {"b": None}}, 2**70]
        store.apply({NO_WINDOW: dict(enumerate(values))})
        assert [store.get(NO_WINDOW, n) for n in range(len(values))] == values

    def test_keys_of_every_kind_are_told_apart(self) -> None:
        store = self.new_store()
        some = ["1", 1, ("a", 1), ("a", ("b",)), None, "null", "", 2**70]
        store.apply({NO_WINDOW: {key: n for n, key in enumerate(some)}})
        assert [store.get(NO_WINDOW, key) for key in some] == list(range(len(some)))
        assert {key for _, key, _ in store.scan()} == set(some)

    def test_a_window_may_be_written_while_it_is_read(self) -> None:
        store = self.new_store()
        store.apply({0: {f"k{n}": n for n in range(100)}})
        reading = iter(list(store.window(0)))
        store.apply({0: {"k0": DELETED}})
        assert len(list(reading)) == 100
        assert len(store.window(0)) == 99

    def test_any_run_of_checkpoints_leaves_what_a_dict_would_hold(self) -> None:
        @settings(max_examples=40, deadline=None)
        @given(st.lists(st.tuples(rows, st.lists(starts, max_size=2)), max_size=6), st.integers(0, 6))
        def run(steps: Steps, reopen_at: int) -> None:
            self._run(steps, reopen_at)

        run()

    def _run(self, steps: Steps, reopen_at: int) -> None:
        store = self.new_store()
        model: dict[tuple[int, str], Any] = {}
        for number, (changes, drops) in enumerate(steps):
            again = self.reopened(store) if number == reopen_at else None
            store = store if again is None else again
            store.apply(changes, number + 1, drops)
            for start, changed in changes.items():
                model.update({(start, key): value for key, value in changed.items()})
            model = {at: v for at, v in model.items() if v is not DELETED and at[0] not in drops}
            assert {(start, key): value for start, key, value in store.scan()} == model
            assert len(store) == len(model)
            there = store.starts()
            assert there == sorted({start for start, _ in model})
            for at in (None, -10_000, 5_000, 10_000, 1_700_000_000_000):
                behind = [start for start in there if at is None or start > at]
                before = [start for start in there if at is None or start < at]
                assert store.next_start(at) == (behind[0] if behind else None)
                assert store.next_start(at, descending=True) == (before[-1] if before else None)
            assert store.offset == number + 1
        store.close()

    def test_what_was_applied_is_there_after_a_restart_with_its_offset(self) -> None:
        store = self.new_store()
        store.apply({0: {"a": 1}, 10_000: {"b": [2]}}, 41)
        again = self.reopened(store)
        if again is not None:
            assert list(again.scan()) == [(0, "a", 1), (10_000, "b", [2])]
            assert (again.offset, len(again), again.starts()) == (41, 2, [0, 10_000])
            again.close()
