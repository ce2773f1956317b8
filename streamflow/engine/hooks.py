"""Told when partitions come and go."""

from __future__ import annotations

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
