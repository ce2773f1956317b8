"""All rows of a partition whose windows are made of panes, to be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from streamflow.aggregates.row_values import State
from streamflow.aggregates.windowed_fold import HoppingPanesConsumer, SlidingConsumer
from streamflow.state.hopping_panes import HoppingRows
from streamflow.state.panes import SlidingRows
from streamflow.state.partition import TablePartition

RowId = tuple[int, Any]


def rows_of_panes(
    consumer: SlidingConsumer | HoppingPanesConsumer, part: TablePartition, applied: Mapping[RowId, State]
) -> Iterator[tuple[RowId, State]]:
    """(window's start, kept key) -> merged state of every row, with what was ``applied`` to a row besides."""
    rows: SlidingRows[Any] | HoppingRows
    if isinstance(consumer, SlidingConsumer):
        part.forget_index()
        rows = consumer.rows(part, durable=True)
    else:
        rows = consumer.rows(part)
    made = {(start, key): None for start in rows.starts() for key in rows.groups_at(start)}
    for start, key in {**made, **applied}:
        states = rows.states(start, key)
        if (start, key) in applied:
            states.append(applied[start, key])
        yield (start, key), consumer.spec.values.merge_all(states)
