"""Events of one agent that were in flight when a process died: each is taken alone, and maybe set aside."""

from __future__ import annotations

import logging
from itertools import pairwise

from streamflow.codecs.chunk import Chunk
from streamflow.errors import ProcessDied
from streamflow.processing.flight_note import FlightNote, Suspicion, checksum
from streamflow.transports.base import TopicPartition

logger = logging.getLogger(__name__)

DEATHS_MAX = 2
"""So often a process died with an event alone in flight, until it is set aside. Two: somebody who kills
workers at any moment may well meet one event that is alone, and hardly the same event twice in a row."""


class Suspects:
    """Of one consumer. ``ranges`` is empty where nothing is suspect, as mostly."""

    def __init__(self, consumer: str, note: FlightNote) -> None:
        self.ranges: dict[TopicPartition, list[Suspicion]] = {}
        self._consumer = consumer
        self._note = note
        self._known: set[TopicPartition] = set()

    def clear(self) -> None:
        """Partitions have gone."""
        self.ranges.clear()
        self._known.clear()

    def learn(self, at: TopicPartition, position: int) -> None:
        """What dead ones have noted of a partition, at or behind ``position``."""
        if at in self._known or self._note.trusts(self._consumer):
            return
        self._known.add(at)
        found = [each for each in self._note.of_dead(self._consumer, at) if each.end > position]
        if found:
            self.ranges[at] = found
            first, end = min(each.first for each in found), max(each.end for each in found)
            logger.warning(
                "%s: a process died with events of %s[%d] in flight, from offset %d to before %d: each is"
                " taken alone now",
                self._consumer,
                *at,
                max(first, position),
                end,
            )

    def holds(self, chunk: Chunk, index: int) -> bool:
        """Is this event suspect?"""
        at = (chunk.topic, chunk.partition)
        found = self.ranges.get(at)
        if found is None:
            return False
        if self._note.trusts(self._consumer):
            self.ranges.clear()
            return False
        offset = chunk.offsets[index]
        return any(each.first <= offset < each.end for each in found)

    def come_to(self, chunk: Chunk, index: int) -> None:
        """This event is the next to be taken: behind the last suspect all is as fast as ever."""
        at = (chunk.topic, chunk.partition)
        found = self.ranges.get(at)
        if found is not None and all(chunk.offsets[index] >= each.end for each in found):
            del self.ranges[at]

    def pieces(self, chunk: Chunk) -> list[Chunk]:
        """The chunk, which is not empty, with each suspect event as a chunk of its own."""
        if (chunk.topic, chunk.partition) not in self.ranges:
            return [chunk]
        cuts = {0, len(chunk)}
        for index in range(len(chunk)):
            if self.holds(chunk, index):
                cuts |= {index, index + 1}
        return [chunk.between(first, last) for first, last in pairwise(sorted(cuts))]

    def verdict(self, chunk: Chunk, index: int) -> ProcessDied | None:
        """Why a suspect event is set aside, if it is."""
        deaths = self._deaths(chunk, index)
        if deaths < DEATHS_MAX:
            return None
        place = f"{chunk.topic}[{chunk.partition}] offset {chunk.offsets[index]}"
        error = ProcessDied(f"the process died {deaths} times with {place} alone in flight")
        logger.error("%s: %s: it is set aside", self._consumer, error)
        return error

    def _deaths(self, chunk: Chunk, index: int) -> int:
        offset, known = chunk.offsets[index], self.ranges.get((chunk.topic, chunk.partition), ())
        told = [each for each in known if each.alone == offset]
        found = checksum(chunk, index) if told else 0
        return max((each.deaths for each in told if each.checksum == found), default=0)

    def begin_alone(self, chunk: Chunk, index: int) -> None:
        """The event is the only one in flight from here on."""
        if self.holds(chunk, index):
            self._note.alone(self._consumer, chunk, index, self._deaths(chunk, index))
