"""What becomes of records that the broker never takes.

What an agent sent is replaced, in the very same cut, by a dead letter of the event for which it was
sent: so the position that passes the event and the letter that tells of it are durable together. The
event's writes stand: later events have built on them. A dead letter that is too large itself is kept as its
place, its headers and its first bytes. Another record of streamflow's own cannot be left out without breaking
what the checkpoint promises, so it ends the worker, with what it would take.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from streamflow.engine.assignment import ActiveAssignment
from streamflow.engine.dead_letters import DeadLetterQueue, is_letter, place_of, shortened
from streamflow.errors import ConfigurationError, RecordRefused, RecordTooLarge
from streamflow.state.event_context import SendPromise
from streamflow.transports.base import Record

logger = logging.getLogger(__name__)

KEY_BYTES_SHOWN = 100


def set_aside(
    active: ActiveAssignment, dead_letters: DeadLetterQueue, records: Sequence[Record], refusal: RecordRefused
) -> list[Record]:
    """The records of a cut, dead letters in the place of those refused.

    Raises ConfigurationError for a record that has to be written, and ``refusal`` itself where the agent
    has no dead-letter topic.
    """
    if not refusal.refused:
        raise refusal
    instead = list(records)
    for index, why in refusal.refused.items():
        sent, record = active.sent_at(index), records[index]
        promise = None if sent is None else sent[2]
        if sent is None or sent[1] is not record or not isinstance(promise, SendPromise):
            instead[index] = _shorter(active, record, why)
            continue
        instead[index] = _letter(active, dead_letters, promise, why)
        if not promise.done():
            promise.set_exception(why)
            promise.exception()  # told by the letter: who does not await it need not hear it again
    return instead


def _letter(
    active: ActiveAssignment, dead_letters: DeadLetterQueue, promise: SendPromise, why: RecordRefused
) -> Record:
    agent = next((agent for agent in active.agents if agent.spec.consumer == promise.consumer), None)
    if promise.origin is None or agent is None or agent.spec.dead_letter is None:
        raise why
    chunk, index = promise.origin
    place = f"{chunk.topic}[{chunk.partition}]@{chunk.offsets[index]}"
    logger.warning("agent %s: what it sent for %s is refused: %s", agent.spec.name, place, why)
    return dead_letters.letter(chunk, index, why.reason, why, agent, agent.spec.dead_letter)


def _shorter(active: ActiveAssignment, record: Record, why: RecordRefused) -> Record:
    """A dead letter with less in it. Raises ConfigurationError for all other records of streamflow's own."""
    too_large = isinstance(why, RecordTooLarge) and is_letter(record)
    shorter = shortened(record) if too_large else None
    if shorter is None:
        raise ConfigurationError(_of_our_own(active, record, why)) from why
    logger.warning(
        "the dead letter of %s is larger than topic %s takes (%s): its place and the first %d bytes of its"
        " value are kept; raise that topic's max.message.bytes for those to come",
        place_of(record),
        record.topic,
        why,
        len(shorter.value or b""),
    )
    return shorter


def _of_our_own(active: ActiveAssignment, record: Record, why: RecordRefused) -> str:
    size = len(record.key or b"") + len(record.value or b"")
    key = (record.key or b"")[:KEY_BYTES_SHOWN]
    what = f"{_owner(active, record)}: a record of {size} bytes with key {key!r}"
    if isinstance(why, RecordTooLarge):
        return (
            f"{what} is larger than topic {record.topic!r} takes: raise that topic's max.message.bytes"
            " (and the broker's message.max.bytes), or keep less under one key"
        )
    return f"{what} is refused by topic {record.topic!r}: {why}"


def _owner(active: ActiveAssignment, record: Record) -> str:
    for part in active.table_partitions():
        if part.spec.changelog == record.topic:
            return f"table {part.spec.name!r}"
    for aggregate_partition in active.aggregate_partitions:
        spec = aggregate_partition.aggregate.spec
        if record.topic == spec.emit_closed:
            return f"table {spec.name!r} (a closed row)"
        if aggregate_partition.sender is not None and aggregate_partition.sender.topic == record.topic:
            return f"table {spec.name!r} (partial results)"
    for feed in active.feeds:
        if feed.spec.topic == record.topic:
            return f"source {feed.spec.name!r}"
    return "a dead letter" if is_letter(record) else "the app's progress"
