"""How many events: all of them, or of each value of a field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import nsmallest
from typing import Any

from streamflow.aggregates.functions.base import (
    KEY_CHARACTERS_MAX,
    OTHER,
    Aggregate,
    Field,
    G,
    OfJson,
    checked_field,
)
from streamflow.codecs.canonical import group_key_text
from streamflow.errors import ConfigurationError


class Count(Aggregate):
    """How many events. State: an int."""

    name = "count"

    def initial(self) -> int:
        return 0

    def fold(self, state: int, value: object) -> int:
        return state + 1

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, int]:
        return dict(Counter(groups))

    def merge(self, state: int, delta: int) -> int:
        return state + delta


class CountBy(OfJson):
    """How many events of each value of a field: ``{"click": 7, "view": 2}``. State: text -> int.

    A value of type str is its own text, any other its canonical JSON text. At most ``keys_max`` texts
    have a count of their own: those that come first in the order of their code points among all that
    were ever seen; all others, and those over 256 characters, are counted together under "…other".
    Which ones these are does not depend on the order of events or merges: a text that is among the
    first of all was among the first of every part, so its count was never given away.
    """

    name = "count_by"

    def __init__(self, field: Field, *, keys_max: int = 1_000) -> None:
        if type(keys_max) is not int or keys_max < 1:
            raise ConfigurationError(f"CountBy(keys_max={keys_max!r}) must be a whole number from 1 up")
        self.field = checked_field(self, field)
        self.keys_max = keys_max

    def initial(self) -> dict[str, int]:
        return {}

    def fold(self, state: dict[str, int], value: object) -> dict[str, int]:
        text = group_key_text(value)
        text = text if len(text) <= KEY_CHARACTERS_MAX else OTHER
        state[text] = state.get(text, 0) + 1
        return self._trim(state)

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, dict[str, int]]:
        assert values is not None, "CountBy needs a column"
        # HOT PATH: one pass in C over pairs; texts are made and checked once for each distinct one.
        if set(map(type, values)) != {str}:
            values = [value if type(value) is str else group_key_text(value) for value in values]
        states: dict[G, dict[str, int]] = {}
        for (group, text), count in Counter(zip(groups, values, strict=True)).items():
            state = states.get(group)
            if state is None:
                state = states[group] = {}
            if len(text) > KEY_CHARACTERS_MAX:
                text = OTHER
            state[text] = state.get(text, 0) + count
        for state in states.values():
            self._trim(state)
        return states

    def merge(self, state: dict[str, int], delta: dict[str, int]) -> dict[str, int]:
        for text, count in delta.items():
            state[text] = state.get(text, 0) + count
        return self._trim(state)

    def _trim(self, state: dict[str, int]) -> dict[str, int]:
        if len(state) - (OTHER in state) > self.keys_max:
            other = state.pop(OTHER, 0)
            kept = set(nsmallest(self.keys_max, state))
            for text in [text for text in state if text not in kept]:
                other += state.pop(text)
            state[OTHER] = other
        return state

    def copy(self, state: dict[str, int]) -> dict[str, int]:
        return state.copy()

    def result(self, state: dict[str, int]) -> dict[str, int]:
        return dict(sorted(state.items()))

    def dump(self, state: dict[str, int]) -> dict[str, int]:
        return state.copy()

    def load(self, data: dict[str, int]) -> dict[str, int]:
        return dict(data)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "keys_max": self.keys_max}
