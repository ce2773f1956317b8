"""Aggregates that answer within a stated error from a small state: Apache DataSketches does the work.

Values are told apart as canonical JSON, so that 1, 1.0, true and "1" differ. null is passed over.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Sequence
from typing import Any

from datasketches import (
    frequent_items_error_type,
    frequent_strings_sketch,
    hll_sketch,
    hll_union,
    tgt_hll_type,
)

from streamflow.aggregates.functions.base import (
    KEY_CHARACTERS_MAX,
    OTHER,
    Field,
    G,
    OfJson,
    checked_field,
    checked_whole,
)
from streamflow.codecs.canonical import group_key, group_key_value


def _text(value: object) -> str:
    """A text for each JSON value, never empty: a str behind a quote, anything else as canonical JSON.

    Invariant: no canonical JSON of anything but a text begins with a quote, so none meets another.
    """
    key = group_key(value)
    return f'"{key}' if isinstance(key, str) else key.decode()


def _texts_by(groups: Sequence[G], values: Sequence[Any]) -> dict[tuple[G, str], int]:
    """(group, text) -> how often; each distinct pair is looked at once."""
    # HOT PATH: one pass in C over pairs where all values are texts.
    if set(map(type, values)) == {str}:
        pairs = Counter(zip(groups, values, strict=True))
        return {(group, f'"{value}'): count for (group, value), count in pairs.items()}
    return Counter(
        (group, _text(value)) for group, value in zip(groups, values, strict=True) if value is not None
    )


class ApproxDistinct(OfJson):
    """How many different values of a field there are, by HyperLogLog with ``2 ** precision`` registers.

    Relative standard error 1.04 / sqrt(2 ** precision): 1.6% for the default of 12, which costs 4 KiB for
    each row. Exact up to a few hundred different values. State: a sketch; the same in any order.
    """

    name = "approx_distinct"
    approximate = True

    def __init__(self, field: Field, *, precision: int = 12) -> None:
        self.field = checked_field(self, field)
        self.precision = checked_whole(self, "precision", precision, 7, 18)

    def initial(self) -> hll_sketch:
        return hll_sketch(self.precision, tgt_hll_type.HLL_8)

    def fold(self, state: hll_sketch, value: object) -> hll_sketch:
        if value is not None:
            state.update(_text(value))
        return state

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, hll_sketch]:
        assert values is not None, "ApproxDistinct needs a column"
        states: dict[G, hll_sketch] = {group: self.initial() for group in dict.fromkeys(groups)}
        for group, text in _texts_by(groups, values):
            states[group].update(text)
        return states

    def merge(self, state: hll_sketch, delta: hll_sketch) -> hll_sketch:
        union = hll_union(self.precision)
        union.update(state)
        union.update(delta)
        return union.get_result(tgt_hll_type.HLL_8)

    def copy(self, state: hll_sketch) -> hll_sketch:
        return hll_sketch.deserialize(state.serialize_updatable())

    def result(self, state: hll_sketch) -> int:
        # A sketch that saw its values one by one knows a little more than one that was merged. Merged
        # with itself it has the same registers and forgets that: the answer depends on them alone.
        estimate: float = self.merge(state, state).get_estimate()
        return round(estimate)

    def dump(self, state: hll_sketch) -> str:
        return b64encode(state.serialize_compact()).decode()

    def load(self, data: str) -> hll_sketch:
        return hll_sketch.deserialize(b64decode(data))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "precision": self.precision}


class Frequent:
    """A frequent-items sketch that forgets no error.

    The library's own takes one that holds no text for an empty one, also where it had to drop everything
    that it held: merged or written, that loses how many there were, and its error. So both are kept
    beside it here.
    """

    __slots__ = ("beside", "error", "sketch")

    def __init__(self, counters: int, held: bytes | None = None, error: int = 0, beside: int = 0) -> None:
        self.sketch = (
            frequent_strings_sketch(counters.bit_length() - 1)
            if held is None
            else frequent_strings_sketch.deserialize(held)
        )
        self.error = error  # what was in sketches that held nothing any more: their errors, added up,
        self.beside = beside  # and how many values they had been given

    def merge(self, other: Frequent) -> None:
        self.error += other.error
        self.beside += other.beside
        if other.sketch.is_empty():
            self.error += other.sketch.get_upper_bound("")
            self.beside += other.sketch.total_weight
        else:
            self.sketch.merge(other.sketch)

    def copy(self, counters: int) -> Frequent:
        if not self.sketch.is_empty():
            return Frequent(counters, self.sketch.serialize(), self.error, self.beside)
        copied = Frequent(counters)
        copied.merge(self)
        return copied

    @property
    def count(self) -> int:
        """How many values it was given."""
        return int(self.sketch.total_weight) + self.beside

    def items(self) -> list[tuple[str, int, int]]:
        """(text, least count, greatest count), of all that it holds."""
        found = self.sketch.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES, 0)
        return [(text, low, high + self.error) for text, _, low, high in found]

    def bounds(self, text: str) -> tuple[int, int]:
        """(least count, greatest count) of any text."""
        return self.sketch.get_lower_bound(text), self.sketch.get_upper_bound(text) + self.error


class TopK(OfJson):
    """The ``k`` most frequent values of a field, most frequent first, by the frequent-items sketch.

    ``[{"value": ..., "count": n, "error": e}, ...]``: the true count lies between n - e and n. All is exact
    (e is 0) up to ``0.75 * counters`` different values; beyond, e is at most 3.5 / counters of all events,
    and every value that is more frequent than that is among those counted. Texts over 256 characters
    count together as "…other". Ties are in the order of the values. State: a sketch.
    """

    name = "top_k"
    approximate = True

    def __init__(self, field: Field, k: int = 10, *, counters: int = 1_024) -> None:
        self.field = checked_field(self, field)
        self.counters = checked_whole(self, "counters", counters, 8, 1 << 16)
        if self.counters & (self.counters - 1):
            checked_whole(self, "counters (a power of two)", None, 8, 1 << 16)
        self.k = checked_whole(self, "k", k, 1, self.counters * 3 // 4)

    def initial(self) -> Frequent:
        return Frequent(self.counters)

    def fold(self, state: Frequent, value: object) -> Frequent:
        if value is not None:
            state.sketch.update(_short(_text(value)), 1)
        return state

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, Frequent]:
        assert values is not None, "TopK needs a column"
        states: dict[G, Frequent] = {group: self.initial() for group in dict.fromkeys(groups)}
        for (group, text), count in _texts_by(groups, values).items():
            states[group].sketch.update(_short(text), count)
        return states

    def merge(self, state: Frequent, delta: Frequent) -> Frequent:
        state.merge(delta)
        return state

    def copy(self, state: Frequent) -> Frequent:
        return state.copy(self.counters)

    def result(self, state: Frequent) -> list[dict[str, Any]]:
        found = sorted(state.items(), key=lambda item: (-item[2], item[0]))[: self.k]
        return [{"value": _value(text), "count": high, "error": high - low} for text, low, high in found]

    def agrees(self, state: Frequent, other: Frequent) -> bool:
        if state.count != other.count:
            return False
        for text in {text for of in (state, other) for text, *_ in of.items()}:
            (low, high), (other_low, other_high) = state.bounds(text), other.bounds(text)
            if low > other_high or other_low > high:
                return False
        return True

    def dump(self, state: Frequent) -> Any:
        kept = state.copy(self.counters)
        text = b64encode(kept.sketch.serialize()).decode()
        return [text, kept.error, kept.beside] if kept.beside else text

    def load(self, data: str | list[Any]) -> Frequent:
        if isinstance(data, str):
            data = [data, 0, 0]
        text, error, beside = data
        return Frequent(self.counters, b64decode(text), error, beside)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "k": self.k, "counters": self.counters}


def _short(text: str) -> str:
    return text if len(text) <= KEY_CHARACTERS_MAX else f'"{OTHER}'


def _value(text: str) -> Any:
    value = text[1:] if text.startswith('"') else group_key_value(text.encode())
    return float(value) if isinstance(value, int) and not -(2**63) <= value < 2**64 else value
