"""What the workers tell each other when they join, and who gets which partitions of it.

Computed by whichever member is first, with the same functions as on Kafka.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from streamflow.transports.assignor import ByTopic, by_topic, divide, spots_of
from streamflow.transports.base import TopicPartition


class MemberMetadata(msgspec.Struct, frozen=True):
    """What a member says when it joins. ``replicas``: how many it wants to stand by for each partition."""

    url: str
    topics: list[str]
    replicas: int = 0


class MemberAssignment(msgspec.Struct, frozen=True):
    """One member in the assignment that every member gets."""

    member_id: str
    url: str
    owned: ByTopic
    standbys: ByTopic = []

    def partitions(self) -> frozenset[TopicPartition]:
        return spots_of(self.owned)

    def stands_by_for(self) -> frozenset[TopicPartition]:
        return spots_of(self.standbys)


NOTHING_ASSIGNED = MemberAssignment("", "", [])
_encode = msgspec.json.encode
_decoder = msgspec.json.Decoder(MemberMetadata)
_assignments = msgspec.json.Decoder(list[MemberAssignment])


def topics_of(joined: Sequence[bytes]) -> list[str]:
    """All that any member wants. ``joined`` is member and metadata in turn."""
    return sorted({topic for told in joined[1::2] for topic in _decoder.decode(told).topics})


def assignments_of(assigned: bytes) -> list[MemberAssignment]:
    """What `assign` has returned."""
    return _assignments.decode(assigned) if assigned else []


def assign(joined: Sequence[bytes], before: bytes, counts: Mapping[str, int]) -> bytes:
    """Who gets what. ``joined`` is member and metadata in turn, ``before`` the assignment before. Pure."""
    members = {
        member.decode(): _decoder.decode(told) for member, told in zip(joined[::2], joined[1::2], strict=True)
    }
    former = assignments_of(before)
    division = divide(
        counts,
        {member: frozenset(told.topics) for member, told in members.items()},
        {spot: last.member_id for last in former for spot in last.partitions()},
        ((last.member_id, last.partitions() | last.stands_by_for()) for last in former),
        (told.replicas for told in members.values()),
    )
    return _encode(
        [
            MemberAssignment(
                member,
                told.url,
                by_topic(division.owned.get(member, ())),
                by_topic(division.standbys.get(member, ())),
            )
            for member, told in sorted(members.items())
        ]
    )
