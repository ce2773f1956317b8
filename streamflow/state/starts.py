"""The starts of the windows that have rows, in order: nobody has to sort them to find the next one."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator

FEW = 16
"""So many changes are made one by one; more of them are put in order at once."""


class SortedStarts:
    """Starts, each once. Mostly the newest come and the oldest go."""

    __slots__ = ("_order",)

    def __init__(self, starts: Iterable[int] = ()) -> None:
        self._order = sorted(starts)

    def add(self, starts: Collection[int]) -> None:
        """None of them may be there."""
        order = self._order
        if len(starts) <= FEW:
            for start in starts:
                if not order or start > order[-1]:
                    order.append(start)
                else:
                    order.insert(bisect_left(order, start), start)
        else:
            order.extend(starts)
            order.sort()  # two runs in order: they are merged

    def drop(self, starts: Collection[int]) -> None:
        """All of them must be there."""
        if len(starts) <= FEW:
            for start in starts:
                del self._order[bisect_left(self._order, start)]
        else:
            gone = set(starts)
            self._order = [start for start in self._order if start not in gone]

    def first(self) -> int | None:
        return self._order[0] if self._order else None

    def after(self, start: int | None, *, descending: bool = False) -> int | None:
        """The next one behind ``start`` (``None``: the first), or before it, if ``descending``."""
        order = self._order
        if descending:
            at = (len(order) if start is None else bisect_left(order, start)) - 1
            return order[at] if at >= 0 else None
        at = 0 if start is None else bisect_right(order, start)
        return order[at] if at < len(order) else None

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)
