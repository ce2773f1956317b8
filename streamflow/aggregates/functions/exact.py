"""Sums without rounding error.

An amount is an int, or ``(int, parts)``: the sum of an int and of floats. ``parts`` are the exact sum of
those floats as its nearest float, the nearest float of what is left, and so on until nothing is left.
So equal sums have equal parts, whatever they were added up from, and mostly there are one or two.
`math.fsum` rounds correctly (Shewchuk, "Adaptive Precision Floating-Point Arithmetic", 1997), so what it
leaves is again a sum of floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from streamflow.aggregates.functions.base import dumped_int

Amount = int | tuple[int, tuple[float, ...]]
DumpedAmount = int | str | list[Any]
"""As JSON: an int (as text beyond 64 bits), or the list of it and of the floats."""


def exact(floats: list[float]) -> tuple[float, ...]:
    parts: list[float] = []
    while part := math.fsum(floats):
        parts.append(part)
        floats = [*floats, -part]
    return tuple(parts)


def amount_of(column: Sequence[Any]) -> Amount:
    """The exact sum of ints and floats."""
    kinds = set(map(type, column))
    if float not in kinds:
        whole: int = sum(column)
        return whole
    if len(kinds) == 1:
        return 0, exact(list(column))
    whole = sum(value for value in column if isinstance(value, int))
    return whole, exact([value for value in column if isinstance(value, float)])


def added(amount: Amount, delta: Amount) -> Amount:
    if isinstance(amount, int) and isinstance(delta, int):
        return amount + delta
    whole, parts = (amount, ()) if isinstance(amount, int) else amount
    delta_whole, delta_parts = (delta, ()) if isinstance(delta, int) else delta
    if not parts or not delta_parts:
        return whole + delta_whole, parts or delta_parts
    return whole + delta_whole, exact([*parts, *delta_parts])


def fraction_of(amount: Amount) -> Fraction:
    whole, parts = (amount, ()) if isinstance(amount, int) else amount
    return sum(map(Fraction, parts), Fraction(whole))


def dump_amount(amount: Amount) -> DumpedAmount:
    """The amount as a JSON value that 64-bit JSON libraries keep."""
    if isinstance(amount, int):
        return dumped_int(amount)
    whole, parts = amount
    return [dumped_int(whole), *parts]


def load_amount(data: DumpedAmount) -> Amount:
    """The inverse of `dump_amount`."""
    if isinstance(data, list):
        return int(data[0]), tuple(map(float, data[1:]))
    return int(data)
