"""Rebalances as Faust's users see them: signals, sensors, and tables that have come back."""

from __future__ import annotations

from typing import Any

from faust.types.tuples import TP

from streamflow.app.interface import AppT
from streamflow.app.worker.sensors import Sensors
from streamflow.engine.hooks import AssignmentHooks
from streamflow.transports.base import TopicPartition


class RebalanceSignals(AssignmentHooks):
    """Tells one app. A handler that raises crashes the worker, as in Faust."""

    def __init__(self, app: AppT, sensors: Sensors) -> None:
        self.app = app
        self.batch = sensors.on_batch  # type: ignore[method-assign]
        self.full = sensors.on_full  # type: ignore[method-assign]
        self.committing = sensors.on_committing  # type: ignore[method-assign]
        self.committed = sensors.on_committed  # type: ignore[method-assign]
        self._state: Any = None  # what the sensors gave at the start of the rebalance

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        self._begin()
        await self.app.on_partitions_revoked.send(_tps(partitions))

    async def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        app = self.app
        self._begin()
        app.note_assignment(_tps(partitions))
        await app.on_partitions_assigned.send(_tps(partitions))
        app.sensors.on_rebalance_return(app, self._state)

    async def recovered(self) -> None:
        app = self.app
        for table in app.own_tables:
            for callback in table.recover_callbacks:
                await callback()
        if self._state is not None:
            app.note_recovery()
            app.sensors.on_rebalance_end(app, self._state)
            self._state = None
        await app.on_rebalance_complete.send()

    def waits(self) -> bool:
        return any(table.recover_callbacks for table in self.app.own_tables)

    def _begin(self) -> None:
        app = self.app
        if self._state is None:
            app.note_rebalance()
            self._state = app.sensors.on_rebalance_start(app)


def _tps(partitions: frozenset[TopicPartition]) -> set[TP]:
    return {TP(topic, partition) for topic, partition in partitions}
