"""The records of one checkpoint, in the order in which each must be safe in the log before the next.

In a transaction they appear together and the order across partitions means nothing. Without one a
crash leaves any part of what was on its way, so:

1. *effects*: rows, partials, what was sent, dead letters, closed rows. If they are all that is left,
   their events come again and count a second time.
2. *facts*: how far each consumer has come, what is closed, what was told of. They say that the effects
   need not be made again, so they may stand in the log only when those do.
3. *consequences*: what is right only once the facts hold. A tombstone of an expired row, written before
   them, would leave a row of only those events that come again; the watermark of a source partition would
   close windows that lack them.

Whoever takes part in a checkpoint appends to the list of its kind; the order stands here alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamflow.state.event_context import Sent
from streamflow.transports.base import Record


@dataclass(slots=True)
class Cut:
    """What one checkpoint writes, kind after kind as they stand here; within a kind in order.

    ``now_ms`` is a monotonic time. ``last``: it may be its assignment's last, so nothing is put off.
    """

    now_ms: float = 0.0
    last: bool = False
    # 1. Effects
    rows: list[Record] = field(default_factory=list)
    partials: list[Record] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)  # by agents
    dead_letters: list[Record] = field(default_factory=list)
    closed: list[Record] = field(default_factory=list)  # rows, and what revises them: anew, or at their owner
    # 2. Facts
    declarations: list[Record] = field(default_factory=list)
    closings: list[Record] = field(default_factory=list)  # of final stages, and of what they told
    progress: list[Record] = field(default_factory=list)
    # 3. Consequences
    tombstones: list[Record] = field(default_factory=list)  # of rows that have expired
    watermarks: list[Record] = field(default_factory=list)  # of source partitions, for the final stages
    partial_tombstones: list[Record] = field(default_factory=list)

    @property
    def effects(self) -> list[Record]:
        sent = [record for _, record, _ in self.sent]
        return [*self.rows, *self.partials, *sent, *self.dead_letters, *self.closed]

    @property
    def facts(self) -> list[Record]:
        return [*self.declarations, *self.closings, *self.progress]

    @property
    def consequences(self) -> list[Record]:
        return [*self.tombstones, *self.watermarks, *self.partial_tombstones]

    def records(self) -> list[Record]:
        return [*self.effects, *self.facts, *self.consequences]

    def barriers(self) -> tuple[int, int]:
        """`Commit.barriers` of `records`."""
        effects = len(self.rows) + len(self.partials) + len(self.sent)
        effects += len(self.dead_letters) + len(self.closed)
        return effects, effects + len(self.declarations) + len(self.closings) + len(self.progress)

    def sent_at(self, index: int) -> Sent | None:
        """What an agent sent, that is this one of `records`; ``None`` for all others."""
        place = index - len(self.rows) - len(self.partials)
        return self.sent[place] if 0 <= place < len(self.sent) else None
