"""One source partition of an aggregate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from streamflow.aggregates.closed_rows import revised_record
from streamflow.aggregates.fold import AggregateConsumer
from streamflow.aggregates.revisions import Revisions
from streamflow.aggregates.row_values import State
from streamflow.aggregates.shuffle.partial import PartialSender
from streamflow.aggregates.spec import AggregateSpec
from streamflow.codecs import group_key, group_key_value
from streamflow.state.changelog import RowCodec
from streamflow.state.partition import TablePartition, TableSpec
from streamflow.state.progress import Progress
from streamflow.transports.base import Record
from streamflow.windows import SlidingWindow

Emit = Callable[[AggregateSpec, int, Any, State], Record]
"""(aggregate, window start, group key, state) -> the record of a closed row"""


@dataclass(slots=True)
class AggregatePartition:
    """One source partition of a declared aggregate. ``sender`` is ``None`` where nothing moves."""

    aggregate: AggregateConsumer
    part: TablePartition
    progress: Progress
    sender: PartialSender | None
    late: Revisions | None = None  # where there are windows
    shown_closed_to_ms: int | None = None  # as of the newest durable checkpoint
    closed: list[int] = field(default_factory=list)  # starts that the cut closes

    def parts(self) -> Iterator[TablePartition]:
        """The rows, and the late-event store."""
        yield self.part
        if self.late is not None:
            yield self.late.late_store.part

    def revise(self, emit: Emit | None, records: list[Record]) -> None:
        """Tells of closed rows that the cut changes: all anew where they are owned, else their owner."""
        if self.late is None:
            return
        if self.sender is not None:
            self.sender.corrections(self.late, records)
        elif emit is not None:
            for (start, key), state in self.late.revised(self.progress.closed_to_ms):
                records.append(revised_record(emit(self.aggregate.spec, start, key, state)))

    def close(self, emit: Emit | None, records: list[Record]) -> None:
        """Where rows are owned here: emits what this cut's watermark closes, and notes it in the progress."""
        self.closed = []
        window, watermark_ms = self.aggregate.spec.window, self.progress.watermark_ms
        before_ms = self.progress.closed_to_ms
        if window is None or watermark_ms is None or self.sender is not None or watermark_ms == before_ms:
            return
        for start, rows in self.aggregate.closing(self.part, before_ms, watermark_ms):
            self.closed.append(start)
            if emit is not None:
                records.extend(emit(self.aggregate.spec, start, key, state) for key, state in rows.items())
        if self.closed:
            self.progress.close_to(watermark_ms)


def aggregate_table(spec: AggregateSpec, changelog: str, partitions: int) -> TableSpec:
    """The table of a declared aggregate's rows in their source partition.

    Partials are forgotten as soon as their window closes: from then on the owner of the row has them. Of
    sliding windows the panes are kept.
    """
    window: Any = spec.window.panes() if isinstance(spec.window, SlidingWindow) else spec.window
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
