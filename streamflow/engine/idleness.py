"""Idle ticks: the only way in which the wall clock touches a table.

They come just before the cut that makes them durable, so that a restart decides as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.progress_board import ProgressBoard
from streamflow.state.progress import Progress
from streamflow.windows import Window


def idle_ticks(
    active: ActiveAssignment, board: ProgressBoard, partitions: Callable[[str], int], now_ms: float
) -> None:
    """Raises the watermark of partitions that are at their end and silent.

    ``partitions`` is topic -> number of partitions, ``now_ms`` monotonic.
    """
    for progress, window in [*_of_aggregates(active), *_of_agents(active)]:
        at = (progress.topic, progress.partition)
        if window.idle_close_ms is None or progress.position < active.end_offsets.get(at, 0):
            continue
        if at in active.undecided:
            continue  # somebody writes: what it holds shows with its commit, and may be of any time before
        time_ms = board.idle_watermark_ms(
            progress, partitions(progress.topic), now_ms - active.moved_ms[at], window, now_ms
        )
        if time_ms is not None:
            progress.raise_watermark(time_ms)


def _of_aggregates(active: ActiveAssignment) -> Iterator[tuple[Progress, Window]]:
    for aggregate_partition in active.aggregate_partitions:
        if aggregate_partition.aggregate.spec.window is not None:
            yield aggregate_partition.progress, aggregate_partition.aggregate.spec.window


def _of_agents(active: ActiveAssignment) -> Iterator[tuple[Progress, Window]]:
    """Those that write a windowed table: windows in Faust's form end too when nothing comes any more."""
    for table in active.tables:
        window = table.spec.window
        if window is None or table.spec.own_time:
            continue
        for agent in active.agents:
            for progress in agent.progress.values():
                part = table.parts.get(progress.partition)
                if part is None:
                    continue
                # Rows of nobody who is known (an agent's that is no more, stock Faust's): of all who may.
                if agent.spec.consumer in part.writers or (not part.writers and len(part.store)):
                    yield progress, window
