"""Who of a group's members gets which partitions: co-partitioned, even, sticky. Pure; for every driver.

Partition ``p`` of all topics with the same number of partitions goes to one member: tables of
co-partitioned topics need that. Members keep what they had as far as that leaves the load even.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamflow.transports.base import TopicPartition


def share_out(
    counts: Mapping[str, int],
    wanted: Mapping[str, frozenset[str]],
    owners: Mapping[TopicPartition, str],
) -> dict[str, list[TopicPartition]]:
    """member -> its partitions. Pure.

    ``counts``: topic -> number of partitions (0: unknown, left out); ``wanted``: member -> topics it
    subscribes to; ``owners``: who had a partition before.
    """
    load = dict.fromkeys(sorted(wanted), 0)  # member -> partitions so far
    result: dict[str, list[TopicPartition]] = {member: [] for member in load}
    for count, topics, candidates in _groups(counts, wanted):
        had = {p: _former_owner(topics, p, owners) for p in range(count)}
        for partition, member in _spread(count, candidates, had, load).items():
            result[member] += [(topic, partition) for topic in topics]
            load[member] += len(topics)
    return result


def _groups(
    counts: Mapping[str, int], wanted: Mapping[str, frozenset[str]]
) -> list[tuple[int, list[str], list[str]]]:
    """(number of partitions, topics with it, members that may own them), the heaviest first.

    All topics with one number stay together as long as one member wants them all: while a new
    version of an app rolls out, its new topic must not tear apart what is joined with it.
    """
    groups = []
    for count in sorted({count for count in counts.values() if count}):
        topics = sorted(topic for topic, number in counts.items() if number == count)
        together = sorted(member for member in wanted if wanted[member].issuperset(topics))
        if together:
            groups.append((count, topics, together))
            continue
        apart: dict[tuple[str, ...], list[str]] = {}
        for topic in topics:
            members = tuple(sorted(member for member in wanted if topic in wanted[member]))
            apart.setdefault(members, []).append(topic)
        groups += [(count, those, list(members)) for members, those in sorted(apart.items())]
    return sorted(groups, key=lambda group: (-len(group[1]), -group[0], group[1]))


def _former_owner(topics: Sequence[str], partition: int, owners: Mapping[TopicPartition, str]) -> str | None:
    for topic in topics:
        if (topic, partition) in owners:
            return owners[topic, partition]
    return None


def _spread(
    count: int, candidates: Sequence[str], had: Mapping[int, str | None], load: Mapping[str, int]
) -> dict[int, str]:
    """partition -> member: each gets ``count / members``, rounded; the least loaded get the odd ones."""
    kept: dict[str, list[int]] = {member: [] for member in candidates}
    for partition, member in sorted(had.items()):
        if member in kept:
            kept[member].append(partition)
    share, odd = divmod(count, len(candidates))
    by_need = sorted(candidates, key=lambda m: (load[m], -len(kept[m]), m))
    quota = {member: share + (place < odd) for place, member in enumerate(by_need)}
    result = {partition: member for member in candidates for partition in kept[member][: quota[member]]}
    free = (partition for partition in range(count) if partition not in result)
    for member in by_need:
        missing = quota[member] - min(quota[member], len(kept[member]))
        for partition in [next(free) for _ in range(missing)]:
            result[partition] = member
    return result
