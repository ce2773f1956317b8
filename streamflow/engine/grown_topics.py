"""Topics that get another number of partitions while a worker runs.

Tables, changelogs and shuffles lie by the number that the source topic had when they were made: partition p
of one belongs to partition p of the other. So of a source topic that has grown the partitions that there
were go on, and the new ones wait; what only passes through an agent without tables takes them up at once. An
output topic that was made again with fewer partitions makes every commit fail that has a record for one of
those that are gone: the worker learns the new number and makes those records again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from streamflow.engine.topology import Topology
from streamflow.errors import ConfigurationError, TransportError
from streamflow.transports.base import Assignment, Record, TopicPartition, Transport

logger = logging.getLogger(__name__)


class GrownTopics:
    """Which partitions of an assignment are served; each topic that has grown is told of once."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._told: dict[str, int] = {}

    def served(self, assignment: Assignment) -> Assignment:
        """The assignment without the partitions for which there is no state."""
        everybody = {at for member in assignment.members for at in member.partitions}
        self._learn(everybody | assignment.partitions)
        return replace(
            assignment,
            partitions=self._known(assignment.partitions),
            standbys=self._known(assignment.standbys),
        )

    def _known(self, partitions: frozenset[TopicPartition]) -> frozenset[TopicPartition]:
        topology, counts = self._topology, self._topology.topics.counts
        # A retry topic that has not grown yet may be another worker's: it is served by who has its source, as
        # tables that are written for it lie there.
        return frozenset(
            at
            for at in partitions
            if at[1] < counts.get(at[0], at[1] + 1) and (topology.source_of(at[0]), at[1]) in partitions
        )

    def _learn(self, partitions: set[TopicPartition]) -> None:
        """Takes up what has grown and binds nothing, and tells of the rest."""
        topics = self._topology.topics
        found: dict[str, int] = {}
        for topic, partition in partitions:
            if partition >= topics.counts.get(topic, partition + 1):
                found[topic] = max(found.get(topic, 0), partition + 1)
        for topic, count in sorted(found.items()):
            before = topics.counts[topic]
            if not self._topology.bound(topic):
                logger.warning(
                    "topic %r has %d partitions now, and had %d: all are read", topic, count, before
                )
                topics.counts[topic] = count
            elif self._told.get(topic) != count:
                self._told[topic] = count
                logger.error(
                    "topic %r has %d partitions now, and this app's tables were made for %d: %d to %d are "
                    "not read, their events wait; 0 to %d go on. With all workers stopped, `streamflow grow` "
                    "brings tables to the new number, if it is a multiple; `streamflow reset` counts anew",
                    topic,
                    count,
                    before,
                    before,
                    count - 1,
                    before - 1,
                )


async def shrunk_topics(transport: Transport, topology: Topology, records: Sequence[Record]) -> str:
    """Names topics that lack partitions that the records of a commit are for, and learns their number.

    Empty where there is none, or the broker does not tell. Raises ConfigurationError where state is gone:
    it can't be made again.
    """
    topics = topology.topics
    wanted: dict[str, int] = {}
    for record in records:
        if record.partition >= wanted.get(record.topic, 0):
            wanted[record.topic] = record.partition + 1
    try:
        counts = await transport.partition_counts(wanted)
    except TransportError:
        return ""
    # A topic that is not there at all may be on its way: with it, the same commit works.
    shrunk = {topic: counts[topic] for topic, count in wanted.items() if counts.get(topic, count) < count}
    told = [
        f"topic {topic!r} has {count} partitions and had {topics.counts.get(topic, wanted[topic])}: it was "
        "deleted and made again"
        for topic, count in sorted(shrunk.items())
    ]
    state = sorted(shrunk.keys() & set(topology.state_topics()))
    if state:
        raise ConfigurationError(
            f"{'; '.join(told)}. {', '.join(state)} held state of this app, which is lost; `streamflow "
            "reset` begins anew"
        )
    topics.counts.update(shrunk)
    return "; ".join(told)
