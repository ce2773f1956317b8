"""The assignor, without a broker: what the group's leader decides and what each member learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from hypothesis import given
from hypothesis import strategies as st

from streamflow.transports.assignor import share_out
from streamflow.transports.base import TopicPartition
from streamflow.transports.kafka.member_metadata import CopartitionedAssignor

Shares = dict[str, list[TopicPartition]]


class Cluster:
    """What the leader knows of the topics."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._counts[topic])) if topic in self._counts else None


class Members:
    """A group: joins, leaves and rounds, with everything that goes over the wire encoded and decoded."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.cluster = Cluster(counts)
        self.topics = sorted(counts)
        self.assignors: dict[str, CopartitionedAssignor] = {}

    def join(self, *names: str, transactional_id: str | None = None) -> None:
        for name in names:
            self.assignors[name] = CopartitionedAssignor(f"http://{name}", transactional_id or name)

    def rebalance(self) -> Shares:
        metadata = {name: assignor.metadata(self.topics) for name, assignor in self.assignors.items()}
        leader = next(iter(self.assignors.values()))
        answers = leader.assign(self.cluster, metadata)
        result: Shares = {}
        for name, assignor in self.assignors.items():
            received: Any = ConsumerProtocolMemberAssignment.decode(answers[name].encode())
            assignor.on_assignment(received)
            result[name] = [(tp.topic, tp.partition) for tp in received.partitions()]
        return result


def sizes(shares: Shares) -> list[int]:
    return sorted(len(partitions) for partitions in shares.values())


def everything(counts: Mapping[str, int]) -> list[TopicPartition]:
    return sorted((topic, p) for topic, count in counts.items() for p in range(count))


def test_six_partitions_for_two_are_three_each() -> None:
    group = Members({"events": 6})
    group.join("a", "b")
    assert sizes(group.rebalance()) == [3, 3]


def test_equal_numbers_of_partitions_lie_together() -> None:
    group = Members({"left": 4, "right": 4, "odd": 3})
    group.join("a", "b", "c")
    for partitions in group.rebalance().values():
        assert {p for t, p in partitions if t == "left"} == {p for t, p in partitions if t == "right"}


def test_topics_with_few_partitions_even_out_what_others_leave_uneven() -> None:
    group = Members({"five": 5, "three": 3, "two": 2})
    group.join("a", "b")
    assert sizes(group.rebalance()) == [5, 5]


def test_more_members_than_partitions_leave_some_without() -> None:
    group = Members({"events": 2})
    group.join("a", "b", "c")
    assert sizes(group.rebalance()) == [0, 1, 1]


def test_who_stays_keeps_what_it_had_when_another_joins_and_leaves() -> None:
    group = Members({"events": 6, "other": 6})
    group.join("a", "b")
    before = group.rebalance()
    group.join("c")
    during = group.rebalance()
    assert sizes(during) == [4, 4, 4]
    assert all(set(during[name]) < set(before[name]) for name in "ab")
    del group.assignors["c"]
    after = group.rebalance()
    assert all(set(during[name]) < set(after[name]) for name in "ab")


def test_nothing_moves_when_nothing_changes() -> None:
    group = Members({"events": 7, "one": 1, "three": 3})
    group.join("a", "b", "c")
    first = group.rebalance()
    assert [group.rebalance() for _ in range(3)] == [first] * 3


def test_an_old_claim_counts_less_than_a_newer_one() -> None:
    group = Members({"events": 4})
    group.join("a", "b")
    before = group.rebalance()
    sleeper = group.assignors.pop("b")
    group.join("c")
    group.rebalance()
    taken = group.rebalance()
    group.assignors["b"] = sleeper  # It still believes that it has what it had.
    del group.assignors["a"]
    after = group.rebalance()
    assert set(after["c"]) >= set(taken["c"]) or len(after["c"]) == 2
    assert set(after["b"]).isdisjoint(after["c"])
    assert sorted(after["b"] + after["c"]) == everything({"events": 4})
    assert set(taken["c"]) == set(before["b"])
    assert set(after["c"]) == set(taken["c"])


def test_every_member_learns_every_members_address_and_partitions() -> None:
    group = Members({"events": 4})
    group.join("a", "b", "c")
    shares = group.rebalance()
    for assignor in group.assignors.values():
        assert {s.url: s.partitions() for s in assignor.group_assignment.members} == {
            f"http://{name}": frozenset(partitions) for name, partitions in shares.items()
        }


def test_a_second_worker_with_the_same_transactional_id_gets_nothing_and_is_told() -> None:
    group = Members({"events": 4})
    group.join("z", transactional_id="slot")
    group.rebalance()
    group.join("a", transactional_id="slot")
    shares = group.rebalance()
    assert len(shares["z"]) == 4
    assert shares["a"] == []
    assert all(assignor.group_assignment.refused == ["a"] for assignor in group.assignors.values())
    assert [s.member_id for s in group.assignors["z"].group_assignment.members] == ["z"]


def test_without_transactions_there_is_nothing_to_share() -> None:
    group = Members({"events": 4})
    group.assignors = {name: CopartitionedAssignor("", None) for name in "ab"}
    assert sizes(group.rebalance()) == [2, 2]


def test_a_topic_that_only_new_workers_know_is_not_torn_from_what_it_is_joined_with() -> None:
    """While a new version rolls out: members ``b`` subscribe to one topic more."""
    wanted = {"a": frozenset({"events"}), "b": frozenset({"events", "new"})}
    shares = share_out({"events": 4, "new": 4}, wanted, {})
    assert sorted(shares["b"]) == everything({"events": 4, "new": 4})
    apart = {"a": frozenset({"events"}), "b": frozenset({"new"})}
    shares = share_out({"events": 4, "new": 4}, apart, {})
    assert shares == {"a": everything({"events": 4}), "b": everything({"new": 4})}


def test_a_topic_that_nobody_knows_yet_is_left_out() -> None:
    assert share_out({"events": 2, "missing": 0}, {"a": frozenset({"events", "missing"})}, {}) == {
        "a": everything({"events": 2})
    }


@given(
    counts=st.dictionaries(st.sampled_from("pqrst"), st.integers(1, 9), min_size=1),
    members=st.integers(1, 6),
    owners=st.dictionaries(
        st.tuples(st.sampled_from("pqrst"), st.integers(0, 8)), st.sampled_from("abcdefx")
    ),
)
def test_whatever_was_before_each_partition_has_one_owner_and_each_group_is_even(
    counts: dict[str, int], members: int, owners: dict[TopicPartition, str]
) -> None:
    names = "abcdef"[:members]
    shares = share_out(counts, {name: frozenset(counts) for name in names}, owners)
    assert sorted(spot for partitions in shares.values() for spot in partitions) == everything(counts)
    for topic in counts:
        assert_even(len([t for t, _ in shares[name] if t == topic]) for name in names)
    again = {spot: name for name, partitions in shares.items() for spot in partitions}
    after = share_out(counts, {name: frozenset(counts) for name in names}, again)
    assert {name: sorted(partitions) for name, partitions in after.items()} == {
        name: sorted(partitions) for name, partitions in shares.items()
    }


def assert_even(numbers: Iterable[int]) -> None:
    found = list(numbers)
    assert max(found) - min(found) <= 1
