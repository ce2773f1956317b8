"""What takes part in a checkpoint: agents, tables, partitions of aggregates, final stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from streamflow.state.committed import CommittedChanges
from streamflow.state.cut import Cut
from streamflow.transports.base import TopicPartition


class Checkpointable(Protocol):
    """A part of what an assignment holds.

    A checkpoint asks all of them one question after the other, agents first: `begin_cut` of all, then `cut`
    of all, in one synchronous step; and, when what they wrote is durable, `committed` of all. A cut whose
    checkpoint came to nothing is dropped with all that is held.
    """

    def due(self) -> bool:
        """Is there anything that a checkpoint would make durable?"""
        ...

    def begin_cut(self) -> None:
        """Takes what is to be durable; what is written from here on belongs to the next cut."""
        ...

    def cut(self, cut: Cut) -> None:
        """Appends its records."""
        ...

    def committed(self, written: Mapping[TopicPartition, int]) -> Iterable[CommittedChanges]:
        """The cut is durable; returns what became visible.

        ``written``: for each partition written to the offset behind the last record.
        """
        ...
