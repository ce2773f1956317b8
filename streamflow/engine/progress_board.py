"""Event time of every source partition as its owners checkpointed it, and idle ticks.

Every worker reads the whole progress topic, so it knows how far each partition has come, its own
and the others'. An idle tick is the only way in which the wall clock touches a table: a
partition that is at its end and silent takes over the time of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from streamflow.state.progress import Progress, ProgressKey, progress_from_record
from streamflow.transports.base import Batch
from streamflow.windows import Window

COARSE_MS = 60_000
RESET_BEGUN = {"reset": "begun"}
"""In place of a table's declaration: some of its state is gone, and the rest does not stand for anything."""
GROWING = "growing"
"""Of what stands in place of a table's declaration while its rows move to the partitions of a topic that has
grown: [partitions before, after, the declaration]."""


@dataclass(slots=True)
class _Seen:
    progress: Progress
    moved_ms: float  # when its position was last seen to move, on this worker's monotonic clock


class ProgressBoard:
    """The newest checkpointed progress of every consumer and partition, this worker's and others'."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], dict[int, _Seen]] = {}  # (consumer, topic) -> partition ->
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
            self._forget(orjson.loads(key))
            return
        if key.startswith(b'["declaration"'):
            self.declarations[orjson.loads(key)[1]] = orjson.loads(value)
            return
        progress = progress_from_record(key, value)
        of = self._seen.setdefault((progress.consumer, progress.topic), {})
        before = of.get(progress.partition)
        moved = before is None or before.progress.position != progress.position
        moved_ms = now_ms if before is None or moved else before.moved_ms
        of[progress.partition] = _Seen(progress, moved_ms)
        if progress.writers:
            self._writers[progress.consumer] = self.writers(progress.consumer).union(progress.writers)

    def _forget(self, key: list[Any]) -> None:
        """A table was reset."""
        if key[0] == "declaration":
            self.declarations.pop(key[1], None)
            return
        consumer, topic, partition = key
        self._seen.get((consumer, topic), {}).pop(partition, None)
        self._writers.pop(consumer, None)
        for at in self.keys_of(consumer):
            seen = self.get(*at)
            if seen is not None and seen.writers:
                self._writers[consumer] = self.writers(consumer).union(seen.writers)

    def keys_of(self, consumer: str) -> list[ProgressKey]:
        """The partitions in which a consumer has progress."""
        return sorted(
            (consumer, topic, partition)
            for (of, topic), partitions in self._seen.items()
            if of == consumer
            for partition in partitions
        )

    def of_topic(self, topic: str) -> list[Progress]:
        """The progress of every consumer in a topic. Not to be changed."""
        return [
            seen.progress
            for (_, of), partitions in sorted(self._seen.items())
            if of == topic
            for _, seen in sorted(partitions.items())
        ]

    def growing(self, table: str) -> tuple[int, int, Any] | None:
        """Of a growth that was begun: partitions before and after, and the table's declaration."""
        declared = self.declarations.get(table)
        if not isinstance(declared, dict) or GROWING not in declared:
            return None
        before, after, was = declared[GROWING]
        return before, after, was

    def writers(self, table_consumer: str) -> frozenset[str]:
        """The consumers that have written to any partition of a table, by its own consumer's name."""
        return self._writers.get(table_consumer, frozenset())

    def get(self, consumer: str, topic: str, partition: int) -> Progress | None:
        """The checkpointed progress, or ``None`` where there is none yet. Not to be changed."""
        seen = self._seen.get((consumer, topic), {}).get(partition)
        return None if seen is None else seen.progress

    def silence(self, consumer: str, topic: str, partitions: int) -> Silence:
        """What is known now of all source partitions of a consumer, to be asked for each of them."""
        silence = Silence()
        for partition, seen in self._seen.get((consumer, topic), {}).items():
            if partition < partitions:
                silence.add(partition, seen.progress, seen.moved_ms)
        return silence


class _Greatest:
    """The greatest value of any partition but one: of each, in one pass over all."""

    __slots__ = ("_first", "_second", "_whose")

    def __init__(self) -> None:
        self._first = self._second = -math.inf
        self._whose = -1

    def add(self, partition: int, value: float | None) -> None:
        if value is None:
            return
        if value > self._first:
            self._first, self._second, self._whose = value, self._first, partition
        elif value > self._second:
            self._second = value

    def but(self, partition: int) -> float:
        """Minus infinity: no other has one."""
        return self._second if partition == self._whose else self._first


class Silence:
    """How long, and up to which time, the source partitions of one consumer have been silent."""

    __slots__ = ("_events", "_moved", "_watermarks")

    def __init__(self) -> None:
        self._moved = _Greatest()
        self._watermarks = _Greatest()
        self._events = _Greatest()

    def add(self, partition: int, progress: Progress, moved_ms: float) -> None:
        """What was checkpointed of a partition, and when its position was last seen to move."""
        self._moved.add(partition, moved_ms)
        self._watermarks.add(partition, progress.watermark_ms)
        self._events.add(partition, progress.event_ms)

    def idle_watermark_ms(
        self,
        own: Progress,
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
        idle_close_ms, partition = window.idle_close_ms, own.partition
        if idle_close_ms is None or silent_ms < idle_close_ms:
            return None
        others_silent_ms = now_ms - self._moved.but(partition)
        if others_silent_ms < idle_close_ms:
            return _time(self._watermarks.but(partition))
        event_ms = self._events.but(partition)
        if own.event_ms is not None and own.event_ms > event_ms:
            event_ms = own.event_ms
        newest_ms = _time(event_ms)
        if newest_ms is None:
            return None
        time_ms = _bounded(newest_ms, int(min(silent_ms, others_silent_ms)), window)
        before_ms = own.watermark_ms
        if before_ms is None or time_ms - before_ms >= COARSE_MS or ends(before_ms, time_ms):
            return time_ms
        furthest_ms = _time(self._watermarks.but(partition))
        return min(time_ms, before_ms if furthest_ms is None else furthest_ms)


def _time(value: float) -> int | None:
    return None if value == -math.inf else int(value)


def _bounded(event_ms: int, silent_ms: int, window: Window) -> int:
    """Event time plus silence, as far as it still closes or expires anything.

    Behind the close of the newest window only every minute counts: what is left is to forget rows.
    """
    closes_ms = window.last_end_of(event_ms) + window.grace_ms
    time_ms = event_ms + silent_ms
    if time_ms <= closes_ms:
        return time_ms
    return closes_ms + min(time_ms - closes_ms, window.retain_ms) // COARSE_MS * COARSE_MS
