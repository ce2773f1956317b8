"""Aggregates for which it counts when an event was: the first, the last, and the first so many.

Events are ordered by ``(event time, source partition, offset)``, which no two events share, so that the
answer does not depend on the order in which partitions were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from streamflow.aggregates.functions.base import (
    INT64_MIN,
    SCALARS,
    UINT64_MAX,
    Aggregate,
    Bad,
    Field,
    G,
    Placed,
    checked_field,
    checked_whole,
)

Place = tuple[int, int, int]
"""(event time in ms, source partition, offset)"""
_Collected = tuple[list[Placed], Place | None]


def whole_event(event: object) -> object:
    """The field of an aggregate that is given none: everything."""
    return event


class OfPlaced(Aggregate):
    """What First, Last and Collect share: values of any JSON kind, each with its place.

    Without a field it is the whole event.
    """

    placed = True

    def __init__(self, field: Field | None = None) -> None:
        self.field = whole_event if field is None else checked_field(self, field)

    def check(self, value: object) -> None:
        try:
            json_of(value)
        except (TypeError, ValueError):
            raise self.wrong(value, "must be a JSON value") from None

    def check_column(self, values: Sequence[Any]) -> list[Bad]:
        # HOT PATH: numbers within 64 bits and the like need no look of their own.
        if set(map(type, values)) <= {int, bool, type(None)}:
            return []
        return super().check_column(values)


class _One(OfPlaced):
    """One of the values. State: its `Placed`, or None where there are none."""

    _latest: bool

    def initial(self) -> Placed | None:
        return None

    def fold(self, state: Placed | None, value: Placed) -> Placed | None:
        return self.merge(state, _kept(value)) if value[3] is not None else state

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, Placed | None]:
        assert values is not None, f"{type(self).__name__} needs a column"
        latest = self._latest
        states: dict[G, Placed | None] = {}
        for group, placed in zip(groups, values, strict=True):
            if placed[3] is None:
                states.setdefault(group)
                continue
            state = states.get(group)
            if state is None or (placed[:3] > state[:3]) is latest:
                states[group] = placed
        return {group: None if state is None else _kept(state) for group, state in states.items()}

    def merge(self, state: Placed | None, delta: Placed | None) -> Placed | None:
        if state is None or delta is None:
            return delta if state is None else state
        return delta if (delta[:3] > state[:3]) is self._latest else state

    def result(self, state: Placed | None) -> Any:
        return None if state is None else _shown(state[3])

    def dump(self, state: Placed | None) -> Any:
        return None if state is None else _dumped(state)

    def load(self, data: Sequence[Any] | None) -> Placed | None:
        return None if data is None else _loaded(data)


class First(_One):
    """The value of the earliest event that has one. null where there are none."""

    name = "first"
    _latest = False


class Last(_One):
    """The value of the latest event that has one. null where there are none."""

    name = "last"
    _latest = True


class Collect(OfPlaced):
    """The values in the order of their events: the earliest ``max``, as far as they fit into ``bytes_max``.

    State: ``[placed values in order, place of the earliest one that was left out or None]``. What lies at
    or behind that place is left out by whoever merges, so that the answer is the same in any order.
    """

    name = "collect"

    def __init__(self, field: Field | None = None, *, max: int = 100, bytes_max: int = 262_144) -> None:  # noqa: A002
        super().__init__(field)
        self.max = checked_whole(self, "max", max, 1, 100_000)
        self.bytes_max = checked_whole(self, "bytes_max", bytes_max, 1, 900_000)

    def initial(self) -> _Collected:
        return [], None

    def fold(self, state: _Collected, value: Placed) -> _Collected:
        return self.merge(state, ([_kept(value)] if value[3] is not None else [], None))

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, _Collected]:
        assert values is not None, "Collect needs a column"
        columns: dict[G, list[Placed]] = {}
        for group, placed in zip(groups, values, strict=True):
            column = columns.get(group)
            if column is None:
                column = columns[group] = []
            if placed[3] is not None:
                column.append(placed)
        states: dict[G, _Collected] = {}
        for group, column in columns.items():
            column.sort(key=_place)
            cut = column[self.max][:3] if len(column) > self.max else None
            states[group] = self._fitting([_kept(placed) for placed in column[: self.max]], cut)
        return states

    def merge(self, state: _Collected, delta: _Collected) -> _Collected:
        (items, cut), (more, other) = state, delta
        if other is not None and (cut is None or other < cut):
            cut = other
        if more:
            items = sorted([*items, *more], key=_place)
        if cut is not None:
            items = [placed for placed in items if placed[:3] < cut]
        return self._fitting(items, cut)

    def _fitting(self, items: list[Placed], cut: Place | None) -> _Collected:
        size = 0
        for index, placed in enumerate(items):
            size += len(_encode(placed[3])) + _PLACE_BYTES
            if index == self.max or size > self.bytes_max:
                return items[:index], placed[:3]
        return items, cut

    def copy(self, state: _Collected) -> _Collected:
        return list(state[0]), state[1]

    def result(self, state: _Collected) -> list[Any]:
        return [_shown(placed[3]) for placed in state[0]]

    def dump(self, state: _Collected) -> list[Any]:
        items, cut = state
        return [[_dumped(placed) for placed in items], None if cut is None else list(cut)]

    def load(self, data: Sequence[Any]) -> _Collected:
        items, cut = data
        return [_loaded(item) for item in items], None if cut is None else tuple(cut)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "max": self.max, "bytes_max": self.bytes_max}


def _described(value: object) -> Any:
    """What msgspec does not know: anything that can describe itself."""
    as_dict = getattr(value, "asdict", None)
    if as_dict is None:
        raise TypeError(f"{type(value).__name__} is no JSON value")
    return as_dict()


_encode = msgspec.json.Encoder(enc_hook=_described).encode
_decode = msgspec.json.Decoder().decode
_PLACE_BYTES = 40
"""About what the place of a value costs in a record."""


def json_of(value: object) -> Any:
    """The JSON value that a value is written as. Raises TypeError or ValueError."""
    if type(value) in SCALARS and not isinstance(value, str | float):
        return value
    if isinstance(value, float) and not abs(value) <= 1.8e308:  # NaN fails every comparison
        raise ValueError("no JSON number")
    return _decode(_encode(value))


def _place(placed: Placed) -> Place:
    return placed[:3]


def _kept(placed: Placed) -> Placed:
    """As it is kept in a state: with the JSON value, which nobody else can change."""
    time_ms, partition, offset, value = placed
    return (time_ms, partition, offset, json_of(value))


def _dumped(placed: Placed) -> list[Any]:
    """``[time, partition, offset, value]``, or the value's JSON text in a fifth place: long ints."""
    value = placed[3]
    if _fits(value):
        return [*placed[:3], value]
    return [*placed[:3], None, _encode(value).decode()]


def _loaded(data: Sequence[Any]) -> Placed:
    value = data[3] if len(data) == 4 else _decode(data[4])
    return (data[0], data[1], data[2], value)


def _shown(value: object) -> Any:
    """As people see it: ints beyond 64 bits as floats."""
    return value if _fits(value) else _within(value)


def _fits(value: object) -> bool:
    if isinstance(value, int):
        return INT64_MIN <= value <= UINT64_MAX
    if isinstance(value, dict):
        return all(map(_fits, value.values()))
    return all(map(_fits, value)) if isinstance(value, list) else True


def _within(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _within(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_within(inner) for inner in value]
    if not isinstance(value, int) or _fits(value):
        return value
    try:
        return float(value)
    except OverflowError:
        return str(value)
