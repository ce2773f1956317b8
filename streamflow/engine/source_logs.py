"""Are the logs of the source partitions those in which the positions were taken?

A topic that is deleted and made again has the same name and other records. A position of the former log says
nothing in the new one: what lies below it was never counted, and would be passed over in silence. Two things
tell: the topic's id, which is written down with each position, and a log that ends before the position. The
transport reads by the ids that were looked at here (`KnowsTopicIds.read_only`), so no topic can change
between the look and the first record.

What then happens is the setting ``on_recreated_topic``: ``stop`` ends the worker with a sentence; ``restart``
keeps the tables, as what was counted happened, and reads the new log from its beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from streamflow.errors import ConfigurationError, TransportError
from streamflow.state.progress import Progress
from streamflow.state.restore import end_of_logs
from streamflow.transports.base import KnowsTopicIds, TopicPartition, Transport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SourceLogs:
    """What was found. ``ids``: topic -> its id; ``earliest`` is known where somebody begins with a log.

    ``replaced``: partitions whose log is too short for one consumer, and so another one for all of them.
    ``timely``: offsets are times, so a log that was made anew goes on behind every position.
    """

    ids: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    earliest: Mapping[TopicPartition, int] = field(default_factory=dict)
    replaced: Set[TopicPartition] = frozenset()
    timely: bool = False

    def is_another(self, progress: Progress) -> bool:
        """Was the position taken in a topic with another id?"""
        now = self.ids.get(progress.topic)
        if now is not None and progress.topic_id is not None:
            return now != progress.topic_id
        return (progress.topic, progress.partition) in self.replaced

    def is_short(self, at: TopicPartition, position: int) -> bool:
        """Does the log end before the position?"""
        return not self.timely and at in self.ends and position > self.ends[at]

    def is_cut(self, progress: Progress) -> bool:
        """Has the very log lost its end? Where there are no ids a shorter log counts as another one."""
        return (
            self.is_short((progress.topic, progress.partition), progress.position)
            and progress.topic_id is not None
            and progress.topic_id == self.ids.get(progress.topic)
        )

    def starts(self, committed: Mapping[TopicPartition, int | None]) -> dict[TopicPartition, int]:
        """Where a consumer begins that has no progress yet: with the group, else at the beginning."""
        return {
            at: self.earliest.get(at, 0) if offset is None or self.is_short(at, offset) else offset
            for at, offset in committed.items()
        }

    def place(self, progress: Progress) -> None:
        """Puts a position into the log that there is."""
        at = (progress.topic, progress.partition)
        topic_id = self.ids.get(progress.topic)
        if self.is_cut(progress):
            progress.restart(self.ends[at], topic_id, whole=False)
        elif self.is_another(progress):
            progress.restart(self.earliest.get(at, 0), topic_id, whole=True)
        elif topic_id is not None:
            progress.found_in(topic_id)


async def source_logs(
    transport: Transport,
    partitions: Iterable[TopicPartition],
    known: Iterable[Progress],
    committed: Mapping[TopicPartition, int | None],
    policy: str,
) -> SourceLogs:
    """The logs of these partitions as they are, which are read from now on.

    ``known``: positions that were taken before, ``committed`` the group's, ``policy`` the setting
    `on_recreated_topic`. Raises ConfigurationError for a log that is another one where the policy is to stop,
    TransportError for what may be gone with the next try.
    """
    wanted = list(partitions)
    topics = {topic for topic, _ in wanted}
    knows = transport if isinstance(transport, KnowsTopicIds) else None
    ids = {} if knows is None else await knows.topic_ids(topics)
    logs = SourceLogs(ids, await end_of_logs(transport, wanted), timely=transport.features.timely_offsets)
    if knows is not None:
        if ids != await knows.topic_ids(topics):
            raise TransportError(f"topics are being deleted or made: {', '.join(sorted(topics))}")
        knows.read_only(ids)
    known = list(known)
    replaced = {
        (progress.topic, progress.partition)
        for progress in known
        if logs.is_short((progress.topic, progress.partition), progress.position)
        and not logs.is_cut(progress)
    }
    logs = replace(logs, replaced=replaced)
    strange = [progress for progress in known if logs.is_another(progress) or logs.is_cut(progress)]
    told = {sentence(logs, progress): None for progress in strange}
    if told and policy == "stop":
        raise ConfigurationError(
            f"{'; '.join(told)}. To keep the tables and count what there is now as well, set "
            "on_recreated_topic='restart' (STREAMFLOW_ON_RECREATED_TOPIC=restart); to begin with empty "
            "tables, `streamflow reset`"
        )
    for text in told:
        logger.warning("%s: tables are kept, and it is read on as it is now (on_recreated_topic)", text)
    begins = {(progress.topic, progress.partition) for progress in strange}
    begins |= {at for at, offset in committed.items() if offset is None or logs.is_short(at, offset)}
    return replace(logs, earliest=await transport.earliest_offsets(begins) if begins else {})


def sentence(logs: SourceLogs, progress: Progress) -> str:
    """What has happened to a log."""
    at = (progress.topic, progress.partition)
    topic, now = progress.topic, logs.ids.get(progress.topic)
    if now is not None and progress.topic_id not in (None, now):
        return (
            f"topic {topic!r} was deleted and made again (its id is {now}, and was {progress.topic_id} when "
            "its records were counted)"
        )
    place = f"{topic}[{progress.partition}]"
    counted = f"{place} ends at {logs.ends[at]}, and was counted up to {progress.position}"
    if logs.is_cut(progress):
        return f"{counted}: the broker has lost the end of this log"
    return f"{counted}: topic {topic!r} was deleted and made again"
