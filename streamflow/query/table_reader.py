"""One table as it may be read from outside: what the web takes, and every kind of table offers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from streamflow.query.row_query import RowQuery
from streamflow.query.rows import LateSeen, Row, TableStatus
from streamflow.windows import Window

WantsKey = Callable[[Any], bool]
"""Of the JSON value of a key"""


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
    def is_merged(self) -> bool:
        """Do the rows of one partition come from all source partitions?"""
        ...

    @property
    def is_exact(self) -> bool:
        """Are the rows of this worker exactly those of its positions?

        Those that are merged may be in the middle of a checkpoint, or have it in some partitions only.
        """
        ...

    @property
    def source_topic(self) -> str: ...

    @property
    def value_names(self) -> tuple[str, ...] | None:
        """The names of what a row has several of, where they are declared; empty: a row is one value."""
        ...

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

    async def scattered_partitions(self, key: object) -> tuple[int, ...]:
        """Partitions of this worker that hold rows of ``key`` besides `partition_of` it.

        Raises PartitionMoved.
        """
        ...

    def windows(self, key: object) -> list[Row]:
        """The rows of one key in this worker's partitions, oldest window first; takes its time."""
        ...

    async def find(self, key: object, at_ms: int | None = None) -> Row | None:
        """The newest window's row, or that of the window which holds ``at_ms``. Raises PartitionMoved."""
        ...

    def listed(self, partition: int, query: RowQuery) -> AsyncIterator[Row]:
        """The rows of one owned partition that a list asks for, in its order, its limit aside.

        As many as are taken cost something. Raises PartitionMoved.
        """
        ...

    def listed_of(self, key: object, query: RowQuery) -> AsyncIterator[Row]:
        """The same of the rows of one key, by their windows."""
        ...

    def rows(self, partition: int, wants_key: WantsKey | None = None) -> Iterator[Row]:
        """Every checkpointed row of one owned partition, or those of some keys, in no particular order."""
        ...

    def sliced(self, partition: int, wants_key: WantsKey | None = None) -> AsyncIterator[list[Row]]:
        """The same in slices: each list is of one moment, and between two others may work.

        A row that changes meanwhile is there as it was or as it is. Raises PartitionMoved.
        """
        ...

    def status(self) -> TableStatus:
        """Asked with every answer: in no time that grows with the table."""
        ...

    async def counted(self, partition: int, query: RowQuery) -> int:
        """How many rows of one owned partition a list asks for, its limit aside. Raises PartitionMoved."""
        ...

    async def counted_of(self, key: object, query: RowQuery) -> int:
        """The same of the rows of one key."""
        ...

    def row_count(self) -> int:
        """How many rows this worker serves; as `count_rows` found it last where that takes its time."""
        ...

    async def count_rows(self) -> int:
        """`row_count`, as it is now."""
        ...

    def late(self) -> Mapping[int, LateSeen]:
        """Source partition of this worker -> its late-event store; empty for tables that have none."""
        ...


class StandbyReader(TableReader, Protocol):
    """What a worker keeps of a table's partitions without serving them: ``owned`` are those.

    Their rows are committed ones, and may be old.
    """

    def age_ms(self, partition: int) -> float:
        """How long ago it was last known that nothing was lacking."""
        ...

    def positions(self, partition: int | None = None) -> dict[int, int]:
        """Source partition -> the next offset that is not in its rows yet, where that is known."""
        ...

    async def look(self, partitions: Iterable[int]) -> None:
        """Finds out what `lags_of` tells of these."""
        ...

    def lags_of(self, partition: int) -> dict[int, int | None]:
        """Source partition -> records of it that are not in its rows yet, ``None`` where nobody knows."""
        ...
