"""Where consumers begin that have no progress in a partition yet.

Who asks for nothing begins where the group stands, as in Faust: what the app took before is not taken again.
Who asks for an earlier place than that is *behind*: its partition goes on for all others, and what they have
passed is read beside them (see `backfill`). The mark is durable with its first checkpoint, so that a kill in
the middle leaves it as it was. Where nobody is ahead, nobody is behind: the partition is read from there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from streamflow.state.beginning import Start
from streamflow.state.progress import Progress
from streamflow.transports.base import TopicPartition, Transport

logger = logging.getLogger(__name__)

Wish = tuple[Start | None, TopicPartition]


@dataclass(slots=True)
class Beginnings:
    """``standing``: where the group stands; ``offsets``: what each wish came to."""

    standing: Mapping[TopicPartition, int | None]
    offsets: Mapping[Wish, int]
    _told: dict[str, list[Progress]] = field(default_factory=dict)

    def begin(self, consumer: str, at: TopicPartition, start: Start | None) -> Progress:
        """The progress of a consumer that has none."""
        # Asked for again after a kill before the first checkpoint, the end would lie further on.
        is_due = start not in (None, "earliest")
        progress = self._at(consumer, at, self.offsets[start, at], is_due=is_due)
        self._told.setdefault(consumer, []).append(progress)
        return progress

    def begin_with(self, consumer: str, at: TopicPartition, others: Iterable[Progress]) -> Progress:
        """Of a decoder: it begins with the first of those that it decodes for."""
        return self._at(consumer, at, min(progress.position for progress in others))

    def _at(self, consumer: str, at: TopicPartition, offset: int, *, is_due: bool = False) -> Progress:
        standing = self.standing.get(at)
        behind = standing is not None and offset < standing
        return Progress(consumer, *at, position=offset, began=offset, behind=behind, changed=is_due)

    def tell(self) -> None:
        """In the log, one line for each consumer that is new."""
        for consumer, began in self._told.items():
            places = ", ".join(f"[{p.partition}] at offset {p.position}" for p in began)
            beside = any(p.behind for p in began)
            logger.info(
                "%s is new and begins in %s %s%s",
                consumer,
                began[0].topic,
                places,
                ": what the app's other consumers have passed is read beside them" if beside else "",
            )


async def find_beginnings(
    transport: Transport, standing: Mapping[TopicPartition, int | None], wishes: Iterable[Wish]
) -> Beginnings:
    """``standing``: the group's committed offsets. Raises TransportError."""
    offsets: dict[Wish, int] = {}
    asked: dict[Start, list[TopicPartition]] = {}
    for start, at in set(wishes):
        offset = standing.get(at)
        if start is None and offset is not None:
            offsets[None, at] = offset
        else:
            asked.setdefault("earliest" if start is None else start, []).append(at)
    for start in sorted(asked, key=str):
        spots = sorted(asked[start])
        if start == "earliest":
            found = await transport.earliest_offsets(spots)
        elif start == "latest":
            found = await transport.high_watermarks(spots)
        else:
            found = await transport.offsets_at(spots, start)
        for at in spots:
            offsets[start, at] = found.get(at, 0)
            if start == "earliest":
                offsets.setdefault((None, at), offsets[start, at])
    return Beginnings(standing, offsets)


def leave_nobody_waiting(progress: Iterable[Progress]) -> None:
    """``progress`` of all consumers of one partition: who has nobody ahead of it is not behind."""
    every = list(progress)
    ahead = min((one.position for one in every if not one.behind), default=None)
    for one in every:
        if one.behind and (ahead is None or one.position >= ahead):
            one.catch_up()
