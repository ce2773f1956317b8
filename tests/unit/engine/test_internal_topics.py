"""Topics that an app needs, on a transport that does not show them: what is said, and what is not advised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from streamflow.engine.internal_topics import Topics
from streamflow.errors import ConfigurationError, StreamflowError, TransportError
from streamflow.partitioner import fnv1a
from streamflow.testing.clock import ManualClock
from streamflow.transports.memory import MemoryBroker, MemoryTransport


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
