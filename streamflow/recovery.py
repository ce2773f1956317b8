"""Rebuilds tables from their changelogs on assignment.

A restore notes the high watermark, uncommitted records included, after the assignment holds, and
reads until its position has passed it: whatever a predecessor could commit lies below. Nothing
that is read here is a change; nothing is written again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from streamflow.changelog import ChangelogError
from streamflow.stores.base import DELETED, Rows
from streamflow.tables import TablePartition
from streamflow.transports.base import Batch, LogReader, TopicPartition, Transport

logger = logging.getLogger(__name__)

READ_WAIT_MS = 200


async def end_of_logs(
    transport: Transport, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, int]:
    """Where a restore of these partitions has to read to. To be asked after the assignment."""
    wanted = list(partitions)
    return await transport.high_watermarks(wanted) if wanted else {}


async def restore(
    reader: LogReader, parts: Mapping[TopicPartition, TablePartition], ends: Mapping[TopicPartition, int]
) -> int:
    """Fills the stores of ``parts`` (by changelog partition) up to ``ends``; returns the records read.

    Raises ChangelogError for a record that can't be read, naming its place.
    """
    left = {at for at in parts if ends.get(at, 0) > 0}
    records = 0
    if not left:
        return 0
    await reader.assign(dict.fromkeys(left, 0))
    while left:
        for batch in await reader.read(READ_WAIT_MS):
            at = (batch.topic, batch.partition)
            if at not in left:
                continue
            fill(parts[at], batch)
            records += len(batch.offsets)
            if batch.next_offset >= ends[at]:
                left.discard(at)
    return records


def fill(part: TablePartition, batch: Batch) -> None:
    """Folds a batch of changelog records into the store. The newest record of a row wins."""
    codec = part.spec.codec
    changes: Rows = {}
    for offset, key, value in zip(batch.offsets, batch.keys, batch.values, strict=True):
        try:
            if key is None:
                raise ChangelogError("a changelog record has no key")
            start, row_key = codec.decode_key(key)
            changes.setdefault(start, {})[row_key] = DELETED if value is None else codec.decode_value(value)
        except ChangelogError as exc:
            raise ChangelogError(f"{batch.topic}[{batch.partition}]@{offset}: {exc}") from exc
    part.store.apply(changes)
