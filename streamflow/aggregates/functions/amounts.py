"""Aggregates over a field of numbers. Sums are exact, and rounded once, when they are shown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import reduce
from typing import Any

from streamflow.aggregates.functions.base import (
    Aggregate,
    Bad,
    Field,
    G,
    checked_field,
    columns_by,
    dumped_int,
    shown_int,
)
from streamflow.aggregates.functions.exact import (
    Amount,
    DumpedAmount,
    added,
    amount_of,
    dump_amount,
    fraction_of,
    load_amount,
)

AMOUNT_MAX = 1e150
"""Numbers beyond are bad input: 10**150 of them may be added before a float could overflow."""
_NUMBERS = {int, float}
_Number = int | float | None
_Counted = tuple[Amount, int]
_Moments = tuple[Amount, Amount, int]


class OfNumbers(Aggregate):
    """What all aggregates over a field of numbers share. bool is no number, null is passed over."""

    def __init__(self, field: Field) -> None:
        self.field = checked_field(self, field)

    def check(self, value: object) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(value, "must be a number")
        if not -AMOUNT_MAX <= value <= AMOUNT_MAX:  # NaN fails every comparison
            shown = value if isinstance(value, float) else f"an integer of {value.bit_length()} bits"
            raise self.wrong(shown, "must be a number within ±1e150")

    def check_column(self, values: Sequence[Any]) -> list[Bad]:
        # HOT PATH: passes in C over a column in which nothing is wrong.
        kinds = set(map(type, values))
        if type(None) in kinds:
            values_present = [value for value in values if value is not None]
            return super().check_column(values) if self.check_column(values_present) else []
        if not kinds <= _NUMBERS:
            return super().check_column(values)
        if values and not (min(values) >= -AMOUNT_MAX and max(values) <= AMOUNT_MAX):
            return super().check_column(values)
        if float in kinds and math.isnan(sum(values)):  # NaN may hide from min and max
            return super().check_column(values)
        return []


class Sum(OfNumbers):
    """The sum of a field of numbers: an int where all are ints, else the float nearest to the exact sum.

    State: an int, or once a float came ``(sum of the ints, exact sum of the floats)`` where the second
    is a tuple of floats, each the rest's nearest float (see `exact`). An int beyond 64 bits is shown
    as a float. The sum of nothing is 0.
    """

    name = "sum"

    def initial(self) -> Amount:
        return 0

    def fold(self, state: Amount, value: _Number) -> Amount:
        return state if value is None else added(state, amount_of([value]))

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, Amount]:
        assert values is not None, "Sum needs a column"
        return {group: amount_of(column) for group, column in columns_by(groups, values).items()}

    def merge(self, state: Amount, delta: Amount) -> Amount:
        return state + delta if isinstance(state, int) and isinstance(delta, int) else added(state, delta)

    def result(self, state: Amount) -> int | float:
        if isinstance(state, int):
            return shown_int(state)
        return float(fraction_of(state))

    def dump(self, state: Amount) -> DumpedAmount:
        return dump_amount(state)

    def load(self, data: DumpedAmount) -> Amount:
        return load_amount(data)


class Mean(OfNumbers):
    """The mean of a field of numbers, rounded once, from the exact sum. null where there are none.

    _Counted: ``(sum as in `Sum`, how many)``.
    """

    name = "mean"

    def initial(self) -> _Counted:
        return 0, 0

    def fold(self, state: _Counted, value: _Number) -> _Counted:
        return state if value is None else (added(state[0], amount_of([value])), state[1] + 1)

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, _Counted]:
        assert values is not None, "Mean needs a column"
        return {
            group: (amount_of(column), len(column)) for group, column in columns_by(groups, values).items()
        }

    def merge(self, state: _Counted, delta: _Counted) -> _Counted:
        return added(state[0], delta[0]), state[1] + delta[1]

    def result(self, state: _Counted) -> float | None:
        amount, count = state
        return float(fraction_of(amount) / count) if count else None

    def dump(self, state: _Counted) -> list[Any]:
        amount, count = state
        return [count, dump_amount(amount)]

    def load(self, data: list[Any]) -> _Counted:
        return load_amount(data[1]), int(data[0])


class Variance(OfNumbers):
    """The variance of a field of numbers, rounded once, from exact sums: no cancellation, no drift.

    That of a sample (divided by n - 1; null where there are fewer than two), or with ``population`` that
    of all there is (divided by n; null where there are none). _Moments: ``(sum, sum of squares, how many)``,
    the sums as in `Sum`.
    """

    name = "variance"

    def __init__(self, field: Field, *, population: bool = False) -> None:
        super().__init__(field)
        self.population = bool(population)

    def initial(self) -> _Moments:
        return 0, 0, 0

    def fold(self, state: _Moments, value: _Number) -> _Moments:
        return state if value is None else self.merge(state, _moments([value]))

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, _Moments]:
        assert values is not None, "Variance needs a column"
        return {group: _moments(column) for group, column in columns_by(groups, values).items()}

    def merge(self, state: _Moments, delta: _Moments) -> _Moments:
        return added(state[0], delta[0]), added(state[1], delta[1]), state[2] + delta[2]

    def result(self, state: _Moments) -> float | None:
        amount, squares, count = state
        divisor = count if self.population else count - 1
        if divisor < 1:
            return None
        around = fraction_of(squares) - fraction_of(amount) ** 2 / count
        # A square of less than 1e-276 is not exact: what it lacks must not show as less than nothing.
        return float(max(around, Fraction(0)) / divisor)

    def dump(self, state: _Moments) -> list[Any]:
        amount, squares, count = state
        return [count, dump_amount(amount), dump_amount(squares)]

    def load(self, data: list[Any]) -> _Moments:
        return load_amount(data[1]), load_amount(data[2]), int(data[0])

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "population": self.population}


class _Extreme(OfNumbers):
    """The least or the greatest number. _Number: the number, or None where there are none.

    Where an int and a float are equal the int stands for both, and 0.0 for -0.0, so that no order of
    events shows.
    """

    _greatest: bool

    def _pick(self, numbers: Iterable[int | float]) -> int | float:
        return max(numbers) if self._greatest else min(numbers)

    def initial(self) -> _Number:
        return None

    def fold(self, state: _Number, value: _Number) -> _Number:
        return self.merge(state, value)

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, _Number]:
        assert values is not None, f"{type(self).__name__} needs a column"
        states: dict[G, _Number] = {}
        for group, column in columns_by(groups, values).items():
            if len(set(map(type, column))) > 1:
                states[group] = reduce(self.merge, column)
            else:
                states[group] = _unsigned_zero(self._pick(column)) if column else None
        return states

    def merge(self, state: _Number, delta: _Number) -> _Number:
        if state is None or delta is None:
            return _unsigned_zero(delta if state is None else state)
        if state == delta:
            return _unsigned_zero(state if isinstance(state, int) else delta)
        return _unsigned_zero(self._pick((state, delta)))

    def result(self, state: _Number) -> _Number:
        return shown_int(state) if isinstance(state, int) else state

    def dump(self, state: _Number) -> int | float | str | None:
        return dumped_int(state) if isinstance(state, int) else state

    def load(self, data: int | float | str | None) -> _Number:
        return int(data) if isinstance(data, str) else data


class Min(_Extreme):
    """The least value of a field of numbers. null where there are none."""

    name = "min"
    _greatest = False


class Max(_Extreme):
    """The greatest value of a field of numbers. null where there are none."""

    name = "max"
    _greatest = True


def _unsigned_zero(number: _Number) -> _Number:
    return 0.0 if number == 0 and isinstance(number, float) else number


def _moments(column: Sequence[int | float]) -> _Moments:
    squares: list[int | float] = []
    for value in column:
        if isinstance(value, int):
            squares.append(value * value)
        else:
            squares += _square(value)
    return amount_of(column), amount_of(squares) if squares else 0, len(column)


def _square(value: float) -> tuple[float, float]:
    """The square as the sum of two floats (Dekker, 1971): exact for squares of 1e-276 and more.

    What it lacks below that depends on the value alone, so that no order of events shows.
    """
    square = value * value
    split = _SPLITTER * value
    high = split - (split - value)
    low = value - high
    return square, low * low - ((square - high * high) - 2 * high * low)


_SPLITTER = 2.0**27 + 1
