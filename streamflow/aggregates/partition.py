"""One source partition of an aggregate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from streamflow.aggregates.closed_rows import revised_record, session_records
from streamflow.aggregates.fold import AggregateConsumer
from streamflow.aggregates.revisions import Revisions
from streamflow.aggregates.row_values import State
from streamflow.aggregates.shuffle.partial import PartialSender
from streamflow.aggregates.shuffle.source_watermarks import SourceWatermarks
from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs import group_key, group_key_value
from streamflow.state.changelog import RowCodec
from streamflow.state.committed import CommittedChanges, apply_cut
from streamflow.state.cut import Cut
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.progress import Progress
from streamflow.transports.base import Record, TopicPartition
from streamflow.windows import SessionWindow, SlidingWindow

Emit = Callable[[AggregateSpec, int, Any, State], Record]
"""(aggregate, window start, group key, state) -> the record of a closed row"""


@dataclass(slots=True)
class AggregatePartition:
    """One source partition of a declared aggregate. ``sender`` is ``None`` where nothing moves.

    ``emit`` makes closed rows, where somebody is told of them.
    """

    aggregate: AggregateConsumer
    part: TablePartition
    progress: Progress
    sender: PartialSender | None
    revisions: Revisions | None  # where there are windows
    emit: Emit | None
    watermarks: SourceWatermarks | None  # that final stages are told, where rows move
    shown_closed_to_ms: int | None = None  # as of the newest durable checkpoint
    closed: list[int] = field(default_factory=list)  # starts that the cut closes

    def parts(self) -> Iterator[TablePartition]:
        """The rows, and the late-event store."""
        yield self.part
        if self.revisions is not None:
            yield self.revisions.late_events.part

    @property
    def expired_to_ms(self) -> int | None:
        """The watermark by which rows go. A partial stays as long as its partition may add to it."""
        return self.progress.watermark_ms if self.sender is None else self.aggregate.passed_ms(self.progress)

    def open(self) -> None:
        """Its rows are whole: from now on its aggregate folds into them."""
        self.aggregate.hold(self.part, None if self.revisions is None else self.revisions.late_events)
        if self.watermarks is not None:
            self.watermarks.hold(self.progress)

    # -- Checkpointable --------------------------------------------------------------------------

    def due(self) -> bool:
        return False  # its progress tells

    def begin_cut(self) -> None:
        self.part.begin_cut(self.expired_to_ms)
        if self.revisions is not None:
            self.revisions.begin_cut()

    def cut(self, cut: Cut) -> None:
        for part in self.parts():
            part.emit(cut)
            part.note_log(self.progress)
        if self.sender is not None:
            before = len(cut.partials)
            self.sender.partials(self.part, cut.partials, self.progress.position)
            if self.watermarks is not None and len(cut.partials) > before:
                self.watermarks.follow_partials()
        self._revise(cut.closed)
        self._close(cut.closed)

    def committed(self, written: Mapping[TopicPartition, int]) -> list[CommittedChanges]:
        expired = {} if self.part.cut is None else self.aggregate.expiring(self.part)
        changes = apply_cut(self.part, written, expired=expired, closed=self.closed)
        self.shown_closed_to_ms = self.progress.closed_to_ms
        if self.revisions is not None:
            apply_cut(self.revisions.late_events.part, written)
            self.revisions.late_events.committed()
        return [changes] if self.sender is None else []

    def _revise(self, records: list[Record]) -> None:
        """Tells of closed rows that the cut changes: all anew where they are owned, else their owner."""
        if self.revisions is None:
            return
        if self.sender is not None:
            self.sender.corrections(self.revisions, records)
        elif self.emit is not None:
            for (start, key), state in self.revisions.revised(self.progress.closed_to_ms):
                records.append(revised_record(self.emit(self.aggregate.spec, start, key, state)))
            closed_to_ms = self.progress.closed_to_ms
            if closed_to_ms is not None:
                for start, key, row in self.aggregate.retold(self.part, closed_to_ms):
                    records.extend(self._told(start, key, row))

    def _told(self, start: int, key: Any, row: Any) -> Iterator[Record]:
        """The records that tell of a row whose window is closed."""
        spec, emit = self.aggregate.spec, self.emit
        assert emit is not None
        if isinstance(spec.window, SessionWindow):
            yield from session_records(partial(emit, spec), key, row, self.aggregate.told(row))
        else:
            yield emit(spec, start, key, row)

    def _close(self, records: list[Record]) -> None:
        """Where rows are owned here: emits what this cut's watermark closes, and notes it in the progress."""
        self.closed = []
        window, watermark_ms = self.aggregate.spec.window, self.progress.watermark_ms
        before_ms, emit = self.progress.closed_to_ms, self.emit
        if window is None or watermark_ms is None or self.sender is not None or watermark_ms == before_ms:
            return
        if emit is None:
            self.closed = self.aggregate.closing_starts(self.part, before_ms, watermark_ms)
        else:
            for start, rows in self.aggregate.closing(self.part, before_ms, watermark_ms):
                self.closed.append(start)
                for key, state in rows.items():
                    records.extend(self._told(start, key, state))
        if self.closed:
            self.progress.close_to(watermark_ms)


def aggregate_table(spec: AggregateSpec, changelog: str, partitions: int) -> TableSpec:
    """The table of a declared aggregate's rows in their source partition.

    Partials are forgotten as soon as their window closes: from then on the owner of the row has them. Of
    sliding windows the panes are kept, and of hopping ones where rows stay.
    """
    paned = spec.window if isinstance(spec.window, SlidingWindow) else spec.hopping_panes
    window: Any = spec.window if paned is None else paned.panes()
    if window is not None and spec.is_shuffled:
        window = replace(window, retain_s=0)
    key_out, key_in = (group_key_value, group_key) if spec.grouped else (None, None)
    codec = RowCodec(
        window,
        key_out=key_out,
        value_out=spec.stored.dump,
        value_in=spec.stored.load,
        **({} if key_in is None else {"key_in": key_in}),
    )
    return TableSpec(spec.name, window, codec, changelog, partitions, store=spec.store)
