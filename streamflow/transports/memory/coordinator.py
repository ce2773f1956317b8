"""The broker's side of a group: members, generations, assignments and committed offsets.

A rebalance is eager, as aiokafka's: it begins when somebody comes or goes; every member gives up all
it has and joins again; when the last has joined, the generation rises and all are assigned. Until
then the old generation still commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from streamflow.transports.assignor import divide
from streamflow.transports.base import Assignment, Member, TopicPartition


class GroupMember:
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
        self._joining: asyncio.Future[Assignment | None] | None = None  # None as result: kicked meanwhile

    @property
    def has_joined(self) -> bool:
        """It waits for the next generation."""
        return self._joining is not None

    def resubscribe(self, topics: Iterable[str]) -> None:
        self.topics = frozenset(topics)

    def join(self) -> asyncio.Future[Assignment | None]:
        self._joining = asyncio.get_running_loop().create_future()
        self.rebalance.clear()
        return self._joining

    def kick(self) -> None:
        """The group knows it no more."""
        self.kicked = True
        self.rebalance.set()
        if self._joining is not None and not self._joining.done():
            self._joining.set_result(None)

    def assign(
        self,
        generation: int,
        owned: Iterable[TopicPartition],
        standbys: Iterable[TopicPartition],
        seen: tuple[Member, ...],
    ) -> None:
        """``seen``: all members of this generation."""
        self.owned, self.standbys = frozenset(owned), frozenset(standbys)
        joining, self._joining = self._joining, None
        if joining is not None and not joining.done():
            joining.set_result(Assignment(generation, self.owned, seen, self.member_id, self.standbys))


class GroupCoordinator:
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
        self.members: dict[str, GroupMember] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.pending: dict[TopicPartition, set[int]] = {}
        self._settled = asyncio.Event()
        self._count_of = count_of
        self._later = later
        self._rebalance_timeout_ms = rebalance_timeout_ms
        self._preparing = False
        self._cancel_timeout: Callable[[], None] | None = None

    def join(self, member: GroupMember) -> asyncio.Future[Assignment | None]:
        """The member has nothing any more and waits for the next generation's assignment."""
        joining = member.join()
        self.members[member.member_id] = member
        self.begin()
        return joining

    def leave(self, member_id: str) -> None:
        """The member has gone, or is taken for dead. Its assignment is void at once."""
        member = self.members.pop(member_id, None)
        if member is None:
            return
        member.kick()
        self.begin()

    def begin(self) -> None:
        """Begins a rebalance unless one is under way; ends it if all have joined."""
        missing = [m for m in self.members.values() if not m.has_joined]
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

    def hold(self, number: int, partitions: Iterable[TopicPartition]) -> None:
        """The transaction ``number`` names them: `unsettled` until it is decided."""
        for partition in partitions:
            self.pending.setdefault(partition, set()).add(number)

    def settle(self, number: int, offsets: Mapping[TopicPartition, int], committed: bool) -> None:
        """The transaction ``number`` is decided here."""
        for partition, offset in offsets.items():
            holders = self.pending.get(partition)
            if holders is not None:
                holders.discard(number)
            if committed:
                self.committed[partition] = offset
        self._settled.set()

    def unsettled(self, partitions: Iterable[TopicPartition]) -> bool:
        return any(self.pending.get(partition) for partition in partitions)

    async def next_settled(self) -> None:
        """Returns when one more transaction is decided here."""
        self._settled.clear()
        await self._settled.wait()

    def forget(self, topic: str) -> None:
        """The topic was deleted: what was committed in it goes."""
        self.committed = {spot: offset for spot, offset in self.committed.items() if spot[0] != topic}

    def _drop_missing(self) -> None:
        for member in [m for m in self.members.values() if not m.has_joined]:
            self.leave(member.member_id)

    def _complete(self) -> None:
        if self._cancel_timeout is not None:
            self._cancel_timeout()
            self._cancel_timeout = None
        self._preparing = False
        self.generation += 1
        members = self.members
        topics = sorted({topic for member in members.values() for topic in member.topics})
        division = divide(
            {topic: self._count_of(topic) for topic in topics},
            {member_id: member.topics for member_id, member in members.items()},
            {spot: member_id for member_id, member in members.items() for spot in member.owned},
            ((member_id, member.owned | member.standbys) for member_id, member in members.items()),
            (member.replicas for member in members.values()),
        )
        seen = tuple(
            Member(member_id, member.url, frozenset(division.owned[member_id]))
            for member_id, member in members.items()
        )
        for member_id, member in members.items():
            member.assign(self.generation, division.owned[member_id], division.standbys[member_id], seen)
