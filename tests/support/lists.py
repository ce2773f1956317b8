"""Every quick way to list rows against the plain one: all rows, filtered and sorted."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from streamflow.query import counting, listing, sliding_rows, sorted_chunks, top_rows
from streamflow.query.key_order import canonical, key_order, key_text
from streamflow.query.reader import TableReaderBase
from streamflow.query.row_query import SORTS, STATES, WINDOW_SORTS, KeyPattern, RowQuery
from streamflow.query.rows import Row
from streamflow.query.value_paths import ValuePath, ValueTest


@contextmanager
def small_bounds(dice: random.Random) -> Iterator[None]:
    """Tables of a few rows count as large ones, or not."""
    names = {
        listing: ("SMALL", "FEW_ROWS", "FEW_WINDOWS", "ROWS_AT_ONCE"),
        sorted_chunks: ("CHUNK", "BLOCK"),
        top_rows: ("KEPT_ROWS",),
    }
    before = [(module, name, getattr(module, name)) for module, of in names.items() for name in of]
    try:
        for module, name, value in before:
            least = 0 if name in ("SMALL", "FEW_ROWS", "FEW_WINDOWS") else 1
            setattr(module, name, dice.choice((least, 2, 3, value)))
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


async def check_lists(reader: TableReaderBase, dice: random.Random, count: int = 4) -> None:
    """``count`` random lists of each partition, page by page, and the windows of random keys."""
    await check_counts(reader, dice)
    for partition in sorted(reader.owned):
        rows = list(reader.rows(partition))
        for _ in range(count):
            query = draw_query(rows, dice, SORTS, windowed=reader.window is not None)
            wanted = query.best(filter(query.wants, rows), None)
            limit = dice.choice((1, 2, 5, 1_000))
            assert await paged(reader, partition, query, limit) == wanted, query
            assert await reader.counted(partition, query) == len(wanted), query
        for key in dice.sample(
            sorted({row.key for row in rows}, key=str), min(2, len({r.key for r in rows}))
        ):
            await check_key(reader, partition, rows, key, dice)


async def check_counts(reader: TableReaderBase, dice: random.Random) -> None:
    """Windows of sliding panes are counted by what has changed, and not as many as there are."""
    before = sliding_rows.FEW_PANES, counting.PANES_AT_ONCE
    sliding_rows.FEW_PANES, counting.PANES_AT_ONCE = 0, dice.choice((1, 3, 100))
    try:
        assert await reader.count_rows() == sum(len(list(reader.rows(p))) for p in reader.owned)
    finally:
        sliding_rows.FEW_PANES, counting.PANES_AT_ONCE = before


async def check_key(
    reader: TableReaderBase, partition: int, rows: list[Row], key: Any, dice: random.Random
) -> None:
    if not reader.keyed or reader.partition_of(key) != partition:
        return
    query = draw_query(rows, dice, WINDOW_SORTS, windowed=reader.window is not None)
    query = replace(query, prefix=None, keys=None, key_from=None, key_to=None, within=None)
    mine = [row for row in rows if row.key == key]
    found = [row async for row in reader.listed_of(key, replace(query, limit=1_000))]
    assert found == query.best(filter(query.wants, mine), None), query
    newest = await reader.find(key)
    assert newest == max(mine, key=lambda row: (row.start_ms or 0, row.end_ms or 0))
    assert newest == reader.get(key)
    row = dice.choice(mine)
    if row.start_ms is not None:
        assert await reader.find(key, row.start_ms) == reader.get(key, row.start_ms)


def draw_query(rows: list[Row], dice: random.Random, sorts: tuple[str, ...], *, windowed: bool) -> RowQuery:
    starts = [row.start_ms for row in rows if row.start_ms is not None]
    texts = [key_text(row.key) for row in rows]
    prefix = dice.choice(texts)[: dice.randint(0, 3)] if texts and dice.random() < 0.4 else None
    bounds = [
        dice.choice(starts) + dice.randint(-2, 2) if windowed and starts and dice.random() < 0.3 else None
        for _ in range(2)
    ]
    query = RowQuery(
        prefix, bounds[0], bounds[1], state=dice.choice(STATES), sort=dice.choice(sorts), limit=None
    )
    if windowed and starts and dice.random() < 0.2:
        query = replace(query, at_ms=dice.choice(starts) + dice.randint(-2, 15))
    if rows and dice.random() < 0.3:
        query = replace(query, key_from=key_order(dice.choice(rows).key))
    if rows and dice.random() < 0.3:
        query = replace(query, key_to=key_order(dice.choice(rows).key))
    if rows and dice.random() < 0.3:
        query = replace(query, keys={canonical(row.key): row.key for row in dice.choices(rows, k=3)})
    if rows and dice.random() < 0.2:
        cut = [
            KeyPattern(text[: dice.randint(0, 3)], dice.random() < 0.7) for text in dice.choices(texts, k=2)
        ]
        query = replace(query, within=frozenset(cut))
    if dice.random() < 0.3:
        query = replace(query, tests=(ValueTest.of(dice.choice(TESTS)),))
    if dice.random() < 0.3:
        by = ValuePath.of(dice.choice(PATHS))
        query = replace(query, sort=dice.choice(("value", "-value")), by=by)
    if dice.random() < 0.2:  # what is kept for the next list
        return RowQuery(sort=dice.choice(("value", "-value")), by=ValuePath.of("value"), limit=None)
    return query


TESTS = ("value > 1", "value", "n >= 2", "n == 1", "value in [1, 2]", "value.nothing != null")
PATHS = ("value", "n", "value.total", "nothing")


async def paged(reader: TableReaderBase, partition: int, query: RowQuery, limit: int) -> list[Row]:
    found: list[Row] = []
    while True:
        page: list[Row] = []
        async for row in reader.listed(partition, replace(query, limit=limit)):
            page.append(row)
            if len(page) > limit:
                break
        found += page[:limit]
        if len(page) <= limit:
            return found
        query = replace(query, after=query.order(page[limit - 1]))
