"""Topics that an app needs, on a transport that does not show them: what is said, and what is not advised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from streamflow.engine.dead_letters import EXTRA_BYTES
from streamflow.engine.internal_topics import RECORD_BYTES_DEFAULT, Topics
from streamflow.errors import ConfigurationError, StreamflowError, TransportError
from streamflow.partitioner import fnv1a
from streamflow.testing.clock import ManualClock
from streamflow.transports.base import Replication, TopicSpec
from streamflow.transports.memory import MemoryBroker, MemoryTransport


class Limiting(MemoryTransport):
    """Tells of topics how large their records may be, and takes down what it is to create."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        clock = ManualClock()
        super().__init__(MemoryBroker(clock), "app", "worker", clock)
        self._limits = limits
        self.created: dict[str, TopicSpec] = {}

    async def record_limits(self, topics: Iterable[str]) -> dict[str, int]:
        return {topic: self._limits[topic] for topic in topics if topic in self._limits}

    async def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        specs = list(specs)
        self.created |= {spec.name: spec for spec in specs}
        await super().create_topics(specs)


class Copying(Limiting):
    """Topics with copies: as they were created, or as given."""

    def __init__(self, kept: Mapping[str, Replication]) -> None:
        super().__init__({})
        self._kept = dict(kept)

    async def replication(self, topics: Iterable[str]) -> dict[str, Replication]:
        made = {name: Replication(spec.copies or 1, 1) for name, spec in self.created.items()}
        return {topic: one for topic in topics if (one := (made | self._kept).get(topic)) is not None}


class Showing(MemoryTransport):
    """Says of topics what it is given, whatever there is."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        clock = ManualClock()
        super().__init__(MemoryBroker(clock), "app", "worker", clock)
        self._shown = counts

    async def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        return {topic: self._shown[topic] for topic in topics if topic in self._shown}


async def refusal_of(counts: Mapping[str, int]) -> StreamflowError:
    topics = Topics("app", fnv1a, 4)
    topics.want("app-counts-changelog", 4, compacted=True)
    with pytest.raises(StreamflowError) as raised:
        await topics.create(Showing(counts))
    return raised.value


async def test_a_topic_that_does_not_show_is_unknown_and_nothing_is_to_be_deleted() -> None:
    error = await refusal_of({})
    assert isinstance(error, TransportError)
    assert "app-counts-changelog" in str(error)
    assert "reset" not in str(error)
    assert "partitions" not in str(error)


async def test_another_number_of_partitions_is_told_with_both() -> None:
    error = await refusal_of({"app-counts-changelog": 2})
    assert isinstance(error, ConfigurationError)
    assert "has 2 partitions and needs 4" in str(error)


@pytest.mark.parametrize(
    "limits,wanted",
    [
        ({"in": 8_000_000}, 8_000_000 + EXTRA_BYTES),
        ({"in": 10_000, "more": 10_000}, 10_000 + EXTRA_BYTES),
        ({"in": 10_000, "more": 20_000}, 20_000 + EXTRA_BYTES),
        ({}, RECORD_BYTES_DEFAULT + EXTRA_BYTES),  # the broker does not tell this user
    ],
)
async def test_a_dead_letter_topic_takes_more_than_its_source(limits: Mapping[str, int], wanted: int) -> None:
    transport, topics = Limiting(limits), Topics("app", fnv1a, 1)
    await transport.create_topics([TopicSpec("in", 1), TopicSpec("more", 1)])
    topics.want("dead", 1, letters_of="in")
    topics.want("dead", 1, letters_of="more")
    await topics.create(transport)
    assert transport.created["dead"].record_bytes_max == wanted


async def test_where_records_have_no_limit_dead_letters_have_none() -> None:
    clock = ManualClock()
    broker = MemoryBroker(clock)
    transport, topics = MemoryTransport(broker, "app", "worker", clock), Topics("app", fnv1a, 1)
    topics.want("dead", 1, letters_of="in")
    await topics.create(transport)
    assert broker.log(("dead", 0)).record_bytes_max is None


async def sourced(transport: Copying, copies: int = 0) -> Topics:
    """An app with a source that is there, its state, and an output that it declares."""
    await transport.create_topics([TopicSpec("events", 2)])
    transport.created.clear()
    topics = Topics("app", fnv1a, 4, copies)
    topics.want_source("events", None)
    topics.want("out")
    topics.want("safe", copies=5, config=[("min.insync.replicas", "4"), ("cleanup.policy", "compact")])
    await topics.create(transport)
    topics.want_state("app-counts-changelog", 2)
    await topics.create(transport)
    return topics


async def test_what_is_made_is_kept_as_often_as_the_source_and_state_is_acknowledged_as_often() -> None:
    transport = Copying({"events": Replication(3, 2)})
    await sourced(transport)
    assert {name: spec.copies for name, spec in transport.created.items()} == {
        "out": 3,
        "safe": 5,
        "app-counts-changelog": 3,
    }
    assert transport.created["app-counts-changelog"].config == (("min.insync.replicas", "2"),)
    assert not transport.created["out"].config


async def test_a_setting_wins_over_the_source_and_the_topic_over_the_setting() -> None:
    transport = Copying({"events": Replication(3, 2)})
    await sourced(transport, copies=2)
    made = {name: spec.copies for name, spec in transport.created.items()}
    assert made == {"out": 2, "safe": 5, "app-counts-changelog": 2}
    assert dict(transport.created["safe"].config)["cleanup.policy"] == "compact"


async def test_a_source_that_is_made_too_tells_what_else_is_made() -> None:
    transport = Copying({"events": Replication(3, 1)})
    topics = Topics("app", fnv1a, 4)
    topics.want("out")
    topics.want_source("events", None)
    await topics.create(transport)
    assert {name: spec.copies for name, spec in transport.created.items()} == {"events": 3, "out": 3}


@pytest.mark.parametrize(
    "source, state, word",
    [
        (Replication(3, 2), Replication(1, 1), "1 of the 3 replicas"),
        (Replication(3, 2), Replication(3, 1), "min.insync.replicas=2"),
        (Replication(3, 2), Replication(3, 2), None),
        (Replication(2, 1), Replication(2, 1), None),
        (Replication(1, 1), Replication(1, 1), None),
    ],
)
async def test_state_that_is_kept_less_safely_than_its_source_is_told(
    source: Replication, state: Replication, word: str | None
) -> None:
    transport = Copying({"events": source, "app-counts-changelog": state})
    topics = await sourced(transport)
    found = await topics.thin(transport, ["app-counts-changelog", "app-progress"])
    assert list(found) == ([] if word is None else ["app-counts-changelog"])
    assert word is None or word in found["app-counts-changelog"]
