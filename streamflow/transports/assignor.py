"""Who of a group's members gets which partitions: co-partitioned, even, sticky. Pure; for every driver.

Partition ``p`` of all topics with the same number of partitions goes to one member: tables of
co-partitioned topics need that. Members keep what they had as far as that leaves the load even. What
has no owner any more goes to one who stood by for it, if there is one that may have more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from streamflow.transports.base import TopicPartition

NOBODY: Mapping[TopicPartition, Collection[str]] = {}
ByTopic = list[tuple[str, list[int]]]
"""Partitions as they travel: each topic with its numbers"""


def by_topic(spots: Iterable[TopicPartition]) -> ByTopic:
    """In order."""
    found: dict[str, list[int]] = {}
    for topic, partition in sorted(spots):
        found.setdefault(topic, []).append(partition)
    return list(found.items())


def spots_of(travelled: ByTopic) -> frozenset[TopicPartition]:
    """The inverse of `by_topic`."""
    return frozenset((topic, partition) for topic, partitions in travelled for partition in partitions)


class Division(NamedTuple):
    """member -> its partitions; member -> those of others that it stands by for."""

    owned: dict[str, list[TopicPartition]]
    standbys: dict[str, list[TopicPartition]]


def divide(
    counts: Mapping[str, int],
    wanted: Mapping[str, frozenset[str]],
    owners: Mapping[TopicPartition, str],
    had: Iterable[tuple[str, Iterable[TopicPartition]]],
    replicas: Iterable[int],
) -> Division:
    """`share_out` and `stand_by` in one. Pure.

    ``had``: each member with what it had, and what it stood by for; ``replicas``: how many each member
    wants to stand by for a partition; the largest counts.
    """
    warm = warm_members(had)
    owned = share_out(counts, wanted, owners, warm)
    return Division(owned, stand_by(counts, wanted, owned, max(replicas, default=0), warm))


def warm_members(had: Iterable[tuple[str, Iterable[TopicPartition]]]) -> dict[TopicPartition, set[str]]:
    """partition -> the members that need to read least of its tables.

    ``had``: each member with what it had, and what it stood by for.
    """
    found: dict[TopicPartition, set[str]] = {}
    for member, spots in had:
        for spot in spots:
            found.setdefault(spot, set()).add(member)
    return found


def share_out(
    counts: Mapping[str, int],
    wanted: Mapping[str, frozenset[str]],
    owners: Mapping[TopicPartition, str],
    warm: Mapping[TopicPartition, Collection[str]] = NOBODY,
) -> dict[str, list[TopicPartition]]:
    """member -> its partitions. Pure.

    ``counts``: topic -> number of partitions (0: unknown, left out); ``wanted``: member -> topics it
    subscribes to; ``owners``: who had a partition before; ``warm``: who stood by for it.
    """
    load = dict.fromkeys(sorted(wanted), 0)  # member -> partitions so far
    result: dict[str, list[TopicPartition]] = {member: [] for member in load}
    for count, topics, candidates in _groups(counts, wanted):
        had = {p: _former_owner(topics, p, owners) for p in range(count)}
        near = {p: {m for topic in topics for m in warm.get((topic, p), ())} for p in range(count)}
        for partition, member in _spread(count, candidates, had, load, near).items():
            result[member] += [(topic, partition) for topic in topics]
            load[member] += len(topics)
    return result


def stand_by(
    counts: Mapping[str, int],
    wanted: Mapping[str, frozenset[str]],
    owned: Mapping[str, Collection[TopicPartition]],
    replicas: int,
    warm: Mapping[TopicPartition, Collection[str]],
) -> dict[str, list[TopicPartition]]:
    """member -> the partitions of others that it stands by for, ``replicas`` for each. Pure.

    ``owned``: what `share_out` gave; ``warm``: who has most of a partition's rows already. The partitions of
    one owner are spread over all others, so that each of them finds its part ready when the owner goes.
    """
    owners = {spot: member for member, spots in owned.items() for spot in spots}
    result: dict[str, list[TopicPartition]] = {member: [] for member in sorted(wanted)}
    for count, topics, candidates in _groups(counts, wanted):
        others = min(replicas, len(candidates) - 1)
        if others < 1:
            continue
        of_owner = Counter(owners[topics[0], p] for p in range(count))
        for_owner: Counter[tuple[str, str]] = Counter()  # (owner, who stands by) -> partitions
        chosen: dict[int, list[str]] = {p: [] for p in range(count)}
        for p in range(count):  # those who need to read least first, as far as that stays even
            owner = owners[topics[0], p]
            most = -(-of_owner[owner] * others // (len(candidates) - 1))
            for member in sorted({m for topic in topics for m in warm.get((topic, p), ())}):
                may = member in candidates and member != owner and for_owner[owner, member] < most
                if may and len(chosen[p]) < others:
                    chosen[p].append(member)
                    for_owner[owner, member] += 1
        for p in range(count):
            owner = owners[topics[0], p]
            while len(chosen[p]) < others:
                left = [m for m in candidates if m != owner and m not in chosen[p]]
                member = min(left, key=lambda m: (for_owner[owner, m], len(result[m]), m))
                chosen[p].append(member)
                for_owner[owner, member] += 1
            for member in chosen[p]:
                result[member] += [(topic, p) for topic in topics if owners[topic, p] != member]
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
    count: int,
    candidates: Sequence[str],
    had: Mapping[int, str | None],
    load: Mapping[str, int],
    near: Mapping[int, Collection[str]],
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
    missing = {member: quota[member] - min(quota[member], len(kept[member])) for member in by_need}
    for partition in [p for p in range(count) if p not in result]:
        ready = [member for member in by_need if missing[member] and member in near[partition]]
        if ready:
            result[partition] = member = max(ready, key=lambda m: missing[m])
            missing[member] -= 1
    free = (partition for partition in range(count) if partition not in result)
    for member in by_need:
        for partition in [next(free) for _ in range(missing[member])]:
            result[partition] = member
    return result
