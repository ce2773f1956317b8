"""What a verification found: counters by partition, and the rows that differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from streamflow.errors import StreamflowError
from streamflow.state.progress import OUTCOMES

DIFFERENCES_MAX = 100


class VerifyError(StreamflowError):
    """The table can't be recounted; the message says why."""


@dataclass(slots=True)
class PartitionCount:
    """One source partition: the durable counters, and the recount's. ``position``: how far both go.

    ``agent``: whose counters these are, of a table in Faust's form; ``retry_topic``: where, if not in the
    source topic.
    """

    partition: int
    position: int
    counters: dict[str, int]
    recounted: dict[str, int]
    agent: str | None = None
    retry_topic: str | None = None

    @property
    def adds_up(self) -> bool:
        return self.counters.get("in", 0) == sum(self.counters.get(name, 0) for name in OUTCOMES)

    @property
    def same(self) -> bool:
        names = ("in", *OUTCOMES)
        return all(self.counters.get(name, 0) == self.recounted.get(name, 0) for name in names)


@dataclass(slots=True)
class Difference:
    """A row that the table and the recount show differently; ``None``: it is not there."""

    key: Any
    window: tuple[str, str] | None
    table: Any
    recount: Any


@dataclass(slots=True)
class Report:
    """What came of it. ``differing`` counts all differences, ``differences`` holds the first of them."""

    table: str
    partitions: list[PartitionCount] = field(default_factory=list)
    rows: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows_compared: bool = True

    def compared(self, rows: int) -> None:
        """So many rows more were compared."""
        self.rows += rows

    def differs(self, make: Callable[[], Difference]) -> None:
        """A row differs; how, is only asked for the first ones."""
        self.differing += 1
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(make())

    @property
    def ok(self) -> bool:
        return not self.differing and all(count.adds_up and count.same for count in self.partitions)
