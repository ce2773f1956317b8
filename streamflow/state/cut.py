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
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamflow.transports.base import Record


@dataclass(slots=True)
class Cut:
    """What one checkpoint writes; within a list in order."""

    effects: list[Record] = field(default_factory=list)
    facts: list[Record] = field(default_factory=list)
    consequences: list[Record] = field(default_factory=list)

    def records(self) -> list[Record]:
        return [*self.effects, *self.facts, *self.consequences]

    def barriers(self) -> tuple[int, int]:
        """`Commit.barriers` of `records`."""
        effects = len(self.effects)
        return effects, effects + len(self.facts)
