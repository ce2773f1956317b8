"""Who gets which partitions: co-partitioned, even, sticky; and what the workers tell each other with it.

Runs in the group's leader. Partition ``p`` of all topics with the same number of partitions goes to
one member: tables of co-partitioned topics need that. Members keep what they had as far as that
leaves the load even. Two members with one transactional id would abort each other's commits, so the
second gets nothing and is told so: the first may be its own former life, or another worker (`group`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from streamflow.transports.assignor import ByTopic, Division, by_topic, divide, spots_of
from streamflow.transports.base import TopicPartition

PROTOCOL_VERSION = 0


class MemberMetadata(msgspec.Struct, frozen=True):
    """What a member says when it joins.

    ``round``: of the assignment in which it got ``owned`` and ``standbys``; a claim from an older round
    counts less. ``replicas``: how many it wants to stand by for each partition. ``session_ms``: how long the
    group keeps it without a sign of life; 0 where it does not say.
    """

    url: str
    transactional_id: str | None
    round: int = 0
    owned: ByTopic = []
    standbys: ByTopic = []
    replicas: int = 0
    session_ms: int = 0


class MemberAssignment(msgspec.Struct, frozen=True):
    """One member in the assignment that every member gets."""

    member_id: str
    url: str
    transactional_id: str | None
    owned: ByTopic
    session_ms: int = 0

    def partitions(self) -> frozenset[TopicPartition]:
        return spots_of(self.owned)


class GroupAssignment(msgspec.Struct, frozen=True):
    """The whole assignment. ``refused``: members whose transactional id another live member has.

    ``standbys``: what the member that gets this one stands by for.
    """

    round: int
    members: list[MemberAssignment] = msgspec.field(name="shares")  # the wire's word
    refused: list[str] = []
    standbys: ByTopic = []

    def session_ms_of(self, transactional_id: str) -> int:
        """Of the member that has it; 0 where that is not known."""
        return max((m.session_ms for m in self.members if m.transactional_id == transactional_id), default=0)

    def stands_by_for(self) -> frozenset[TopicPartition]:
        return spots_of(self.standbys)


NOTHING_ASSIGNED = GroupAssignment(0, [])
_encode = msgspec.msgpack.encode
_decoder = msgspec.msgpack.Decoder(MemberMetadata)
_assignments = msgspec.msgpack.Decoder(GroupAssignment)


class CopartitionedAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka ships no types
    """One for each transport: it remembers what its member owns and what it learnt of the others.

    aiokafka's base class has class methods; it calls them on whatever it was given, here an object.
    """

    name = "streamflow"

    def __init__(
        self, url: str, transactional_id: str | None, replicas: int = 0, session_ms: int = 0
    ) -> None:
        self._url = url
        self._transactional_id = transactional_id
        self._replicas = replicas
        self._session_ms = session_ms
        self.group_assignment = NOTHING_ASSIGNED
        self._owned: ByTopic = []

    def metadata(self, topics: Iterable[str]) -> Any:
        """What goes to the leader with the request to join."""
        last = self.group_assignment
        metadata = MemberMetadata(
            self._url,
            self._transactional_id,
            last.round,
            self._owned,
            last.standbys,
            self._replicas,
            self._session_ms,
        )
        return ConsumerProtocolMemberMetadata(PROTOCOL_VERSION, sorted(topics), _encode(metadata))

    def on_assignment(self, assignment: Any) -> None:
        """Learns the assignment; called before the listener hears of the assignment."""
        user_data = assignment.user_data
        self.group_assignment = _assignments.decode(user_data) if user_data else NOTHING_ASSIGNED
        self._owned = [(topic, list(partitions)) for topic, partitions in assignment.assignment]

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """The leader's work. ``members``: member id -> what its `metadata` returned."""
        joined = {member: _decode(told.user_data) for member, told in members.items()}
        refused = refuse(joined)
        wanted = {
            member: frozenset(members[member].subscription) for member in joined if member not in refused
        }
        topics = sorted(frozenset().union(*wanted.values()))
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        division = divide(
            counts,
            wanted,
            claims(joined),
            ((member, spots_of(told.owned) | spots_of(told.standbys)) for member, told in joined.items()),
            (told.replicas for told in joined.values()),
        )
        return self._answers(joined, division, refused)

    def _answers(
        self,
        joined: Mapping[str, MemberMetadata],
        division: Division,
        refused: Sequence[str],
    ) -> dict[str, Any]:
        owned = {member: by_topic(division.owned.get(member, ())) for member in joined}
        next_round = 1 + max(metadata.round for metadata in joined.values())
        everybody = [
            MemberAssignment(
                member, metadata.url, metadata.transactional_id, owned[member], metadata.session_ms
            )
            for member, metadata in sorted(joined.items())
            if member not in refused
        ]
        answers = {}
        for member in joined:
            standbys = by_topic(division.standbys.get(member, ()))
            seen = GroupAssignment(next_round, everybody, list(refused), standbys)
            answers[member] = ConsumerProtocolMemberAssignment(PROTOCOL_VERSION, owned[member], _encode(seen))
        return answers


def refuse(joined: Mapping[str, MemberMetadata]) -> list[str]:
    """Members whose transactional id another one has, who was there before."""
    keepers: dict[str, str] = {}
    refused = []
    # Who owned something in the newest round was there first.
    for member in sorted(joined, key=lambda m: (-joined[m].round, not joined[m].owned, m)):
        transactional_id = joined[member].transactional_id
        if transactional_id is None or keepers.setdefault(transactional_id, member) == member:
            continue
        refused.append(member)
    return refused


def claims(joined: Mapping[str, MemberMetadata]) -> dict[TopicPartition, str]:
    """partition -> the member that had it last."""
    found: dict[TopicPartition, str] = {}
    for member in sorted(joined, key=lambda m: (joined[m].round, m)):
        for topic, partitions in joined[member].owned:
            found.update(((topic, partition), member) for partition in partitions)
    return found


def _decode(user_data: bytes | None) -> MemberMetadata:
    return _decoder.decode(user_data) if user_data else MemberMetadata("", None)
