"""What a durable checkpoint did to each partition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamflow.aggregates.shuffle.final import Closing, FinalStage, RowId
from streamflow.aggregates.shuffle.final_windows import SessionFinalStage
from streamflow.state.partition import TablePartition
from streamflow.state.stores.base import DELETED, MISSING, Rows
from streamflow.transports.base import TopicPartition
from streamflow.windows import SessionWindow


@dataclass(slots=True)
class CommittedChanges:
    """What a durable checkpoint did to one partition of a table, for those who watch it."""

    table: str
    partition: int
    rows: Rows = field(default_factory=dict)
    expired: dict[int, list[Any]] = field(default_factory=dict)  # window's id -> keys
    closed: list[int] = field(default_factory=list)
    # Of sessions, whose id does not tell: (id, key) -> where those began that expired; and (id, key, start)
    # of those that have become, or become part of, one with other bounds.
    starts: dict[RowId, int] = field(default_factory=dict)
    moved: list[tuple[int, Any, int]] = field(default_factory=list)


def apply_cut(part: TablePartition, written: Mapping[TopicPartition, int]) -> CommittedChanges:
    if part.cut is None:
        return CommittedChanges(
            part.spec.name, part.partition
        )  # it was opened while the commit was on its way
    expired = {start: list(part.store.window(start)) for start in part.drops}
    rows = {start: rows for start, rows in part.cut.items() if start not in expired}
    changes = CommittedChanges(part.spec.name, part.partition, rows, expired)
    if isinstance(part.spec.window, SessionWindow):
        _note_sessions(changes, part)
    part.fold_cut(written.get((part.spec.changelog, part.partition)))
    return changes


def _note_sessions(changes: CommittedChanges, part: TablePartition) -> None:
    """Where the sessions began that are no more, asked before they go."""
    for end, keys in changes.expired.items():
        for key in keys:
            changes.starts[end, key] = min(p.start for p in part.store.get(end, key))
    for end, of in changes.rows.items():
        for key in of:
            kept = part.store.get(end, key)
            if kept is not MISSING:
                start, now = min(p.start for p in kept), of[key]
                if now is DELETED or min(p.start for p in now) != start:
                    changes.moved.append((end, key, start))


def final_stage_changes(stage: FinalStage, closing: Closing | None) -> CommittedChanges:
    change = CommittedChanges(stage.spec.name, stage.partition)
    if closing is not None:
        change.closed = sorted({start for start, _ in closing.rows})
        change.expired = closing.expired
        stage.forget(closing)
        if isinstance(stage, SessionFinalStage):
            gone = [(end, group) for end, groups in closing.expired.items() for group in groups]
            change.starts = {row: stage.start_of(*row) for row in gone}
    return change
