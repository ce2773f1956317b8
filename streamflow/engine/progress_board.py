"""Event time of every source partition as its owners checkpointed it, and idle ticks.

Every worker reads the whole progress topic, so it knows how far each partition has come, its own
and the others'. An idle tick is the only way in which the wall clock touches a table: a
partition that is at its end and silent takes over the time of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from streamflow.state.progress import Progress, ProgressKey, progress_from_record
from streamflow.transports.base import Batch
from streamflow.windows import Window

COARSE_MS = 60_000


@dataclass(slots=True)
class _Seen:
    progress: Progress
    moved_ms: float  # when its position was last seen to move, on this worker's monotonic clock


class ProgressBoard:
    """The newest checkpointed progress of every consumer and partition, this worker's and others'."""

    def __init__(self) -> None:
        self._seen: dict[ProgressKey, _Seen] = {}
        self._writers: dict[str, frozenset[str]] = {}
        self.declarations: dict[str, Any] = {}  # aggregate -> its description when its state was made

    def read_batch(self, batch: Batch, now_ms: float) -> None:
        """Takes what has come of the progress topic."""
        for key, value in zip(batch.keys, batch.values, strict=True):
            if key is not None:
                self.read(key, value, now_ms)

    def read(self, key: bytes, value: bytes | None, now_ms: float) -> None:
        """Takes a record of the progress topic."""
        if value is None:
            return
        if key.startswith(b'["declaration"'):
            self.declarations[orjson.loads(key)[1]] = orjson.loads(value)
            return
        progress = progress_from_record(key, value)
        at = (progress.consumer, progress.topic, progress.partition)
        before = self._seen.get(at)
        moved = before is None or before.progress.position != progress.position
        moved_ms = now_ms if before is None or moved else before.moved_ms
        self._seen[at] = _Seen(progress, moved_ms)
        if progress.writers:
            self._writers[progress.consumer] = self.writers(progress.consumer).union(progress.writers)

    def writers(self, table_consumer: str) -> frozenset[str]:
        """The consumers that have written to any partition of a table, by its own consumer's name."""
        return self._writers.get(table_consumer, frozenset())

    def get(self, consumer: str, topic: str, partition: int) -> Progress | None:
        """The checkpointed progress, or ``None`` where there is none yet. Not to be changed."""
        seen = self._seen.get((consumer, topic, partition))
        return None if seen is None else seen.progress

    def idle_watermark_ms(
        self,
        own: Progress,
        partitions: int,
        silent_ms: float,
        window: Window,
        now_ms: float,
        ends: Callable[[int, int], bool],
    ) -> int | None:
        """What the watermark of a partition may be raised to, that has been at its end and silent so long.

        The highest watermark of the other source partitions; if they are silent too (or there is no
        other), the highest event time plus the time for which all have been silent. ``None``: nothing.

        ``ends`` tells whether anything ends between two watermarks. Where nothing does, silence counts by
        the minute, and as far as another partition has gone: a silent app writes no watermark for nothing.
        """
        idle_close_ms = window.idle_close_ms
        if idle_close_ms is None or silent_ms < idle_close_ms:
            return None
        others = [
            seen
            for partition in range(partitions)
            if partition != own.partition
            and (seen := self._seen.get((own.consumer, own.topic, partition))) is not None
        ]
        silences = [now_ms - seen.moved_ms for seen in others]
        watermarks = [w for seen in others if (w := seen.progress.watermark_ms) is not None]
        if any(silence < idle_close_ms for silence in silences):
            return max(watermarks, default=None)
        events = [e for seen in others if (e := seen.progress.event_ms) is not None]
        if own.event_ms is not None:
            events.append(own.event_ms)
        if not events:
            return None
        time_ms = _bounded(max(events), int(min([silent_ms, *silences])), window)
        before_ms = own.watermark_ms
        if before_ms is None or time_ms - before_ms >= COARSE_MS or ends(before_ms, time_ms):
            return time_ms
        return min(time_ms, max(watermarks, default=before_ms))


def _bounded(event_ms: int, silent_ms: int, window: Window) -> int:
    """Event time plus silence, as far as it still closes or expires anything.

    Behind the close of the newest window only every minute counts: what is left is to forget rows.
    """
    closes_ms = window.last_end_of(event_ms) + window.grace_ms
    time_ms = event_ms + silent_ms
    if time_ms <= closes_ms:
        return time_ms
    return closes_ms + min(time_ms - closes_ms, window.retain_ms) // COARSE_MS * COARSE_MS
