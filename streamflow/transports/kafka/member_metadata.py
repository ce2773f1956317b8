"""Who gets which partitions: co-partitioned, even, sticky; and what the workers tell each other with it.

Runs in the group's leader. Partition ``p`` of all topics with the same number of partitions goes to
one member: tables of co-partitioned topics need that. Members keep what they had as far as that
leaves the load even. Two live members with one transactional id would abort each other's commits, so
the second gets nothing and is told so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from streamflow.transports.assignor import ByTopic, by_topic, share_out, spots_of, stand_by, warm_members
from streamflow.transports.base import TopicPartition

PROTOCOL_VERSION = 0


class Offer(msgspec.Struct, frozen=True):
    """What a member says when it joins.

    ``round``: of the assignment in which it got ``owned`` and ``standbys``; a claim from an older round
    counts less. ``replicas``: how many it wants to stand by for each partition.
    """

    url: str
    transactional_id: str | None
    round: int = 0
    owned: ByTopic = []
    standbys: ByTopic = []
    replicas: int = 0


class Share(msgspec.Struct, frozen=True):
    """One member in the map that every member gets."""

    member_id: str
    url: str
    transactional_id: str | None
    owned: ByTopic

    def partitions(self) -> frozenset[TopicPartition]:
        return spots_of(self.owned)


class Map(msgspec.Struct, frozen=True):
    """The whole assignment. ``refused``: members whose transactional id another live member has.

    ``standbys``: what the member that gets this map stands by for.
    """

    round: int
    shares: list[Share]
    refused: list[str] = []
    standbys: ByTopic = []

    def stands_by_for(self) -> frozenset[TopicPartition]:
        return spots_of(self.standbys)


EMPTY_MAP = Map(0, [])
_encode = msgspec.msgpack.encode
_offers = msgspec.msgpack.Decoder(Offer)
_maps = msgspec.msgpack.Decoder(Map)


class CopartitionedAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka ships no types
    """One for each transport: it remembers what its member owns and what it learnt of the others.

    aiokafka's base class has class methods; it calls them on whatever it was given, here an object.
    """

    name = "streamflow"

    def __init__(self, url: str, transactional_id: str | None, replicas: int = 0) -> None:
        self._url = url
        self._transactional_id = transactional_id
        self._replicas = replicas
        self.map = EMPTY_MAP
        self._owned: ByTopic = []

    def metadata(self, topics: Iterable[str]) -> Any:
        """What goes to the leader with the request to join."""
        offer = Offer(
            self._url, self._transactional_id, self.map.round, self._owned, self.map.standbys, self._replicas
        )
        return ConsumerProtocolMemberMetadata(PROTOCOL_VERSION, sorted(topics), _encode(offer))

    def on_assignment(self, assignment: Any) -> None:
        """Learns the map; called before the listener hears of the assignment."""
        self.map = _maps.decode(assignment.user_data) if assignment.user_data else EMPTY_MAP
        self._owned = [(topic, list(partitions)) for topic, partitions in assignment.assignment]

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, Any]:
        """The leader's work. ``members``: member id -> what its `metadata` returned."""
        offers = {member: _decode_offer(metadata.user_data) for member, metadata in members.items()}
        refused = refuse(offers)
        wanted = {
            member: frozenset(members[member].subscription) for member in offers if member not in refused
        }
        topics = sorted(frozenset().union(*wanted.values()))
        counts = {topic: len(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        warm = warm_members(
            (member, spots_of(offer.owned) | spots_of(offer.standbys)) for member, offer in offers.items()
        )
        shares = share_out(counts, wanted, claims(offers), warm)
        replicas = max((offer.replicas for offer in offers.values()), default=0)
        standbys = stand_by(counts, wanted, shares, replicas, warm)
        return self._answers(offers, shares, standbys, refused)

    def _answers(
        self,
        offers: Mapping[str, Offer],
        shares: Mapping[str, list[TopicPartition]],
        standbys: Mapping[str, list[TopicPartition]],
        refused: Sequence[str],
    ) -> dict[str, Any]:
        owned = {member: by_topic(shares.get(member, ())) for member in offers}
        next_round = 1 + max(offer.round for offer in offers.values())
        everybody = [
            Share(member, offer.url, offer.transactional_id, owned[member])
            for member, offer in sorted(offers.items())
            if member not in refused
        ]
        answers = {}
        for member in offers:
            seen = Map(next_round, everybody, list(refused), by_topic(standbys.get(member, ())))
            answers[member] = ConsumerProtocolMemberAssignment(PROTOCOL_VERSION, owned[member], _encode(seen))
        return answers


def refuse(offers: Mapping[str, Offer]) -> list[str]:
    """Members whose transactional id another one has, who was there before."""
    keepers: dict[str, str] = {}
    refused = []
    # Who owned something in the newest round was there first.
    for member in sorted(offers, key=lambda m: (-offers[m].round, not offers[m].owned, m)):
        transactional_id = offers[member].transactional_id
        if transactional_id is None or keepers.setdefault(transactional_id, member) == member:
            continue
        refused.append(member)
    return refused


def claims(offers: Mapping[str, Offer]) -> dict[TopicPartition, str]:
    """partition -> the member that had it last."""
    found: dict[TopicPartition, str] = {}
    for member in sorted(offers, key=lambda m: (offers[m].round, m)):
        for topic, partitions in offers[member].owned:
            found.update(((topic, partition), member) for partition in partitions)
    return found


def _decode_offer(user_data: bytes | None) -> Offer:
    return _offers.decode(user_data) if user_data else Offer("", None)
