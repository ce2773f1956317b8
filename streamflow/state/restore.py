"""Rebuilds tables from their changelogs on assignment.

A restore notes the high watermark, uncommitted records included, after the assignment holds, and
reads until its position has passed it: whatever a predecessor could commit lies below. Nothing
that is read here is a change; nothing is written again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from streamflow.state.changelog import ChangelogError
from streamflow.state.partition import TablePartition
from streamflow.transports.base import Batch, LogReader, TopicPartition, Transport

logger = logging.getLogger(__name__)

READ_WAIT_MS = 200


async def end_of_logs(
    transport: Transport, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, int]:
    """Where a restore of these partitions has to read to. To be asked after the assignment."""
    wanted = list(partitions)
    return await transport.high_watermarks(wanted) if wanted else {}


def missing(parts: Mapping[TopicPartition, TablePartition], ends: Mapping[TopicPartition, int]) -> int:
    """How many offsets lie between the stores and the ends of their changelogs: about the records to read."""
    return sum(max(0, ends.get(at, 0) - part.store.offset) for at, part in parts.items())


async def restore(
    reader: LogReader,
    parts: Mapping[TopicPartition, TablePartition],
    ends: Mapping[TopicPartition, int],
    done: Callable[[TopicPartition], None],
    count: Callable[[int], None],
) -> None:
    """Brings the stores of ``parts`` (by changelog partition) up to ``ends``, each from its own offset on.

    ``done`` is told of each that has come there, ``count`` how many records were read. It may be cancelled
    or fail at any time and be called again: a store's offset says how far it has come. Raises
    TransportError, and ChangelogError for a record that can't be read, naming its place.
    """
    for at, part in parts.items():
        if part.store.offset > ends.get(at, part.store.offset):
            # The log has lost its end, or is another: what the store has of it is nobody's.
            logger.warning("%s[%d] ends at %d, before what is kept of it: it is read anew", *at, ends[at])
            part.store.clear()
            part.forget_index()
    left = {at for at, part in parts.items() if part.store.offset < ends.get(at, 0)}
    for at in sorted(set(parts) - left):
        done(at)
    if not left:
        return
    await reader.assign({at: parts[at].store.offset for at in sorted(left)})
    while left:
        for batch in await reader.read(READ_WAIT_MS):
            at = (batch.topic, batch.partition)
            if at not in left:
                continue
            fill(parts[at], batch)
            count(len(batch.offsets))
            if batch.next_offset >= ends[at]:
                left.discard(at)
                done(at)
            # A long restore must not keep the group's heartbeat waiting, nor the partitions that serve.
            await asyncio.sleep(0)


def fill(part: TablePartition, batch: Batch) -> None:
    """Folds a batch of changelog records into the store. The newest record of a row wins."""
    if batch.offsets:
        try:
            changes = part.spec.codec.decode_columns(batch.keys, batch.values)
        except ChangelogError as exc:
            place = f"{batch.topic}[{batch.partition}]@{batch.offsets[exc.index]}"
            raise ChangelogError(f"{place}: {exc}") from exc
    else:
        changes = {}
    part.store.apply(changes, batch.next_offset)
