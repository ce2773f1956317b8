"""Late events that are folded into closed windows after all: revisions, exactly once.

Where rows are owned by their source partition, `Revisions` folds a late event into its row. Where they are
put together elsewhere, it keeps all that was applied to a row as a *correction*, which goes to the row's
owner like the partial of one more source partition: number ``-1 - p`` for source partition p, as a whole
state with the number of revisions. The owner (`Corrections`) merges it on read, and tells of the row anew
in the checkpoint that also notes how many revisions it has told of. So a kill at any point loses no
revision and tells of none twice.

What comes in order to a window that only silence had closed (an idle tick) is folded as ever; its row is
noted as revised by a correction that adds nothing, and so is told of in the same way. Which sliding windows
hold an event only the owner of their rows knows: there the correction is of the event's time, and the owner
tells of all closed windows that hold it. Sessions change their bounds with such events, and need more than a
number: see `shuffle.session_stage`, and `Part.told` where rows stay with their source partition.

Late events can be applied to windows that begin at fixed times only (tumbling, hopping): which sliding
windows and sessions there are depends on the events themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from streamflow.aggregates.fold import AggregateConsumer
from streamflow.aggregates.late_events import LateEventStore, RowKey
from streamflow.codecs import json_bytes
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress
from streamflow.state.stores.base import MISSING


class Revisions:
    """The late events of one source partition, and how they come back into rows."""

    def __init__(
        self,
        aggregate: AggregateConsumer,
        part: TablePartition,
        late_events: LateEventStore,
        progress: Progress,
    ) -> None:
        self.late_events = late_events
        self._consumer = aggregate
        self._part = part
        self._progress = progress
        self._expired_to_ms: int | None = None
        self._corrected: list[tuple[RowKey, Sequence[Any]]] = []  # (revisions, dumped state) in the cut

    def apply(self) -> dict[str, int]:
        """Folds every late event into its rows, all of it in the next checkpoint.

        Returns how many were ``applied``; how many were not, since their windows have ``expired`` (they stay
        in the late-event store); and how many can't be (``unsupported``). Synchronous.
        """
        done = {"applied": 0, "expired": 0, "unsupported": 0}
        window, values, spec = self._consumer.spec.window, self._consumer.spec.values, self._consumer.spec
        assert window is not None
        watermark_ms = self._progress.watermark_ms
        for event in list(self.late_events.waiting()):
            if event.state is None:
                done["unsupported"] += 1
                continue
            key = self.late_events.row_of(event.rows[0])[1]
            rows = [(start, key) for start, _ in window.windows_of(event.time_ms)]
            rows = [r for r in rows if watermark_ms is None or not window.expired(r[0], watermark_ms)]
            if not rows:
                done["expired"] += 1
                continue
            for start, key in rows:
                revisions, dumped = self.late_events.correction((start, key)) or (0, None)
                state = values.load(event.state)
                if dumped is not None:
                    state = values.merge(values.load(dumped), state)
                self.late_events.correct((start, key), revisions + 1, values.dump(state))
            if not spec.is_shuffled:
                fresh = partial(values.load, event.state)
                self._consumer.apply_late(self._part, event.time_ms, rows, fresh)
            self.late_events.applied(event)
            done["applied"] += 1
        if done["applied"]:
            self._progress.note("applied", done["applied"])
        return done

    def begin_cut(self) -> None:
        """The late-event store's changes become its cut, without the corrections of rows that expire by it.

        What the cut corrects is told of by the cut all the same: time may leap past a row's retention in the
        very chunk that revised it.
        """
        self._corrected = list(self.late_events.corrections_changed())
        window, watermark_ms = self._consumer.spec.window, self._progress.watermark_ms
        if window is not None and watermark_ms is not None and watermark_ms != self._expired_to_ms:
            self._expired_to_ms = watermark_ms
            rows = {**self.late_events.corrected, **dict(self._corrected)}
            self.late_events.forget([row for row in rows if window.expired(row[0], watermark_ms)])
        self.late_events.part.begin_cut(None)

    def corrections(self) -> Iterator[tuple[RowKey, bytes]]:
        """Row, and the value of the partial that corrects it, of each correction in the cut."""
        for row, data in self._corrected:
            yield row, json_bytes(data)

    def revised(self, closed_to_ms: int | None) -> Iterator[tuple[RowKey, Any]]:
        """Row and state of what the cut revises among windows that were closed before it."""
        window = self._consumer.spec.window
        assert window is not None
        for (start, key), _ in self._corrected:
            if closed_to_ms is None or not window.closed(start, closed_to_ms):
                continue  # the closing itself tells of it
            state = self._consumer.state_in_cut(self._part, start, key)
            if state is not MISSING:
                yield (start, key), state


class Corrections:
    """The owner's side: corrections of the rows of one shuffle partition, and what was told of them."""

    def __init__(self) -> None:
        self._revisions: dict[RowKey, dict[int, int]] = {}  # row -> source -> revisions
        self._announced: dict[RowKey, int] = {}  # row -> revisions that were told of
        self._unannounced: dict[RowKey, None] = {}
        self._announcing: dict[RowKey, int] = {}  # in the checkpoint that is on its way

    def __contains__(self, row: RowKey) -> bool:
        return row in self._revisions

    def _total(self, row: RowKey) -> int:
        return sum(self._revisions.get(row, {}).values())

    def read(self, row: RowKey, source: int, revisions: int) -> None:
        """A correction has come (again)."""
        self._revisions.setdefault(row, {})[source] = revisions
        self._check(row)

    def read_announced(self, row: RowKey, revisions: int | None) -> None:
        """The note of what was told of has come; ``None``: the row has expired."""
        if revisions is None:
            self.forget(row)
        else:
            self._announced[row] = max(revisions, self._announced.get(row, 0))
            self._check(row)

    def _check(self, row: RowKey) -> None:
        if self._total(row) > self._announced.get(row, 0):
            self._unannounced[row] = None
        else:
            self._unannounced.pop(row, None)

    def unannounced(self) -> list[RowKey]:
        """Rows with revisions that nobody was told of, in a fixed order within this worker."""
        return list(self._unannounced)

    def announce(self, row: RowKey) -> int | None:
        """The checkpoint that is being cut tells of a row as it is; returns what to note, if anything."""
        total = self._total(row)
        if not total:
            return None
        self._announcing[row] = total
        return total

    def committed(self) -> None:
        announced, self._announcing = self._announcing, {}
        for row, total in announced.items():
            self.read_announced(row, total)

    def hold(self) -> None:
        """What became of the checkpoint that was on its way is not known: the log tells."""
        self._announcing = {}

    def forget(self, row: RowKey) -> bool:
        """The row has expired; was anything known of it?"""
        known = row in self._announced
        for of in (self._revisions, self._announced, self._unannounced, self._announcing):
            of.pop(row, None)
        return known
