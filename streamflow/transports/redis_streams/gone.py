"""Records that left their stream before anybody here had read them: looked for, counted, told.

A producer that trims (`XADD ... MAXLEN`, `XTRIM`) does not ask who has read. The server counts what ever
came to a stream, `lag` what was read of it: the difference is gone. So nothing needs to be seen at the moment
when it goes, and a look now and then misses none.
"""

from __future__ import annotations

import logging
from collections.abc import Set as AbstractSet

from streamflow.clock import Clock
from streamflow.transports.base import TopicPartition
from streamflow.transports.redis_streams.lag import Extent, LagCounts
from streamflow.transports.redis_streams.topics import Topics

log = logging.getLogger(__name__)

CHECK_MS = 1_000.0  # between two looks at a partition that is read
TELL_MS = 30_000.0  # between two lines about one partition


class GoneRecords:
    """Of the partitions whose entries are counted, compacted ones aside: those are trimmed by rule."""

    def __init__(self, lag: LagCounts, topics: Topics, clock: Clock) -> None:
        self._lag = lag
        self._topics = topics
        self._clock = clock
        self._moved: set[TopicPartition] = set()  # since it was known that nothing is amiss
        self._checked_ms = float("-inf")
        self._told_ms: dict[TopicPartition, float] = {}
        self._untold: dict[TopicPartition, int] = {}

    def moved(self, spot: TopicPartition) -> None:
        """Something was read there, or the reading begins elsewhere."""
        self._moved.add(spot)

    def drop(self, spot: TopicPartition) -> None:
        self._moved.discard(spot)

    def to_check(self) -> AbstractSet[TopicPartition]:
        """Partitions to be looked at now; mostly none."""
        now_ms = self._clock.monotonic_ms()
        if not self._moved or now_ms - self._checked_ms < CHECK_MS:
            return frozenset()
        self._checked_ms = now_ms
        return {
            spot for spot in self._moved if self._lag.knows(spot) and not self._topics.known(spot).compacted
        }

    def found(self, spot: TopicPartition, position: int, stream: Extent) -> int:
        """How many more went unread below ``position``. ``stream``: as it is behind the read up to there."""
        if self._topics.known(spot).compacted:
            return 0
        gone = self._lag.gone(spot, position, stream)
        if gone is not None:
            self._moved.discard(spot)
        if gone:
            self._tell(spot, position, gone)
        return gone or 0

    def _tell(self, spot: TopicPartition, position: int, gone: int) -> None:
        now_ms, untold = self._clock.monotonic_ms(), self._untold.pop(spot, 0) + gone
        if now_ms - self._told_ms.get(spot, float("-inf")) < TELL_MS:
            self._untold[spot] = untold
            return
        self._told_ms[spot] = now_ms
        log.warning(
            "%s[%d]: %d records left the stream before they were read (XTRIM, MAXLEN, XDEL or the topic's"
            " retention); they are not counted, and reading goes on at offset %d. Let the producer keep more,"
            " or trim behind the readers: redis_trim=slowest_group",
            *spot,
            untold,
            position,
        )
