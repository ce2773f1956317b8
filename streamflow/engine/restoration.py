"""Brings an assignment to life: built, its tables restored, each partition opened as soon as it is whole.

Partitions with the least to read come first, so those that a rebalance left with this worker serve at once.
What a retry may cure is tried again from where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from streamflow.aggregates.shuffle.final import FinalStage
from streamflow.clock import Clock
from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.assignment_builder import AssignmentBuilder
from streamflow.engine.hooks import AssignmentHooks
from streamflow.engine.partition_task import PartitionTask
from streamflow.engine.trouble import Trouble
from streamflow.errors import TransportError
from streamflow.metrics import Metrics
from streamflow.state.restore import missing, restore
from streamflow.transports.base import Assignment, TopicPartition, Transport

logger = logging.getLogger(__name__)

RETRY_WAIT_MS = 200.0
SAY_EVERY_MS = 5_000.0
AT_ONCE = 4
"""Partitions that are restored side by side: enough to keep the reading busy, few enough to open early."""


class RecoverySteps(NamedTuple):
    """What `Rebalance` does in between.

    ``prepare`` is awaited before anything of the assignment is shown; ``install`` takes what is held from now
    on, with nothing open yet; ``opened`` takes partitions that are whole.
    """

    prepare: Callable[[], Awaitable[None]]
    install: Callable[[ActiveAssignment, list[FinalStage]], None]
    opened: Callable[[ActiveAssignment, list[PartitionTask]], None]


class Restoration:
    """One for each engine; `run` is one assignment's."""

    def __init__(
        self,
        builder: AssignmentBuilder,
        transport: Transport,
        clock: Clock,
        metrics: Metrics,
        steps: RecoverySteps,
    ) -> None:
        self._builder = builder
        self._transport = transport
        self._clock = clock
        self._metrics = metrics
        self._trouble = Trouble(logger, clock, "recovery fails")
        self._steps = steps

    async def run(
        self, assignment: Assignment, stages: Mapping[TopicPartition, FinalStage], hooks: AssignmentHooks
    ) -> None:
        """Returns when every partition is open. Raises what no retry cures."""
        began_ms = self._clock.monotonic_ms()
        active, tasks, ends = await self._begin(assignment, stages)
        self._metrics.partitions_kept_total.inc(self._builder.kept)
        self._steps.install(active, [stage for task in tasks for stage in task.stages])
        if hooks.waits():
            whole: list[PartitionTask] = []
            await self._restore_all(tasks, ends, whole.extend)
            await hooks.recovered()
            self._steps.opened(active, whole)
        else:
            await self._restore_all(tasks, ends, lambda ready: self._steps.opened(active, ready))
            await hooks.recovered()
        self._metrics.recovery_seconds.observe((self._clock.monotonic_ms() - began_ms) / 1_000)

    async def _begin(
        self, assignment: Assignment, stages: Mapping[TopicPartition, FinalStage]
    ) -> tuple[ActiveAssignment, list[PartitionTask], dict[TopicPartition, int]]:
        while True:
            try:
                built = await self._builder.begin(assignment, stages)
                await self._steps.prepare()
            except TransportError as exc:
                await self._again(exc)
            else:
                self._trouble.worked()
                return built

    async def _restore_all(
        self,
        tasks: list[PartitionTask],
        ends: Mapping[TopicPartition, int],
        ready: Callable[[list[PartitionTask]], None],
    ) -> None:
        """Tells ``ready`` of those that are whole, once at the beginning and then as they become so."""
        whole = [task for task in tasks if not missing(task.logs, ends)]
        ready(whole)
        waiting = sorted(
            (task for task in tasks if missing(task.logs, ends)),
            key=lambda task: (missing(task.logs, ends), task.number),
        )
        report = Report(self._clock, self._metrics, waiting, len(tasks), ends)
        while waiting:
            wave, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
            while wave:
                try:
                    await self._restore_wave(wave, ends, ready, report)
                except TransportError as exc:
                    await self._again(exc)
        self._trouble.worked()
        report.end()

    async def _restore_wave(
        self,
        wave: list[PartitionTask],
        ends: Mapping[TopicPartition, int],
        ready: Callable[[list[PartitionTask]], None],
        report: Report,
    ) -> None:
        """Restores these; those that are whole are taken out of ``wave``."""
        parts = {at: part for task in wave for at, part in task.logs.items()}
        left = {task.number: set(task.logs) for task in wave}

        def done(at: TopicPartition) -> None:
            for task in list(wave):
                left[task.number].discard(at)
                if not left[task.number]:
                    wave.remove(task)
                    report.opened(task)
                    ready([task])

        reader = self._transport.log_reader()
        try:
            await restore(reader, parts, ends, done, report.count)
        finally:
            await reader.close()

    async def _again(self, exc: TransportError) -> None:
        self._trouble.failed(exc)
        await self._clock.sleep_ms(RETRY_WAIT_MS)


class Report:
    """How far a restore has come: in the metrics, and every few seconds in the log."""

    def __init__(
        self,
        clock: Clock,
        metrics: Metrics,
        waiting: list[PartitionTask],
        partitions: int,
        ends: Mapping[TopicPartition, int],
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._waiting = list(waiting)
        self._partitions = partitions
        self._ends = ends
        self._began_ms = self._said_ms = clock.monotonic_ms()
        self._records = 0
        self._show()

    def _show(self) -> int:
        left = sum(missing(task.logs, self._ends) for task in self._waiting)
        self._metrics.restore_records_left.set(left)
        self._metrics.partitions_restoring.set(len(self._waiting))
        return left

    def count(self, records: int) -> None:
        self._records += records
        self._metrics.restored_records_total.inc(records)
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._said_ms >= SAY_EVERY_MS:
            self._said_ms = now_ms
            left = self._show()
            logger.info(
                "restoring: %d records read in %.0f s, about %d to come; %d of %d partitions serve",
                self._records,
                (now_ms - self._began_ms) / 1_000,
                left,
                self._partitions - len(self._waiting),
                self._partitions,
            )

    def opened(self, task: PartitionTask) -> None:
        self._waiting.remove(task)
        self._show()

    def end(self) -> None:
        if self._records:
            logger.info(
                "restored %d records in %.1f s",
                self._records,
                (self._clock.monotonic_ms() - self._began_ms) / 1_000,
            )
