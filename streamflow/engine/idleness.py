"""Idle ticks: the only way in which the wall clock touches a table.

They come just before the cut that makes them durable, so that a restart decides as before. A tick is a write,
so there is one only where it ends something: a window with rows, or once a minute one that others may have.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial

from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.progress_board import ProgressBoard, Silence
from streamflow.state.partition import TablePartition
from streamflow.state.progress import Progress
from streamflow.windows import HoppingWindow, SlidingWindow, Window

LOOK_MS_MAX = 1_000.0


class IdleTicks:
    """Raises the watermark of partitions that are at their end and silent.

    ``partitions`` is topic -> number of partitions. A partition's silence is looked at again after a tenth of
    `Window.idle_close_ms`, and once a second at most: many silent partitions of many tables cost next to
    nothing, and their windows close at most so much later.
    """

    def __init__(self, board: ProgressBoard, partitions: Callable[[str], int]) -> None:
        self._board = board
        self._partitions = partitions
        self._next_ms = 0.0

    def tick(self, active: ActiveAssignment, now_ms: float) -> None:
        """To be called before each cut; ``now_ms`` is monotonic."""
        if now_ms < self._next_ms:
            return
        wait_ms = LOOK_MS_MAX
        silences: dict[tuple[str, str], Silence] = {}
        for progress, window, part in [*_of_aggregates(active), *_of_agents(active)]:
            if window.idle_close_ms is None:
                continue
            wait_ms = min(wait_ms, window.idle_close_ms / 10)
            at = (progress.topic, progress.partition)
            silent_ms = now_ms - active.moved_ms[at]
            if silent_ms < window.idle_close_ms or progress.position < active.end_offsets.get(at, 0):
                continue
            of = (progress.consumer, progress.topic)
            silence = silences.get(of)
            if silence is None:
                silence = silences[of] = self._board.silence(*of, self._partitions(progress.topic))
            if at in active.undecided:
                continue  # somebody writes: what it holds comes with its commit, and may be older
            ends = partial(_ends_something, part, window)
            time_ms = silence.idle_watermark_ms(progress, silent_ms, window, now_ms, ends)
            if time_ms is not None:
                progress.raise_watermark(time_ms)
        self._next_ms = now_ms + wait_ms


def _ends_something(part: TablePartition, window: Window, before_ms: int, time_ms: int) -> bool:
    """Does a window with rows close, or go, when the watermark is raised from the one to the other?"""
    starts = part.store.starts()
    ids = [(window.first_open_start(before_ms), window.first_open_start(time_ms))]
    if isinstance(window, SlidingWindow):
        # Their rows are panes: one window ends with the event of a pane, another begins right behind it.
        ids = [
            (before_ms - behind_ms - 1, time_ms - behind_ms + 1)
            for behind_ms in (window.grace_ms, window.grace_ms + window.size_ms)
        ]
    kept = part.spec.window or window
    if isinstance(window, HoppingWindow) and not isinstance(kept, HoppingWindow):
        # Their rows are panes: a window has rows where any pane that it holds has.
        bounds = [*ids, (window.first_kept_start(before_ms), window.first_kept_start(time_ms))]
        ids = [(low, high - window.step_ms + window.size_ms) for low, high in bounds if low < high]
    ids.append((kept.first_kept_start(before_ms), kept.first_kept_start(time_ms)))
    return any(bisect_left(starts, low) < bisect_left(starts, high) for low, high in ids)


def _of_aggregates(active: ActiveAssignment) -> Iterator[tuple[Progress, Window, TablePartition]]:
    for aggregate_partition in active.aggregate_partitions:
        window = aggregate_partition.aggregate.spec.window
        if window is not None:
            yield aggregate_partition.progress, window, aggregate_partition.part


def _of_agents(active: ActiveAssignment) -> Iterator[tuple[Progress, Window, TablePartition]]:
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
                    yield progress, window, part
