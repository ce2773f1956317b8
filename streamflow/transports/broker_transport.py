"""What the transports of real brokers do alike. Each driver hands in its parts, under the same names."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from streamflow.errors import TransportError
from streamflow.transports.base import (
    Assignment,
    Commit,
    LogReader,
    RebalanceListener,
    TopicPartition,
    TopicSpec,
)

F = TypeVar("F")  # a driver's fence


class TopicsPart(Protocol):
    """A driver's ``topics``."""

    async def create(self, specs: Iterable[TopicSpec]) -> None: ...

    async def counts(self, topics: Iterable[str]) -> dict[str, int]: ...

    async def cleanup_policies(self, topics: Iterable[str]) -> dict[str, str]: ...

    async def earliest(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]: ...

    async def at_time(
        self, partitions: Iterable[TopicPartition], time_ms: int
    ) -> dict[TopicPartition, int]: ...


class GroupPart(Protocol):
    """A driver's ``group``: one worker's membership. ``assignment`` is None while there is none."""

    assignment: Assignment | None

    async def join(self, counts: Mapping[str, int]) -> None:
        """``counts``: number of partitions of each topic that is wanted."""
        ...

    async def resubscribe(self, counts: Mapping[str, int]) -> None:
        """Joins anew, for these topics."""
        ...

    async def leave(self) -> None: ...


class BrokerTransport(ABC):
    """Topics, membership and readers of a `Transport`; reading and commits are the driver's own."""

    _topics: TopicsPart
    _group: GroupPart | None

    def __init__(self) -> None:
        self._group = None
        self._readers: weakref.WeakSet[LogReader] = weakref.WeakSet()

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        await self._topics.create(specs)

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        return await self._topics.counts(topics)

    async def cleanup_policies(self, topics: Iterable[str]) -> dict[str, str]:
        return await self._topics.cleanup_policies(topics)

    async def earliest_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._topics.earliest(partitions)

    async def offsets_at(
        self, partitions: Iterable[TopicPartition], time_ms: int
    ) -> dict[TopicPartition, int]:
        return await self._topics.at_time(partitions, time_ms)

    async def subscribe(self, topics: Iterable[str], listener: RebalanceListener, url: str) -> None:
        """Raises TransportError when a topic does not exist or no broker answers."""
        wanted = sorted(set(topics))
        found = await self._topics.counts(wanted)
        missing = [topic for topic in wanted if topic not in found]
        if missing:
            raise TransportError(f"no such topic: {', '.join(missing)}")
        counts = {topic: found[topic] for topic in wanted}
        if self._group is not None:
            await self._group.resubscribe(counts)
            return
        self._group = group = self._new_group(listener, url)
        try:
            await group.join(counts)
        except BaseException:
            self._group = None
            raise

    def log_reader(self, *, little: bool = False) -> LogReader:
        reader = self._new_reader(little=little)
        self._readers.add(reader)
        return reader

    def _assigned(self) -> frozenset[TopicPartition]:
        group = self._group
        return group.assignment.partitions if group and group.assignment else frozenset()

    async def _close_readers(self) -> None:
        for reader in list(self._readers):
            await reader.close()

    @abstractmethod
    def _new_group(self, listener: RebalanceListener, url: str) -> GroupPart: ...

    @abstractmethod
    def _new_reader(self, *, little: bool) -> LogReader: ...


def checked_fence(commit: Commit, kind: type[F]) -> F:
    """The commit's fence, which must be the driver's own ``kind``. Raises what a caller has done wrong."""
    fence = commit.assignment.fence
    if not isinstance(fence, kind):
        raise TypeError("the assignment is not one of this transport")
    if not commit.offsets:
        raise ValueError("a commit names at least one offset: it is what the fence is checked with")
    foreign = commit.offsets.keys() - commit.assignment.partitions
    if foreign:
        # A broker may take them: it checks the member, not its partitions.
        raise ValueError(
            f"offsets of partitions that are not in the assignment, so nothing fences them: {sorted(foreign)}"
        )
    return fence
