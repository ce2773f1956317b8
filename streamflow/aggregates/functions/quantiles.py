"""Quantiles of a field of numbers, by the KLL sketch.

Karnin, Lang and Liberty, "Optimal Quantile Approximation in Streams", FOCS 2016. Written here and not
taken from a library, since those draw the coins of a compaction at random: then a row that is merged on
each read would read otherwise each time, and a restart would decide otherwise than before. Here a
coin is a function of the sketch, so the same partials always give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from streamflow.aggregates.functions.amounts import OfNumbers
from streamflow.aggregates.functions.base import Field, G, columns_by, dumped_int, shown_int
from streamflow.errors import ConfigurationError

K = 256
_WIDTH_MIN = 8
_SHRINK = 2 / 3
_RANKS_APART_MAX = 0.05
"""What two sketches of the same numbers may differ by: over four times the error of one."""


class Kll:
    """A sketch of numbers. ``levels[h]`` holds numbers that stand for ``2 ** h`` each.

    Up to about `K` numbers it has them all. ``coins[h]`` counts the compactions of a level.
    """

    __slots__ = ("coins", "count", "levels")

    def __init__(self, levels: list[list[Any]] | None = None, coins: list[int] | None = None) -> None:
        self.levels: list[list[Any]] = levels or [[]]
        self.coins: list[int] = coins or [0] * len(self.levels)
        self.count = sum(len(level) << height for height, level in enumerate(self.levels))

    def copy(self) -> Kll:
        return Kll([level.copy() for level in self.levels], self.coins.copy())

    def extend(self, numbers: Sequence[Any]) -> None:
        # In portions, so that a compaction sorts a few times `K` numbers and never a whole column.
        for at in range(0, len(numbers), 4 * K):
            portion = numbers[at : at + 4 * K]
            self.levels[0].extend(portion)
            self.count += len(portion)
            self._shrink()

    def merge(self, other: Kll) -> None:
        while len(self.levels) < len(other.levels):
            self.levels.append([])
            self.coins.append(0)
        for height, level in enumerate(other.levels):
            self.levels[height].extend(level)
            self.coins[height] += other.coins[height]
        self.count += other.count
        self._shrink()

    def _room(self, height: int) -> int:
        """How many numbers a level may hold: `K` at the top, two thirds of that below, and so on."""
        return max(_WIDTH_MIN, int(K * _SHRINK ** (len(self.levels) - 1 - height)))

    def _shrink(self) -> None:
        while sum(map(len, self.levels)) > sum(map(self._room, range(len(self.levels)))):
            for height, level in enumerate(self.levels):
                if len(level) > self._room(height):
                    self._compact(height)
                    break

    def _compact(self, height: int) -> None:
        """Every other number of a level goes up, the rest goes; each that stays stands for two."""
        level = sorted(self.levels[height])
        coin = _coin(height, self.coins[height])
        self.coins[height] += 1
        if height + 1 == len(self.levels):
            self.levels.append([])
            self.coins.append(0)
        # Of an odd number one waits where it is, so that the weights still add up to the count.
        odd = [level.pop(-(coin >> 1))] if len(level) % 2 else []
        self.levels[height + 1].extend(level[coin & 1 :: 2])
        self.levels[height] = odd

    def pairs(self) -> list[tuple[Any, int]]:
        """(number, for how many it stands), in order."""
        every: Iterable[tuple[Any, int]] = chain.from_iterable(
            ((number, 1 << height) for number in level) for height, level in enumerate(self.levels)
        )
        # Equal numbers in one order: an int before a float.
        return sorted(every, key=lambda pair: (pair[0], isinstance(pair[0], float)))


def _coin(height: int, turn: int) -> int:
    """Two bits that look drawn at random, and are always the same (the finaliser of MurmurHash3)."""
    mixed = (turn * 0x9E3779B97F4A7C15 + height * 0xD1B54A32D192ED03 + 1) & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 33) * 0xFF51AFD7ED558CCD & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 33) * 0xC4CEB9FE1A85EC53 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 33) & 3


class Quantile(OfNumbers):
    """A quantile of a field of numbers, or several: one of the numbers that were seen.

    ``q`` is between 0 and 1: the answer is the least number such that at least that share of all is not
    greater. Given several, the result is an object with the quantile's text as name. Exact for up to 256
    numbers; beyond, the rank of the answer is off by at most 1.1% of all numbers in 99 of 100 cases.
    null where there are none. State: a `Kll`, about 10 kB.
    """

    name = "quantile"
    approximate = True

    def __init__(self, field: Field, q: float | Sequence[float] = 0.5) -> None:
        super().__init__(field)
        self.scalar = isinstance(q, int | float)
        self.q: tuple[float, ...] = (q,) if isinstance(q, int | float) else tuple(q)
        if not self.q or not all(type(one) in {int, float} and 0 <= one <= 1 for one in self.q):
            raise ConfigurationError(f"Quantile(q={q!r}) must be one or several numbers from 0 to 1")

    def initial(self) -> Kll:
        return Kll()

    def fold(self, state: Kll, value: float | None) -> Kll:
        if value is not None:
            state.extend([_usual(value)])
        return state

    def fold_column(self, groups: Sequence[G], values: Sequence[Any] | None) -> dict[G, Kll]:
        assert values is not None, "Quantile needs a column"
        states: dict[G, Kll] = {}
        for group, column in columns_by(groups, values).items():
            states[group] = state = Kll()
            state.extend([_usual(value) for value in column] if 0 in column else column)
        return states

    def merge(self, state: Kll, delta: Kll) -> Kll:
        state.merge(delta)
        return state

    def copy(self, state: Kll) -> Kll:
        return state.copy()

    def result(self, state: Kll) -> Any:
        found = self._find(state)
        return found[0] if self.scalar else dict(zip(map(str, self.q), found, strict=True))

    def _find(self, state: Kll) -> list[Any]:
        if not state.count:
            return [None] * len(self.q)
        pairs = state.pairs()
        found: list[Any] = []
        for q in self.q:
            left = max(1, -int(-q * state.count // 1))  # rounded up
            for number, weight in pairs:
                left -= weight
                if left <= 0:
                    found.append(_of_equals(pairs, number))
                    break
        return [shown_int(number) if isinstance(number, int) else number for number in found]

    def agrees(self, state: Kll, other: Kll) -> bool:
        if state.count != other.count:
            return False
        if not any(state.coins) and not any(other.coins):  # each has all of its numbers
            return bool(self.result(state) == self.result(other))
        pairs = other.pairs()
        for q, number in zip(self.q, self._find(state), strict=True):
            below = sum(weight for one, weight in pairs if one < number)
            up_to = sum(weight for one, weight in pairs if one <= number)
            apart_max = _RANKS_APART_MAX * other.count
            if below - apart_max > q * other.count or up_to + apart_max < q * other.count:
                return False
        return True

    def dump(self, state: Kll) -> Any:
        levels = [
            [dumped_int(number) if isinstance(number, int) else number for number in level]
            for level in state.levels
        ]
        return [state.coins, levels]

    def load(self, data: Sequence[Any]) -> Kll:
        coins, levels = data
        return Kll(
            [[int(number) if isinstance(number, str) else number for number in level] for level in levels],
            list(coins),
        )

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "q": self.q[0] if self.scalar else list(self.q)}


def _usual(number: float) -> float:
    """0.0 for -0.0."""
    return 0.0 if number == 0 and isinstance(number, float) else number


def _of_equals(pairs: list[tuple[Any, int]], number: float) -> Any:
    """An int where one of those that are equal to it is one, so that no order of events shows."""
    return next((other for other, _ in pairs if other == number and isinstance(other, int)), number)
