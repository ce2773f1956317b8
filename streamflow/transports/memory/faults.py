"""What may go wrong in the memory transport, all of it off by default and drawn from one seeded source.

A fault is something that the contract allows and a real broker does. The ``broken_...`` switches are
not faults: each breaks the contract on purpose, for tests that prove that a rule is needed.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from streamflow.transports.base import Breakable, Commit, Record

# Where `Faults.on_point` is awaited, in the order in which a worker passes them.
POINTS = (
    "join:before",
    "assign:before",
    "assign:after",
    "committed:before",
    "read:before",
    "fetch:before",
    "send:before",
    "send:after",
    "commit:before",
    "commit:writing",
    "commit:written",
    "commit:offsets",
    "commit:decided",
    "revoke:before",
    "revoke:after",
)


class Client(Breakable, Protocol):
    """A `MemoryTransport`, as far as a test does something to it."""

    name: str


Outcome = Literal["done", "aborted", "unknown"]


@dataclass
class Faults:
    """Chances are from 0 to 1, each drawn from ``random`` in the order in which things happen.

    Attributes:
        control_records: each decision leaves a control record in every partition that it wrote.
        gap_chance, gap_max: how often, and by how much, an offset is skipped before a record.
        fetch_records_max: fetches and reads return at most a random 1..max records of a partition, so
            that a reader stops between two records of one commit.
        delay_chance, delay_ms_max: how often, and how long at most, an operation waits at each step.
        visible_ms_max: how long after its decision a commit takes to appear, drawn for each
            partition and for the offsets; in each of them it appears as a whole.
        error_chance: an operation other than a commit raises TransportError, without effect.
        abort_chance: a commit raises CommitAborted, its records written and aborted.
        unknown_chance: a commit raises CommitUnknown; a coin says whether it is done or not, and it
            is decided up to ``undecided_ms_max`` later.
        on_point: awaited at each of `POINTS`; may kill or stall the client, or wait.
        plain_commits: commits are those of a driver without transactions: records are visible as they are
            written, in any order that keeps the partitions' own and the barriers. A crash leaves a part.
            Nothing fences such a driver between its question whether it still may and its write, so here
            nobody loses its partitions in between.
        broken_atomic: a commit's records are visible one by one as they are written.
        broken_fence: says for a commit that it goes through whoever sends it.
        broken_order: puts a commit's records into another order.
    """

    random: random.Random = field(default_factory=lambda: random.Random(0))
    control_records: bool = False
    gap_chance: float = 0.0
    gap_max: int = 3
    fetch_records_max: int | None = None
    delay_chance: float = 0.0
    delay_ms_max: float = 0.0
    visible_ms_max: float = 0.0
    error_chance: float = 0.0
    abort_chance: float = 0.0
    unknown_chance: float = 0.0
    undecided_ms_max: float = 0.0
    on_point: Callable[[Client, str], Awaitable[None]] | None = None
    plain_commits: bool = False
    broken_atomic: bool = False
    broken_fence: Callable[[Commit], bool] | None = None
    broken_order: Callable[[Sequence[Record]], Sequence[Record]] | None = None

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def gap(self) -> int:
        """How many offsets to skip."""
        return self.random.randint(1, self.gap_max) if self.chance(self.gap_chance) else 0

    def delay_ms(self) -> float:
        return self.random.uniform(0, self.delay_ms_max) if self.chance(self.delay_chance) else 0.0

    def visible_ms(self) -> float:
        return self.random.uniform(0, self.visible_ms_max) if self.visible_ms_max else 0.0

    def outcome(self) -> Outcome:
        if self.chance(self.abort_chance):
            return "aborted"
        return "unknown" if self.chance(self.unknown_chance) else "done"
