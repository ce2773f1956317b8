"""What may be seen from outside: checkpointed rows, and what a checkpoint changed.

Nothing here is ever taken back: a row appears only after the checkpoint that holds it is durable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from streamflow.windows import Window

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

    ``offset`` in its source partition. ``applies``: it can be folded into them after all.
    """

    key: Any
    windows: tuple[tuple[int, int], ...]
    time_ms: int
    behind_ms: int
    offset: int
    applies: bool


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
    ``in = counted + late + filtered + bad + failed + dropped``; ``in`` is every record, also what could not
    be decoded, as `streamflow verify` counts.
    """

    positions: Mapping[int, int]
    lags: Mapping[int, int | None]
    watermark_ms: int | None
    counters: Mapping[str, int] = field(default_factory=dict)


class TableReader(Protocol):
    """One table as the web view, the client and the command line read it.

    ``partitions`` is the number of partitions of the table, ``owned`` those whose rows this worker
    holds and serves now. A row of a key lies in `partition_of` that key.
    """

    name: str
    kind: Literal["agent", "aggregate"]
    window: Window | None
    keyed: bool  # False: one row for each window (``by=None``), its key is ``null``
    partitions: int
    description: Mapping[str, Any]

    @property
    def source_topic(self) -> str: ...

    @property
    def owned(self) -> frozenset[int]: ...

    def parse_key(self, text: str) -> Any:
        """The key that ``text`` of a URL means, by the table's key type. Raises DecodeError."""
        ...

    def parse_key_bytes(self, raw: bytes) -> Any:
        """The key that the topic's key codec reads from ``raw``. Raises DecodeError."""
        ...

    def partition_of(self, key: object) -> int:
        """The partition whose owner holds the rows of this key."""
        ...

    def scattered_partitions(self, key: object) -> tuple[int, ...]:
        """Partitions of this worker that hold rows of ``key`` besides `partition_of` it."""
        ...

    def windows(self, key: object) -> list[Row]:
        """The rows of one key in this worker's partitions, oldest window first."""
        ...

    def get(self, key: object, at_ms: int | None = None) -> Row | None:
        """The newest window's row, or that of the window which holds ``at_ms``."""
        ...

    def rows(self, partition: int) -> Iterator[Row]:
        """Every checkpointed row of one owned partition, in no particular order."""
        ...

    def status(self) -> TableStatus:
        """Asked with every answer: in no time that grows with the table."""
        ...

    def row_count(self) -> int:
        """How many rows this worker serves; may take its time."""
        ...

    def late(self) -> Mapping[int, LateSeen]:
        """Source partition of this worker -> its late-event store; empty for tables that have none."""
        ...


class RowListener(Protocol):
    """Told synchronously, in order, what became visible. Must not block and must not raise."""

    def __call__(self, changes: Iterable[TableChanges]) -> None: ...
