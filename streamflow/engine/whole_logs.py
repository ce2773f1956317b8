"""Whole partitions, up to the end that they have now: for what is done while no worker runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

from streamflow.transports.base import Batch, TopicPartition, Transport

READ_WAIT_MS = 200


async def whole_logs(
    transport: Transport, places: Iterable[TopicPartition], starts: Mapping[TopicPartition, int] | None = None
) -> AsyncIterator[Batch]:
    """Every committed record of these partitions up to their present ends, as they come.

    ``starts``: offsets to begin at, where that is not the beginning. Raises TransportError.
    """
    ends = await transport.high_watermarks(places)
    left = {at for at, end in ends.items() if end > 0}
    if not left:
        return
    begins = {**(await transport.earliest_offsets(left)), **(starts or {})}
    left = {at for at in left if begins.get(at, 0) < ends[at]}
    if not left:
        return
    reader = transport.log_reader()
    try:
        await reader.assign({at: begins.get(at, 0) for at in sorted(left)})
        while left:
            for batch in await reader.read(READ_WAIT_MS):
                at = (batch.topic, batch.partition)
                if at in left:
                    yield batch
                    if batch.next_offset >= ends[at]:
                        left.discard(at)
    finally:
        await reader.close()


async def newest_records(
    transport: Transport, at: TopicPartition
) -> tuple[dict[bytes, bytes], dict[bytes, int]]:
    """What compaction would leave of a partition, in the order of the newest records.

    (key -> value, key -> timestamp in ms).
    """
    found: dict[bytes, bytes] = {}
    stamps: dict[bytes, int] = {}
    async for batch in whole_logs(transport, [at]):
        for key, value, stamp_ms in zip(batch.keys, batch.values, batch.timestamps_ms, strict=True):
            if key is not None:
                found.pop(key, None)
                if value is not None:
                    found[key] = value
                    stamps[key] = stamp_ms
    return found, stamps
