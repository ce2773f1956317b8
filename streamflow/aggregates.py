"""Aggregates: fold events into states, merge states, give results. Pure, and the same in any order.

Contract of every aggregate, which the property tests hold it to:

- A state is a plain value. ``merge`` is commutative and associative, and `initial` is its neutral
  element, so shares of many partitions, restored and fresh ones, may meet in any order.
- `fold_column` of a column, merged, equals `fold` of its values one by one, exactly: floats are added
  without rounding error, and rounded once, in `result`.
- `dump` gives JSON that survives 64-bit JSON libraries, and ``load(dump(state)) == state``.
- null and missing fields are passed over, as in SQL (but are a group of their own for `CountBy`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from fractions import Fraction
from functools import reduce
from heapq import nsmallest
from typing import Any, TypeVar

from streamflow.codecs.canonical import group_key_text
from streamflow.errors import ConfigurationError, DecodeError

Field = str | Callable[[Any], Any]
"""A field path such as ``"data.amount"``, or a function of the event."""
State = Any
G = TypeVar("G", bound=Hashable)

OTHER = "…other"
"""Where `CountBy` counts what it has no room for."""
_KEY_CHARACTERS_MAX = 256
"""What is longer is no kind of event but content; a thousand of these must fit into a record."""
_AMOUNT_MAX = 1e150
"""Numbers beyond are bad input: 10**150 of them may be added before a float could overflow."""
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1

Bad = tuple[int, DecodeError]
"""(index in the column, why the value there can't be folded)"""


class Aggregate(ABC):
    """One aggregate of a declared table. Frozen: states are held by those who fold."""

    name: str
    """The kind, for `describe`."""
    field: Field | None = None

    @abstractmethod
    def initial(self) -> State:
        """The state of no events."""

    @abstractmethod
    def fold(self, state: State, value: Any) -> State:
        """The state with one event more; may change ``state``. ``value`` is that of `field`, else None."""

    @abstractmethod
    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, State]:
        """Group -> fresh state of that group's events. ``values`` is as long as ``groups``, or None."""

    @abstractmethod
    def merge(self, state: State, delta: State) -> State:
        """Both together; may change ``state``, never ``delta``, and keeps nothing of it that is mutable."""

    def copy(self, state: State) -> State:
        """A state that may be changed without changing this one."""
        return state

    def result(self, state: State) -> Any:
        """What people see: a JSON value."""
        return state

    def dump(self, state: State) -> Any:
        """The state as a JSON value."""
        return state

    def load(self, data: Any) -> State:
        """The state of what `dump` wrote, as parsed JSON."""
        return data

    def describe(self) -> dict[str, Any]:
        """JSON description of the declaration, equal iff old states still mean the same."""
        described: dict[str, Any] = {"aggregate": self.name}
        if self.field is not None:
            described["field"] = getattr(self.field, "__qualname__", self.field)
        return described

    def check(self, value: Any) -> None:  # noqa: B027  # every value will do, unless a kind says otherwise
        """Raises DecodeError, with the field named, for a value that can't be folded."""

    def check_column(self, values: Sequence[Any]) -> list[Bad]:
        """What of a column can't be folded, in order; such values must not reach `fold_column`."""
        bad: list[Bad] = []
        for index, value in enumerate(values):
            try:
                self.check(value)
            except DecodeError as exc:
                bad.append((index, exc))
        return bad

    def _wrong(self, value: Any, message: str) -> DecodeError:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:80]}…"
        return DecodeError("wrong-type", f"{message}, not {shown}", field=self._field_name())

    def _field_name(self) -> str | None:
        return self.field if self.field is None or isinstance(self.field, str) else self.field.__qualname__

    def __repr__(self) -> str:
        facts = [f"{key}={value!r}" for key, value in self.describe().items() if key != "aggregate"]
        return f"{type(self).__name__}({', '.join(facts)})"


class Count(Aggregate):
    """How many events. State: an int."""

    name = "count"

    def initial(self) -> int:
        return 0

    def fold(self, state: int, value: Any) -> int:
        return state + 1

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, int]:
        return dict(Counter(groups))

    def merge(self, state: int, delta: int) -> int:
        return state + delta


class CountBy(Aggregate):
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
        self.field = _checked_field(self, field)
        self.keys_max = keys_max

    def check(self, value: Any) -> None:
        try:
            group_key_text(value)
        except (TypeError, UnicodeEncodeError):
            raise self._wrong(value, "must be a JSON value") from None

    def check_column(self, values: Sequence[Any]) -> list[Bad]:
        return [] if set(map(type, values)) <= _SCALARS else super().check_column(values)

    def initial(self) -> dict[str, int]:
        return {}

    def fold(self, state: dict[str, int], value: Any) -> dict[str, int]:
        text = group_key_text(value)
        text = text if len(text) <= _KEY_CHARACTERS_MAX else OTHER
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
            if len(text) > _KEY_CHARACTERS_MAX:
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

    def load(self, data: Any) -> dict[str, int]:
        return dict(data)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "keys_max": self.keys_max}


class _OfNumbers(Aggregate):
    """What all aggregates over a field of numbers share. bool is no number, null is passed over."""

    def __init__(self, field: Field) -> None:
        self.field = _checked_field(self, field)

    def check(self, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(value, "must be a number")
        if not -_AMOUNT_MAX <= value <= _AMOUNT_MAX:  # NaN fails every comparison
            shown = value if isinstance(value, float) else f"an integer of {value.bit_length()} bits"
            raise self._wrong(shown, "must be a number within ±1e150")

    def check_column(self, values: Sequence[Any]) -> list[Bad]:
        # HOT PATH: passes in C over a column in which nothing is wrong.
        kinds = set(map(type, values))
        if type(None) in kinds:
            values_present = [value for value in values if value is not None]
            return super().check_column(values) if self.check_column(values_present) else []
        if not kinds <= _NUMBERS:
            return super().check_column(values)
        if values and not (min(values) >= -_AMOUNT_MAX and max(values) <= _AMOUNT_MAX):
            return super().check_column(values)
        if float in kinds and math.isnan(sum(values)):  # NaN may hide from min and max
            return super().check_column(values)
        return []


class Sum(_OfNumbers):
    """The sum of a field of numbers: an int where all are ints, else the float nearest to the exact sum.

    State: an int, or once a float came ``(sum of the ints, exact sum of the floats)`` where the second
    is a tuple of floats, each the rest's nearest float (see `_exact`). An int beyond 64 bits is shown
    as a float. The sum of nothing is 0.
    """

    name = "sum"

    def initial(self) -> State:
        return 0

    def fold(self, state: State, value: Any) -> State:
        return state if value is None else _added(state, _amount([value]))

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, State]:
        assert values is not None, "Sum needs a column"
        return {group: _amount(column) for group, column in _columns_by(groups, values).items()}

    def merge(self, state: State, delta: State) -> State:
        return state + delta if type(state) is type(delta) is int else _added(state, delta)

    def result(self, state: State) -> int | float:
        if type(state) is int:
            return _shown(state)
        return float(_fraction(state))

    def dump(self, state: State) -> Any:
        if type(state) is int:
            return _dumped_int(state)
        whole, parts = state
        return [_dumped_int(whole), *parts]

    def load(self, data: Any) -> State:
        if isinstance(data, list):
            return int(data[0]), tuple(map(float, data[1:]))
        return int(data)


class Mean(_OfNumbers):
    """The mean of a field of numbers, rounded once, from the exact sum. null where there are none.

    State: ``(sum as in `Sum`, how many)``.
    """

    name = "mean"

    def initial(self) -> State:
        return 0, 0

    def fold(self, state: State, value: Any) -> State:
        return state if value is None else (_added(state[0], _amount([value])), state[1] + 1)

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, State]:
        assert values is not None, "Mean needs a column"
        return {
            group: (_amount(column), len(column)) for group, column in _columns_by(groups, values).items()
        }

    def merge(self, state: State, delta: State) -> State:
        return _added(state[0], delta[0]), state[1] + delta[1]

    def result(self, state: State) -> float | None:
        amount, count = state
        return float(_fraction(amount) / count) if count else None

    def dump(self, state: State) -> Any:
        amount, count = state
        return [count, _SUM.dump(amount)]

    def load(self, data: Any) -> State:
        return _SUM.load(data[1]), int(data[0])


class _Extreme(_OfNumbers):
    """The least or the greatest number. State: the number, or None where there are none.

    Where an int and a float are equal the int stands for both, so that no order of events shows.
    """

    _greatest: bool

    def _pick(self, numbers: Iterable[Any]) -> Any:
        return max(numbers) if self._greatest else min(numbers)

    def initial(self) -> State:
        return None

    def fold(self, state: State, value: Any) -> State:
        return self.merge(state, value)

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, State]:
        assert values is not None, f"{type(self).__name__} needs a column"
        states: dict[G, State] = {}
        for group, column in _columns_by(groups, values).items():
            if len(set(map(type, column))) > 1:
                states[group] = reduce(self.merge, column)
            else:
                states[group] = self._pick(column) if column else None
        return states

    def merge(self, state: State, delta: State) -> State:
        if state is None or delta is None:
            return delta if state is None else state
        if state == delta:
            return state if isinstance(state, int) else delta
        return self._pick((state, delta))

    def result(self, state: State) -> int | float | None:
        return _shown(state) if isinstance(state, int) else state

    def dump(self, state: State) -> Any:
        return _dumped_int(state) if isinstance(state, int) else state

    def load(self, data: Any) -> State:
        return int(data) if isinstance(data, str) else data


class Min(_Extreme):
    """The least value of a field of numbers. null where there are none."""

    name = "min"
    _greatest = False


class Max(_Extreme):
    """The greatest value of a field of numbers. null where there are none."""

    name = "max"
    _greatest = True


def _checked_field(aggregate: Aggregate, field: Field) -> Field:
    if all(field.split(".")) if isinstance(field, str) else callable(field):
        return field
    raise ConfigurationError(f"{type(aggregate).__name__}({field!r}): a field path or a function is needed")


def _columns_by(groups: Sequence[G], values: Sequence[Any]) -> dict[G, list[Any]]:
    """Group -> its values in order, null left out; every group is there, be it empty."""
    columns: defaultdict[G, list[Any]] = defaultdict(list)
    if None in values:
        for group, value in zip(groups, values, strict=True):
            column = columns[group]
            if value is not None:
                column.append(value)
    else:
        for group, value in zip(groups, values, strict=True):
            columns[group].append(value)
    return columns


# Exact sums. An amount is an int, or (int, parts): the sum of an int and of floats. ``parts`` are the
# exact sum of those floats as its nearest float, the nearest float of what is left, and so on until
# nothing is left. So equal sums have equal parts, whatever they were added up from, and mostly there
# are one or two. `math.fsum` rounds correctly (Shewchuk, "Adaptive Precision Floating-Point
# Arithmetic", 1997), so what it leaves is again a sum of floats.


def _exact(floats: list[float]) -> tuple[float, ...]:
    parts: list[float] = []
    while part := math.fsum(floats):
        parts.append(part)
        floats = [*floats, -part]
    return tuple(parts)


def _amount(column: Sequence[int | float]) -> State:
    kinds = set(map(type, column))
    if float not in kinds:
        return sum(column)
    if len(kinds) == 1:
        return 0, _exact(list(column))
    whole = sum(value for value in column if isinstance(value, int))
    return whole, _exact([value for value in column if isinstance(value, float)])


def _added(amount: State, delta: State) -> State:
    if type(amount) is type(delta) is int:
        return amount + delta
    whole, parts = (amount, ()) if type(amount) is int else amount
    delta_whole, delta_parts = (delta, ()) if type(delta) is int else delta
    if not parts or not delta_parts:
        return whole + delta_whole, parts or delta_parts
    return whole + delta_whole, _exact([*parts, *delta_parts])


def _fraction(amount: State) -> Fraction:
    whole, parts = (amount, ()) if type(amount) is int else amount
    return sum(map(Fraction, parts), Fraction(whole))


def _shown(number: int) -> int | float:
    """An int beyond 64 bits as a float: hardly any JSON reader would take it."""
    return number if _INT64_MIN <= number <= _UINT64_MAX else float(number)


def _dumped_int(number: int) -> int | str:
    return number if _INT64_MIN <= number <= _UINT64_MAX else str(number)


_NUMBERS = {int, float}
_SCALARS = {int, float, str, bool, type(None)}
_SUM = Sum("amount")
