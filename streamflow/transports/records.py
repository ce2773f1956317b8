"""Records on their way into a log: by partition, and none that its topic never takes. HOT PATH."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter

from streamflow.errors import RecordRefused, RecordTooLarge
from streamflow.transports.base import Record, TopicPartition

spot_of: Callable[[Record], TopicPartition] = itemgetter(0, 1)
topic_of: Callable[[Record], str] = itemgetter(0)
partition_of: Callable[[Record], int] = itemgetter(1)
key_of: Callable[[Record], bytes | None] = itemgetter(2)
value_of: Callable[[Record], bytes | None] = itemgetter(3)


def grouped(records: Sequence[Record]) -> dict[TopicPartition, list[Record]]:
    """The records of each partition, in order. HOT PATH: nearly always they are of one topic."""
    found: dict[TopicPartition, list[Record]] = {}
    if len(topics := set(map(topic_of, records))) == 1:
        (topic,) = topics
        in_order = sorted(records, key=partition_of)  # stable
        at = 0
        for partition, count in sorted(Counter(map(partition_of, records)).items()):
            found[topic, partition] = in_order[at : at + count]
            at += count
        return found
    for spot, record in zip(map(spot_of, records), records, strict=True):
        found.setdefault(spot, []).append(record)
    return found


def check_sizes(records: Sequence[Record], limits: Mapping[TopicPartition, int | None]) -> None:
    """Raises RecordTooLarge, with all that are refused in it."""
    least = min((limit for limit in limits.values() if limit is not None), default=None)
    if least is None:
        return
    longest = [max(map(len, filter(None, map(field, records))), default=0) for field in (key_of, value_of)]
    if sum(longest) <= least:
        return
    refused: dict[int, RecordRefused] = {}
    for index, record in enumerate(records):
        limit = limits[record[:2]]
        if limit is not None and len(record[2] or b"") + len(record[3] or b"") > limit:
            refused[index] = RecordTooLarge(
                f"a record for {record[0]}[{record[1]}] is over its {limit} bytes"
            )
    if refused:
        raise RecordRefused.first_of(refused)
