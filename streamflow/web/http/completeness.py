"""How far the rows of an answer have come, and what is missing of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamflow.clock import Clock
from streamflow.query.row_query import RowQuery
from streamflow.query.rows import Row
from streamflow.query.slices import Slices
from streamflow.query.table_reader import StandbyReader, TableReader
from streamflow.query.value_paths import NOTHING, ValuePath
from streamflow.web import cursors, encoding
from streamflow.web.query import Asked

ROWS_AT_ONCE = 64  # rows between two looks at the clock
UNUSABLE = (KeyError, ValueError, TypeError, AttributeError, IndexError)
"""What reading an answer raises when it is not a worker's."""


@dataclass(slots=True)
class Completeness:
    """Of all workers that have answered together.

    ``stale``: table partition that a standby answered for -> what it says of itself; ``None``: nobody asked
    for stale rows. ``pinned``: everything was read at one position, and that is the one of the cursor, if
    there was one.
    """

    positions: list[Mapping[int, int]] = field(default_factory=list)  # one for each worker that answered
    lags: list[Mapping[int, int | None]] = field(default_factory=list)
    missing: set[int] = field(default_factory=set)  # table partitions
    stale: dict[int, Any] | None = None
    pinned: bool = True
    has_more: bool = False  # a peer's page was full
    _local: Mapping[int, int] | None = None  # our own positions before anything was read

    @classmethod
    def of(cls, asked: Asked) -> Completeness:
        return cls(stale={} if asked.stale else None)

    def add_local(self, reader: TableReader) -> None:
        """To be told before rows are read: they may be newer than the position says, never older."""
        status = reader.status()
        self._local = dict(status.positions)
        self.positions.append(status.positions)
        self.lags.append(status.lags)

    def end_local(self, reader: TableReader, cursor: cursors.Cursor | None) -> None:
        """Behind the last row that was read here."""
        if self._local is None:
            return
        if reader.status().positions != self._local:
            self.pinned = False
        if cursor is not None:
            told = cursor.position
            self.pinned &= told is not None and all(told.get(p) == at for p, at in self._local.items())

    async def add_standby(self, reader: StandbyReader, url: str, partitions: Collection[int]) -> None:
        """What this worker keeps of others' partitions answers for them."""
        if partitions:
            await reader.look(partitions)
        for partition in partitions:
            positions, lags = reader.positions(partition), reader.lags_of(partition)
            self.positions.append(positions)
            self.lags.append(lags)
            note = {
                "worker": url,
                "age_s": round(reader.age_ms(partition) / 1_000, 3),
                "position": encoding.position_object(positions),
                "lag": encoding.lag_object(lags),
            }
            if self.stale is not None:
                self.stale[partition] = note
        self.pinned = False

    def add_peer(self, body: Mapping[str, Any], partitions: frozenset[int]) -> None:
        """Raises KeyError, ValueError, TypeError or AttributeError for what is no answer of a worker.

        ``partitions``: what it was asked for.
        """
        self.positions.append(encoding.position_from(body["position"]))
        self.lags.append({int(partition): lag for partition, lag in body["lag"].items()})
        self.missing.update(partitions & set(map(int, body["missing_partitions"])))
        self.pinned &= body.get("pinned", True) is True
        self.has_more |= body.get("next") is not None
        if self.stale is not None:
            told = {int(partition): note for partition, note in body.get("stale", {}).items()}
            self.stale.update({p: note for p, note in told.items() if p in partitions})

    def found(self, partitions: Collection[int]) -> None:
        """These are not missing after all."""
        self.missing.difference_update(partitions)

    @property
    def position(self) -> dict[int, int]:
        return encoding.least_positions(self.positions)

    def members(self) -> dict[str, Any]:
        """The members that every answer about rows has."""
        stale = {}
        if self.stale is not None:
            stale = {"stale": {str(partition): note for partition, note in sorted(self.stale.items())}}
        return {
            "partial": bool(self.missing),
            "missing_partitions": sorted(self.missing),
            "position": encoding.position_object(self.position),
            "lag": encoding.lag_object(encoding.greatest_lags(self.lags)),
            **stale,
        }


@dataclass(slots=True)
class Page:
    rows: list[Row]
    next: str | None
    completeness: Completeness

    async def body(self, fields: tuple[ValuePath, ...] | None, clock: Clock) -> dict[str, Any]:
        """As JSON-able members, made in slices."""
        rows, slices, whole = [], Slices(clock), self.completeness
        for row in self.rows:
            rows.append(encoding.row_object(with_fields(row, fields)))
            if len(rows) % ROWS_AT_ONCE == 0 and slices.over():
                await slices.rest()
        return {"rows": rows, "next": self.next, **whole.members(), "pinned": whole.pinned}


def page_of(rows: list[Row], query: RowQuery, whole: Completeness) -> Page:
    """``rows`` are in order; one more than the limit tells that there is a next page.

    So does a peer's page that was full, where nobody else had a row to put in.
    """
    if query.limit is None or not rows or (len(rows) <= query.limit and not whole.has_more):
        return Page(rows, None, whole)
    rows = rows[: query.limit]
    return Page(rows, cursors.after(rows[-1], query, whole.position if whole.pinned else None), whole)


def with_fields(row: Row, fields: tuple[ValuePath, ...] | None) -> Row:
    """The row with some members of its value."""
    if fields is None:
        return row
    value = chosen_value(row.value, fields)
    return Row(row.key, row.start_ms, row.end_ms, row.state, value, row.partition)


def chosen_value(value: object, fields: tuple[ValuePath, ...]) -> object:
    """Members of a value by the names that were asked for; those that it lacks are left away."""
    if len(fields) == 1 and not fields[0].rest:
        return value
    found = ((path.text, path.find(value)) for path in fields)
    return {name: each for name, each in found if each is not NOTHING}
