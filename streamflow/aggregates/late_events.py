"""The late-event store: what came too late for every window that it belongs to, kept until somebody decides.

One store for each source partition of a declared table. It is a table partition of its own, so that it is
part of every checkpoint, survives kills and moves, and is bounded: a ring of `EVENTS_MAX` places in the
compacted topic ``<app>-<table>-late``. Its rows:

- a number -> a late event (see `LateEvent`), in the place ``number % EVENTS_MAX``;
- ``"state"`` -> how many came, how many were pushed out by later ones, how many were applied;
- ``["row", changelog key of a row]`` -> a *correction*: all that was applied to that row, as a whole state,
  with the number of revisions. It goes when the row's window expires.

Applying is part of a checkpoint like everything else: the event leaves the late-event store in the commit in
which its row changes, so it counts exactly once, whoever is killed when.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamflow.aggregates.row_values import RowFunctions
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.stores.base import DELETED, MISSING, NO_WINDOW, Store

EVENTS_MAX = 1_000
"""Late events kept for each partition of a table."""
_STATE = "state"
_ROW = "row"

RowKey = tuple[int, Any]
"""(window start, key as the table keeps it)"""


@dataclass(frozen=True, slots=True)
class LateEvent:
    """An event that came too late. ``behind_ms``: by how much its newest window had closed before it.

    ``rows`` are changelog keys of rows that it belongs to: the first at least; ``state`` is the dumped
    state of it alone, ``None`` where it can't be applied. ``offset`` is in the store's own source partition,
    or in ``partition``, where the event has moved with its row (see `engine.growth`).
    """

    number: int
    time_ms: int
    behind_ms: int
    offset: int
    rows: tuple[str, ...]
    state: Any
    partition: int | None = None

    def dump(self) -> list[Any]:
        data = [self.number, self.time_ms, self.behind_ms, self.offset, list(self.rows), self.state]
        return data if self.partition is None else [*data, self.partition]

    @staticmethod
    def load(data: Sequence[Any]) -> LateEvent:
        number, time_ms, behind_ms, offset, rows, state, *moved = data
        return LateEvent(number, time_ms, behind_ms, offset, tuple(rows), state, *moved)


@dataclass(frozen=True, slots=True)
class Late:
    """A late event before it has its place in a store."""

    time_ms: int
    behind_ms: int
    offset: int
    rows: tuple[RowKey, ...]
    state: Any


def late_event_name(table: str) -> str:
    """The name of the late-event store's own table, which no user's table can have."""
    return f"{table}:late"


def late_event_table(table: str, topic: str, partitions: int) -> TableSpec:
    """``topic`` is the compacted one of ``table``'s late-event stores."""
    return TableSpec(late_event_name(table), None, RowCodec(None), topic, partitions)


class LateEventStore:
    """The late events of one partition. ``codec`` is that of the table that they are late for."""

    def __init__(self, spec: TableSpec, partition: int, store: Store, codec: RowCodec) -> None:
        self.part = TablePartition(spec, partition, store)
        self._codec = codec
        self._corrected: dict[RowKey, int] | None = None  # row -> revisions, as checkpointed

    # -- rows of the late-event store --------------------------------------------------------------------

    def _text(self, row: RowKey) -> str:
        return self._codec.encode_keys(row[0], [row[1]])[0].decode()

    def row_of(self, text: str) -> RowKey:
        return self._codec.decode_key(text.encode())

    def _state(self) -> tuple[int, int, int]:
        found = self.part.get(NO_WINDOW, _STATE)
        return (0, 0, 0) if found is MISSING else tuple(found)

    def _put(self, key: Hashable, value: object) -> None:
        self.part.changes.setdefault(NO_WINDOW, {})[key] = value

    # -- what comes too late -------------------------------------------------------------------

    def add(self, late: Sequence[Late], skipped: int = 0) -> None:
        """Takes late events, in order. ``skipped`` more came before `EVENTS_MAX` of them: they are lost."""
        assert not skipped or len(late) == EVENTS_MAX, "these take every place, so nothing older stays"
        came, lost, applied = self._state()
        came += skipped
        lost += skipped
        for one in late:
            place = came % EVENTS_MAX
            lost += self.part.get(NO_WINDOW, place) is not MISSING
            rows = tuple(map(self._text, one.rows))
            event = LateEvent(came, one.time_ms, one.behind_ms, one.offset, rows, one.state)
            self._put(place, event.dump())
            came += 1
        self._put(_STATE, [came, lost, applied])

    def _at(self, place: int) -> LateEvent | None:
        found = self.part.get(NO_WINDOW, place)
        return None if found is MISSING else LateEvent.load(found)

    def events(self) -> list[LateEvent]:
        """The late events that are checkpointed, in the order in which they came."""
        rows = self.part.store.window(NO_WINDOW)
        return sorted(
            (LateEvent.load(data) for place, data in rows.items() if isinstance(place, int)),
            key=lambda event: event.number,
        )

    def totals(self) -> dict[str, int]:
        """Checkpointed: how many ``came``, how many were ``lost`` for later ones, how many ``applied``."""
        found = self.part.store.window(NO_WINDOW).get(_STATE, (0, 0, 0))
        return dict(zip(("came", "lost", "applied"), found, strict=True))

    # -- applying ------------------------------------------------------------------------------

    def waiting(self) -> Iterator[LateEvent]:
        """The late events that are here now, checkpointed or not, in the order in which they came."""
        found = (self._at(place) for place in range(EVENTS_MAX))
        yield from sorted((event for event in found if event is not None), key=lambda event: event.number)

    def applied(self, event: LateEvent) -> None:
        """It has been folded into its rows: it leaves with the checkpoint that makes them durable."""
        came, lost, applied = self._state()
        self._put(event.number % EVENTS_MAX, DELETED)
        self._put(_STATE, [came, lost, applied + 1])

    def correction(self, row: RowKey) -> tuple[int, Any] | None:
        """(revisions so far, dumped state of all that was applied to a row); ``None``: nothing was."""
        found = self.part.get(NO_WINDOW, (_ROW, self._text(row)))
        return None if found is MISSING else (found[0], found[1])

    def correct(self, row: RowKey, revisions: int, state: object) -> None:
        """Sets a row's correction, as a whole state."""
        self._put((_ROW, self._text(row)), [revisions, state])

    def note_revised(self, row: RowKey, values: RowFunctions) -> None:
        """A row that was closed takes more events by itself: one revision more, and nothing to add to it."""
        revisions, dumped = self.correction(row) or (0, values.dump(values.initial()))
        self.correct(row, revisions + 1, dumped)

    def note_revised_pane(self, time_ms: int, key: Any, after_ms: int | None, values: RowFunctions) -> None:
        """The same where only the row's owner knows which sliding windows hold a time.

        Those are revised that end behind ``after_ms`` (``None``: all). The correction is a pane of no events,
        with the least of these bounds.
        """
        revisions, panes = self.correction((time_ms, key)) or (0, [])
        known = [after for after, _ in panes]
        least = None if after_ms is None or None in known else min([after_ms, *known])
        self.correct((time_ms, key), revisions + 1, [[least, values.dump(values.initial())]])

    def forget(self, rows: Iterable[RowKey]) -> None:
        """These rows have expired."""
        for row in rows:
            self._put((_ROW, self._text(row)), DELETED)

    # -- what is durable -----------------------------------------------------------------------

    @property
    def corrected(self) -> dict[RowKey, int]:
        """Rows with a correction -> their revisions, as checkpointed."""
        if self._corrected is None:
            rows = self.part.store.window(NO_WINDOW)
            self._corrected = {
                self.row_of(key[1]): data[0] for key, data in rows.items() if isinstance(key, tuple)
            }
        return self._corrected

    def corrections_changed(self) -> Iterator[tuple[RowKey, Sequence[Any]]]:
        """Row, and (revisions, dumped state), of each correction that the next cut changes."""
        for key, data in self.part.changes.get(NO_WINDOW, {}).items():
            if isinstance(key, tuple) and data is not DELETED:
                yield self.row_of(key[1]), data

    def committed(self) -> None:
        """The cut has become durable."""
        self._corrected = None
