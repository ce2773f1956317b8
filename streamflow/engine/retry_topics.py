"""Retry topics: events whose attempts in place are over wait there, and their partition goes on.

A retry topic belongs to a source topic, and may be shared by the agents of several apps. A record of it is
the event as it was, with headers behind its own that say whose it is, where it lies, how often it was tried
and when it is due (`ADDED`); by the last of them dispatch gives it to one consumer alone. It lies in the
partition of its event, so that tables are written in the same rows.

Moving an event on is part of the checkpoint whose progress passes it: the record stands there with the
position, or neither does. In the retry topic the agent has a progress of its own. It begins at the end, and
that is written with the agent's first checkpoint of the partition, so before or with the first record that it
moves there: an app without a progress has nothing waiting, be it new or reset, and takes up nothing of old.
Without transactions a kill may leave the record alone: then its event is taken again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from streamflow.transports.base import Batch, Headers, Record

REPLAYED_FOR = "streamflow-replayed-for"
"""The last header of an event that is there for one consumer only: which."""
ADDED: Final = (
    "streamflow-retry-app",
    "streamflow-retry-topic",
    "streamflow-retry-partition",
    "streamflow-retry-offset",
    "streamflow-retry-timestamp",
    "streamflow-retry-attempts",
    "streamflow-retry-error",
    "streamflow-retry-due",
    REPLAYED_FOR,
)
"""The headers of a record of a retry topic, behind the event's own and in this order. Times are in ms."""
_ERROR_CHARACTERS_MAX = 500


class Waiting(NamedTuple):
    """An event in a retry topic: where it lies in its source topic, and what became of it so far.

    ``timestamp_ms``: of its record there; ``due_ms``: since 1970; ``headers``: the event's own.
    """

    app: str
    source: tuple[str, int, int]
    timestamp_ms: int
    attempts: int
    due_ms: int
    consumer: str
    headers: Headers

    def record(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, error: str
    ) -> Record:
        """It, on its way to a retry topic, after it has failed for ``error``."""
        source, place, offset = self.source
        said: list[bytes] = [
            self.app.encode(),
            source.encode(),
            b"%d" % place,
            b"%d" % offset,
            b"%d" % self.timestamp_ms,
            b"%d" % self.attempts,
            error[:_ERROR_CHARACTERS_MAX].encode(errors="replace"),
            b"%d" % self.due_ms,
            self.consumer.encode(),
        ]
        # Its own time goes in a header: by the record's the broker deletes, and it is there from now on.
        headers = (*self.headers, *zip(ADDED, said, strict=True))
        return Record(topic, partition, key, value, headers)


def waiting(headers: Headers) -> Waiting | None:
    """What a record's headers say of it; ``None`` for one that no app of streamflow's has moved there."""
    added = headers[-len(ADDED) :]
    if tuple(name for name, _ in added) != ADDED:
        return None
    said = [value or b"" for _, value in added]
    try:
        partition, offset, timestamp_ms, attempts = map(int, said[2:6])
        due_ms = int(said[7])
    except ValueError:
        return None
    app, source, consumer = (said[index].decode(errors="replace") for index in (0, 1, 8))
    own = tuple(headers[: -len(ADDED)])
    return Waiting(app, (source, partition, offset), timestamp_ms, attempts, due_ms, consumer, own)


@dataclass(frozen=True, slots=True)
class RetryTopic:
    """A retry topic as one app reads it. ``source``: the topic whose events wait in it."""

    app: str
    name: str
    source: str

    def found(self, batch: Batch) -> Iterator[tuple[int, Waiting]]:
        """(index, what is known of it) of this app's records in a batch; all others are passed over."""
        for index, headers in enumerate(() if batch.headers is None else batch.headers):
            one = waiting(headers)
            if one is not None and one.app == self.app and one.source[0] == self.source:
                yield index, one

    def events(self, batch: Batch) -> Batch:
        """This app's events in a batch, with the timestamps that they had; reading goes on where it did."""
        found = list(self.found(batch))
        picked = [index for index, _ in found]
        stamps = [one.timestamp_ms for _, one in found]
        return replace(selected(batch, picked), timestamps_ms=stamps)

    def first_not_due(self, batch: Batch, now_ms: int) -> tuple[int, int] | None:
        """(offset, when it is due) of the first of this app's events that has to wait still."""
        for index, one in self.found(batch):
            if one.due_ms > now_ms:
                return batch.offsets[index], one.due_ms
        return None


def selected(batch: Batch, indexes: Sequence[int]) -> Batch:
    """Some records of a batch; ``next_offset`` stays."""
    return replace(
        batch,
        offsets=[batch.offsets[i] for i in indexes],
        keys=[batch.keys[i] for i in indexes],
        values=[batch.values[i] for i in indexes],
        timestamps_ms=[batch.timestamps_ms[i] for i in indexes],
        headers=None if batch.headers is None else [batch.headers[i] for i in indexes],
    )
