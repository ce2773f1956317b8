"""Who owns what: everything has one owner, evenly, and members keep what they can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streamflow.transports.assignor import share_out
from streamflow.transports.base import TopicPartition
from tests.contract.harness import partitions_of

Members = Mapping[str, tuple[list[str], Iterable[TopicPartition]]]
"""member -> its topics, and what it had"""


def shared(members: Members, counts: dict[str, int]) -> dict[str, frozenset[TopicPartition]]:
    wanted = {member: frozenset(topics) for member, (topics, _) in members.items()}
    owners = {spot: member for member, (_, had) in members.items() for spot in had}
    return {member: frozenset(spots) for member, spots in share_out(counts, wanted, owners).items()}


def test_everything_has_one_owner_and_shares_differ_by_at_most_one() -> None:
    for count in range(1, 20):
        for number in range(1, 8):
            shares = shared({f"m{n}": (["events"], []) for n in range(number)}, {"events": count})
            assert sorted(s for owned in shares.values() for s in owned) == partitions_of("events", count)
            assert max(map(len, shares.values())) - min(map(len, shares.values())) <= 1


def test_members_keep_what_they_can() -> None:
    before = shared({"a": (["t"], []), "b": (["t"], [])}, {"t": 6})
    after = shared({"a": (["t"], before["a"]), "b": (["t"], before["b"]), "c": (["t"], [])}, {"t": 6})
    assert after["a"] < before["a"]
    assert after["b"] < before["b"]
    again = shared({"a": (["t"], after["a"]), "b": (["t"], after["b"])}, {"t": 6})
    assert after["a"] < again["a"]
    assert after["b"] < again["b"]


def test_topics_that_nobody_has_in_common_go_to_who_reads_them() -> None:
    shares = shared({"a": (["s", "t", "none"], []), "b": (["t"], [])}, {"s": 2, "t": 2, "none": 0})
    assert {spot for spot in shares["a"] if spot[0] == "s"} == {("s", 0), ("s", 1)}
    assert {spot for owned in shares.values() for spot in owned if spot[0] == "t"} == {("t", 0), ("t", 1)}
