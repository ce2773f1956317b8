"""What a durable checkpoint did to each partition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamflow.state.partition import TablePartition
from streamflow.state.stores.base import DELETED, MISSING, Rows
from streamflow.transports.base import TopicPartition
from streamflow.windows import SessionWindow
from streamflow.windows.session import first_start


@dataclass(slots=True)
class CommittedChanges:
    """What a durable checkpoint did to one partition of a table, for those who watch it."""

    table: str
    partition: int
    rows: Rows = field(default_factory=dict)
    expired: Mapping[int, list[Any]] = field(default_factory=dict)  # window's id -> keys
    closed: list[int] = field(default_factory=list)
    # Kept rows that are dropped: those that expire, where what is shown is what is kept.
    dropped: Mapping[int, list[Any]] = field(default_factory=dict)
    # Of sessions, whose id does not tell: (id, key) -> where those began that expired; and (id, key, start)
    # of those that have become, or become part of, one with other bounds.
    starts: dict[tuple[int, Any], int] = field(default_factory=dict)
    moved: list[tuple[int, Any, int]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.rows or self.expired or self.closed)


def apply_cut(
    part: TablePartition,
    written: Mapping[TopicPartition, int],
    *,
    expired: Mapping[int, list[Any]] | None = None,
    closed: Iterable[int] = (),
) -> CommittedChanges:
    """The cut is durable: folds it into the checkpointed rows, and tells what that did to them.

    ``written``: for each partition written to the offset behind the last record. ``expired`` are the
    rows that go, where those that are shown are not those that are kept; ``closed`` the windows that the cut
    closed.
    """
    if part.cut is None:  # it was opened while the commit was on its way
        return CommittedChanges(part.spec.name, part.partition, expired=expired or {}, closed=list(closed))
    dropped = {start: list(part.store.window(start)) for start in part.drops}
    rows = {start: rows for start, rows in part.cut.items() if start not in dropped}
    gone = dropped if expired is None else expired
    changes = CommittedChanges(part.spec.name, part.partition, rows, gone, list(closed), dropped)
    if isinstance(part.spec.window, SessionWindow):
        _note_sessions(changes, part, dropped)
    part.fold_cut(written.get((part.spec.changelog, part.partition)))
    return changes


def _note_sessions(changes: CommittedChanges, part: TablePartition, dropped: Mapping[int, list[Any]]) -> None:
    """Where the sessions began that are no more, asked before they go."""
    for end, keys in dropped.items():
        for key in keys:
            changes.starts[end, key] = first_start(part.store.get(end, key))
    for end, of in changes.rows.items():
        for key in of:
            kept = part.store.get(end, key)
            if kept is not MISSING:
                start, now = first_start(kept), of[key]
                if now is DELETED or first_start(now) != start:
                    changes.moved.append((end, key, start))
