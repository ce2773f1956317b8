"""Merged states of windows that slide, in two merges a state instead of one for each window that holds it.

A queue of states made of two stacks, each of which knows what it merges to. Works for every merge that is
associative, also where nothing can be taken back: the two stacks of Tangwongsan, Hirzel, Schneider and Wu,
"General Incremental Sliding-Window Aggregation", PVLDB 8(7), 2015, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Merging(Protocol):
    """How states merge: `aggregates.row_values.RowFunctions` is one."""

    @property
    def approximate(self) -> bool:
        """Does what a state shows depend on how it was merged?"""
        ...

    def merge_all(self, states: Sequence[Any]) -> Any:
        """The merged state of at least one; changes none of them."""
        ...

    def copy(self, state: Any) -> Any:
        """One that may be changed without changing this one."""
        ...

    def merge(self, state: Any, delta: Any) -> Any:
        """Both together; may change ``state``, never ``delta``."""
        ...


class TwoStacks:
    """A queue of states, by time; `merged` is what all that it holds merge to. Times never go back."""

    __slots__ = ("_back", "_back_merged", "_front", "_merging")

    def __init__(self, merging: Merging) -> None:
        self._merging = merging
        self._front: list[tuple[int, Any]] = []  # newest first; each with all that is newer in here
        self._back: list[tuple[int, Any]] = []  # oldest first, as they came
        self._back_merged: Any = None

    def push(self, time_ms: int, state: Any) -> None:
        """Takes a state, which is never changed."""
        merging = self._merging
        self._back_merged = merging.merge(self._back_merged, state) if self._back else merging.copy(state)
        self._back.append((time_ms, state))

    def drop_before(self, time_ms: int) -> None:
        """Everything older leaves."""
        while True:
            front = self._front
            while front and front[-1][0] < time_ms:
                front.pop()
            if front or not self._back:
                return
            self._turn(time_ms)

    def _turn(self, time_ms: int) -> None:
        """What is in the back goes to the front, each with all that is newer."""
        merging, front = self._merging, self._front
        for at_ms, state in reversed(self._back):
            if at_ms < time_ms:
                break
            mine = merging.copy(state)
            front.append((at_ms, merging.merge(mine, front[-1][1]) if front else mine))
        self._back = []
        self._back_merged = None

    def __bool__(self) -> bool:
        return bool(self._front or self._back)

    def merged(self) -> Any:
        """The merged state of what it holds, which is at least one; the caller's own."""
        merging = self._merging
        if not self._front:
            return merging.copy(self._back_merged)
        merged = merging.copy(self._front[-1][1])
        return merging.merge(merged, self._back_merged) if self._back else merged
