"""Does what was counted still stand in the logs that hold it?

A position says that events before it never come again; what they made stands in a changelog, a late-event
store or a shuffle. If the broker has lost the end of such a log, or all of it (a disk that held its only
copy, an unclean election, somebody who deleted the topic), a restore would quietly give a table that is
short for good. So each consumer's progress notes, in the same checkpoint, how far its logs reach at least.
The note is a lower bound: of the newest checkpoint it knows that it wrote, not how much.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from streamflow.errors import LostWrites
from streamflow.state.progress import Progress
from streamflow.transports.base import TopicPartition

logger = logging.getLogger(__name__)


CURE = (
    "`streamflow reset` begins anew and counts what the source topics still hold; on_lost_state='go_on' goes "
    "on with the rows that are left. Give topics of state as many copies as their sources "
    "(topic_replication_factor)"
)
NotedLog = tuple[TopicPartition, Progress]
"""A log of state, and the progress that notes its end."""


def short_logs(
    logs: Iterable[NotedLog], ends: Mapping[TopicPartition, int]
) -> Iterator[tuple[NotedLog, str]]:
    """Those that end before their note, each with a sentence that says so."""
    for at, progress in logs:
        topic, partition = at
        least, end = progress.logs.get(topic, 0), ends.get(at, 0)
        if end >= least:
            continue
        found = "is empty" if end == 0 else f"ends at {end}"
        yield (
            (at, progress),
            f"topic {topic!r} holds state of this app, and its partition {partition} {found}, though it was "
            f"written at least up to {least} when {progress.consumer!r} made its progress durable: the "
            "broker has lost records (its only copy, an unclean election, a topic that was deleted), and the "
            "events that made them do not come again",
        )


def check_logs(logs: Iterable[NotedLog], ends: Mapping[TopicPartition, int], policy: str) -> None:
    """``policy``: the setting `on_lost_state`.

    Raises LostWrites for a log that ends before its note, unless the policy is to go on: then the note is
    taken back, and the error is told in the log once.
    """
    for (at, progress), said in short_logs(logs, ends):
        if policy != "go_on":
            raise LostWrites(f"{said}. {CURE}")
        logger.error("%s; going on with what is left (on_lost_state)", said)
        progress.accept_log(at[0], ends.get(at, 0))
