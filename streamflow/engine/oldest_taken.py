"""How old what was taken is when its checkpoint is durable: one timestamp for each chunk, its oldest."""

from __future__ import annotations

from typing import NamedTuple

from streamflow.state.progress import Progress


class Durable(NamedTuple):
    """A chunk of which all is in a durable checkpoint, and the timestamp of its oldest record."""

    consumer: str
    timestamp_ms: int
    topic: str
    partition: int
    next_offset: int


class OldestTaken:
    """The chunks that the consumers of one assignment have got, until a checkpoint holds all their events."""

    def __init__(self) -> None:
        self._open: list[tuple[str, Progress, int, int]] = []  # name, progress, offset behind it, timestamp
        self._cut: list[Durable] = []

    def took(self, name: str, progress: Progress, next_offset: int, timestamp_ms: int) -> None:
        self._open.append((name, progress, next_offset, timestamp_ms))

    def cut(self) -> None:
        """The checkpoint that is being cut holds what the progress has passed."""
        still: list[tuple[str, Progress, int, int]] = []
        for entry in self._open:
            name, progress, next_offset, timestamp_ms = entry
            if progress.position >= next_offset:
                self._cut.append(Durable(name, timestamp_ms, progress.topic, progress.partition, next_offset))
            else:
                still.append(entry)
        self._open = still

    def durable(self) -> list[Durable]:
        """The newest cut is durable."""
        durable, self._cut = self._cut, []
        return durable
