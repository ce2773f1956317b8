"""What may be seen from outside: checkpointed rows, and what a checkpoint changed.

Nothing here is ever taken back: a row appears only after the checkpoint that holds it is durable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from streamflow.errors import StreamflowError

State = Literal["open", "closed", "revised"]
Operation = Literal["upsert", "delete", "expire"]


@dataclass(frozen=True, slots=True)
class Row:
    """One key (and window) of a table, as JSON-able values. ``start_ms`` is ``None`` without a window."""

    key: Any
    start_ms: int | None
    end_ms: int | None
    state: State | None
    value: Any
    partition: int


@dataclass(frozen=True, slots=True)
class RowChange:
    """What one checkpoint did to one row; ``row.value`` is ``None`` for ``delete`` and ``expire``."""

    op: Operation
    row: Row


@dataclass(frozen=True, slots=True)
class TableChanges:
    """What one checkpoint (or one reading of a shuffle) changed in one partition of a table.

    ``positions`` is source partition -> next offset to be taken, as of these changes.
    ``watermark_ms`` is ``None`` while no event was seen.
    """

    table: str
    partition: int
    changes: Sequence[RowChange]
    positions: Mapping[int, int]
    watermark_ms: int | None


@dataclass(frozen=True, slots=True)
class LateRow:
    """An event that came too late for ``windows``; ``behind_ms`` after the last of them had closed.

    ``offset`` in its source partition: the one that keeps it, or ``partition`` if it has moved with its row.
    ``applies``: it can be folded into them after all.
    """

    key: Any
    windows: tuple[tuple[int, int], ...]
    time_ms: int
    behind_ms: int
    offset: int
    applies: bool
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class LateSeen:
    """The late events of one source partition, oldest first, and how many ``came``, ``lost``, ``applied``."""

    events: Sequence[LateRow]
    totals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TableStatus:
    """How far the rows that this worker shows have come.

    ``positions`` and ``lags``: source partition -> next offset / records still to be read (``None``
    while unknown). For a table that is fed through a shuffle they cover every source partition.
    ``counters``: of each consumer that feeds it and each source partition of this worker,
    ``in = counted + late + filtered + bad + failed + deferred + dropped``; ``in`` is every record, also what
    could not be decoded, as `streamflow verify` counts.
    """

    positions: Mapping[int, int]
    lags: Mapping[int, int | None]
    watermark_ms: int | None
    counters: Mapping[str, int] = field(default_factory=dict)


class PartitionMoved(StreamflowError):
    """The rows went, or were dropped, while a list read them."""


class RowListener(Protocol):
    """Told synchronously, in order, what became visible. Must not block and must not raise."""

    def __call__(self, changes: Iterable[TableChanges]) -> None: ...
