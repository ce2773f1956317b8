"""Rows of several sources, each in a list's order, as one."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator
from typing import Any

from streamflow.query.row_query import Order, RowQuery
from streamflow.query.rows import Row


async def merged(sources: list[AsyncIterator[Row]], query: RowQuery) -> AsyncIterator[Row]:
    """Merges sources that are each in the query's order."""
    heads: list[tuple[Any, int, Row]] = []  # (order, index of the source, row)

    async def take(index: int) -> None:
        row = await anext(sources[index], None)
        if row is not None:
            order = Reversed(query.order(row)) if query.descending else query.order(row)
            heapq.heappush(heads, (order, index, row))

    for index in range(len(sources)):
        await take(index)
    while heads:
        _, index, row = heapq.heappop(heads)
        yield row
        await take(index)


class Reversed:
    """Compares the other way round, for a heap whose greatest comes first."""

    __slots__ = ("order",)

    def __init__(self, order: Order) -> None:
        self.order = order

    def __lt__(self, other: Reversed) -> bool:
        return bool(other.order < self.order)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reversed) and bool(other.order == self.order)

    def __hash__(self) -> int:
        return hash(self.order)
