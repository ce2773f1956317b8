"""The consumer group of the memory transport: members, generations, assignments and committed offsets.

A rebalance is eager, as aiokafka's: it begins when somebody comes or goes; every member gives up all
it has and joins again; when the last has joined, the generation rises and all are assigned. Until
then the old generation still commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from streamflow.transports.assignor import stand_by, warm_members
from streamflow.transports.base import Assignment, Member, TopicPartition


class Membership:
    """One member as the group sees it. ``rebalance`` is set when it has to give up what it has."""

    def __init__(self, member_id: str, url: str, topics: Iterable[str], replicas: int = 0) -> None:
        self.member_id = member_id
        self.url = url
        self.replicas = replicas
        self.topics = frozenset(topics)
        self.owned: frozenset[TopicPartition] = frozenset()
        self.standbys: frozenset[TopicPartition] = frozenset()
        self.rebalance = asyncio.Event()
        self.kicked = False
        self.joining: asyncio.Future[Assignment | None] | None = None  # None as result: kicked meanwhile


class Group:
    """``committed`` is partition -> offset; ``pending`` is partition -> undecided commits that name it.

    ``count_of`` gives a topic's number of partitions (0: does not exist); ``later`` calls a function
    after some ms and returns what cancels it.
    """

    def __init__(
        self,
        name: str,
        count_of: Callable[[str], int],
        later: Callable[[float, Callable[[], None]], Callable[[], None]],
        rebalance_timeout_ms: float,
    ) -> None:
        self.name = name
        self.generation = 0
        self.members: dict[str, Membership] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.pending: dict[TopicPartition, set[int]] = {}
        self.settled = asyncio.Event()
        self._count_of = count_of
        self._later = later
        self._rebalance_timeout_ms = rebalance_timeout_ms
        self._preparing = False
        self._cancel_timeout: Callable[[], None] | None = None

    def join(self, member: Membership) -> asyncio.Future[Assignment | None]:
        """The member has nothing any more and waits for the next generation's assignment."""
        joining = member.joining = asyncio.get_running_loop().create_future()
        member.rebalance.clear()
        self.members[member.member_id] = member
        self.begin()
        return joining

    def leave(self, member_id: str) -> None:
        """The member has gone, or is taken for dead. Its assignment is void at once."""
        member = self.members.pop(member_id, None)
        if member is None:
            return
        member.kicked = True
        member.rebalance.set()
        if member.joining is not None and not member.joining.done():
            member.joining.set_result(None)
        self.begin()

    def begin(self) -> None:
        """Begins a rebalance unless one is under way; ends it if all have joined."""
        missing = [m for m in self.members.values() if m.joining is None]
        if missing and not self._preparing:
            self._cancel_timeout = self._later(self._rebalance_timeout_ms, self._drop_missing)
        self._preparing = True
        for member in missing:
            member.rebalance.set()
        if not missing:
            self._complete()

    def valid(self, assignment: Assignment) -> bool:
        """Whether the assignment is this group's newest and its member still counts: the fence."""
        return assignment.generation == self.generation and assignment.fence in self.members

    def settle(self, number: int, offsets: Mapping[TopicPartition, int], committed: bool) -> None:
        """The transaction ``number`` is decided here."""
        for partition, offset in offsets.items():
            holders = self.pending.get(partition)
            if holders is not None:
                holders.discard(number)
            if committed:
                self.committed[partition] = offset
        self.settled.set()

    def unsettled(self, partitions: Iterable[TopicPartition]) -> bool:
        return any(self.pending.get(partition) for partition in partitions)

    def _drop_missing(self) -> None:
        for member in [m for m in self.members.values() if m.joining is None]:
            self.leave(member.member_id)

    def _complete(self) -> None:
        if self._cancel_timeout is not None:
            self._cancel_timeout()
            self._cancel_timeout = None
        self._preparing = False
        self.generation += 1
        topics = sorted({topic for m in self.members.values() for topic in m.topics})
        counts = {topic: self._count_of(topic) for topic in topics}
        owned = share_out(list(self.members.values()), counts)
        standbys = self._stand_by(counts, owned)
        seen = tuple(Member(m.member_id, m.url, owned[m.member_id]) for m in self.members.values())
        for member in self.members.values():
            member.owned = owned[member.member_id]
            member.standbys = standbys[member.member_id]
            joining, member.joining = member.joining, None
            if joining is not None and not joining.done():
                assignment = Assignment(
                    self.generation, member.owned, seen, member.member_id, member.standbys
                )
                joining.set_result(assignment)

    def _stand_by(
        self, counts: Mapping[str, int], owned: Mapping[str, frozenset[TopicPartition]]
    ) -> dict[str, frozenset[TopicPartition]]:
        members = self.members.values()
        warm = warm_members((member.member_id, member.owned | member.standbys) for member in members)
        topics = {member.member_id: member.topics for member in members}
        replicas = max((member.replicas for member in members), default=0)
        found = stand_by(counts, topics, owned, replicas, warm)
        return {member_id: frozenset(spots) for member_id, spots in found.items()}


def share_out(
    members: Sequence[Membership], counts: Mapping[str, int]
) -> dict[str, frozenset[TopicPartition]]:
    """Who owns what: balanced, keeping what it can, equal partition numbers together.

    Topics with the same number of partitions and the same subscribers are dealt out as one: partition
    p of all of them goes to one member.
    """
    decks: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    for topic, count in sorted(counts.items()):
        subscribers = tuple(m.member_id for m in members if topic in m.topics)
        decks.setdefault((count, subscribers), []).append(topic)
    owned: dict[str, set[TopicPartition]] = {m.member_id: set() for m in members}
    before = {partition: m.member_id for m in members for partition in m.owned}
    for (count, subscribers), topics in decks.items():
        previous = [
            next((before[t, p] for t in topics if before.get((t, p)) in subscribers), None)
            for p in range(count)
        ]
        for p, owner in enumerate(_deal(previous, subscribers, owned)):
            owned[owner].update((topic, p) for topic in topics)
    return {member_id: frozenset(partitions) for member_id, partitions in owned.items()}


def _deal(
    previous: Sequence[str | None], subscribers: Sequence[str], owned: Mapping[str, set[TopicPartition]]
) -> list[str]:
    """The owner of each partition number, given who had it before and what each owns already."""
    base, extra = divmod(len(previous), len(subscribers))
    order = sorted(subscribers, key=lambda m: (len(owned[m]), -previous.count(m)))
    quota = {member: base + (1 if rank < extra else 0) for rank, member in enumerate(order)}
    owners: list[str | None] = [None] * len(previous)
    for p, member in enumerate(previous):
        if member is not None and quota[member] > 0:
            owners[p] = member
            quota[member] -= 1
    free = [member for member in order for _ in range(quota[member])]
    return [owner if owner is not None else free.pop() for owner in owners]
