"""Who is told of what an engine does: hooks, which it waits for, and listeners, which must not block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streamflow.aggregates.shuffle.final import FinalStage, RowId
from streamflow.state.committed import CommittedChanges
from streamflow.transports.base import Batch, TopicPartition


class AssignmentHooks:
    """Told, and waited for, when partitions come and go. What it raises ends the engine."""

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """After the last checkpoint of an assignment; not when the engine stops."""

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Before the tables of a new assignment are restored."""

    async def recovered(self) -> None:
        """The tables are back; where `waits` says so the agents have not begun yet."""

    def waits(self) -> bool:
        """Must agents wait until `recovered` was told? Else each partition begins with its own tables."""
        return type(self).recovered is not AssignmentHooks.recovered

    def batch(self, batch: Batch) -> None:
        """What was fetched, before it is dispatched."""

    def full(self, partition: TopicPartition) -> None:
        """It waits, because an agent's buffer is full."""

    def committing(self) -> None:
        """A checkpoint with something in it begins."""

    def committed(self) -> None:
        """It is durable, and may be shown."""


class EngineListener(Protocol):
    """Whoever shows rows: told, at once, of everything that changes what may be seen."""

    def on_committed(self, changes: Sequence[CommittedChanges]) -> None:
        """A checkpoint is durable, and this is what it made visible."""
        ...

    def on_stage(self, stage: FinalStage, changed: list[RowId]) -> None:
        """Reading its shuffle has changed these rows of a final stage that is ready."""
        ...

    def on_active(self) -> None:
        """All rows have gone, or rows of partitions have come back."""
        ...


class EngineListeners:
    """All of an engine's listeners as one, in the order in which they came."""

    def __init__(self) -> None:
        self._listeners: list[EngineListener] = []

    def add(self, listener: EngineListener) -> None:
        self._listeners.append(listener)

    def on_committed(self, changes: Sequence[CommittedChanges]) -> None:
        for listener in self._listeners:
            listener.on_committed(changes)

    def on_stage(self, stage: FinalStage, changed: list[RowId]) -> None:
        for listener in self._listeners:
            listener.on_stage(stage, changed)

    def on_active(self) -> None:
        for listener in self._listeners:
            listener.on_active()
