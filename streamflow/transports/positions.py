"""Where paused partitions stand, and which are read; for drivers whose client does not know such things."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Protocol

from streamflow.transports.base import TopicPartition


class Seekable(Protocol):
    """A fetcher: ``at`` is partition -> next offset, of what it reads."""

    at: dict[TopicPartition, int]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Reads this partition from now on, from there."""
        ...

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Reads these no more."""
        ...


class PausedPositions:
    """Seeks, pauses and resumes the partitions that ``assigned`` names: all others are let be."""

    def __init__(self, fetcher: Seekable, assigned: Callable[[], Collection[TopicPartition]]) -> None:
        self._fetcher = fetcher
        self._assigned = assigned
        self._paused: dict[TopicPartition, int] = {}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Of a partition that is not assigned (any more) it is ignored: a rebalance may come between."""
        if partition in self._fetcher.at:
            self._fetcher.seek(partition, offset)
        elif partition in self._assigned():
            self._paused[partition] = offset

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            if partition in self._fetcher.at:
                self._paused[partition] = self._fetcher.at[partition]
                self._fetcher.drop([partition])

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            if partition in self._assigned() and partition not in self._fetcher.at:
                self._fetcher.seek(partition, self._paused.pop(partition, 0))

    def clear(self) -> None:
        """Nothing is assigned any more."""
        self._paused.clear()
        self._fetcher.drop(list(self._fetcher.at))


class Pausable:
    """These three methods of a `Transport`."""

    _paused: PausedPositions

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._paused.seek(partition, offset)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.pause(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.resume(partitions)
