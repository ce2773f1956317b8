"""Topics that not all brokers of a cluster know of yet: nothing is taken for missing, or for less."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.protocol.metadata import MetadataRequest

from streamflow.errors import TransportError
from streamflow.testing.simulation import run_simulation
from streamflow.transports.base import TopicSpec
from streamflow.transports.kafka import protocol
from streamflow.transports.kafka.connection import Connection, Deadline
from streamflow.transports.kafka.settings import KafkaSettings
from streamflow.transports.kafka.topics import Topics
from tests.support.loop_clock import LoopClock

UNKNOWN_TOPIC = 3
Views = dict[int, int]
"""broker -> the number of partitions that it knows of; 0: it has not heard of the topic"""


class Cluster(Connection):
    """Brokers that hear of a topic's partitions at different times. ``views``: seconds -> what each knows."""

    def __init__(self, views: Callable[[float], Views]) -> None:
        self._now = LoopClock(0)
        super().__init__(KafkaSettings(("x:1",), "g"), self._now)
        self._views = views
        self.created = False

    async def ask(self, node_id: int, request: Any, deadline: Deadline, *, coordinator: bool = False) -> Any:
        known = self._views(self._now.monotonic_ms() / 1_000)
        if node_id not in known:
            raise TransportError("no answer")
        if not isinstance(request, MetadataRequest):
            self.created = True
            return SimpleNamespace(topic_errors=[("t", protocol.NONE, None)])
        partitions = [(0, p, node_id) for p in range(known[node_id])]
        code = protocol.NONE if partitions else UNKNOWN_TOPIC
        return SimpleNamespace(topics=[(code, "t", False, partitions)])

    def nodes(self) -> list[int]:
        return [1, 2, 3]

    async def ask_any(self, request: Any, deadline: Deadline) -> Any:
        return await self.ask(2, request, deadline)


def counted(views: Callable[[float], Views]) -> dict[str, int]:
    return run(views, lambda topics: topics.counts(["t"]))


def run(
    views: Callable[[float], Views], work: Callable[[Topics], Coroutine[Any, Any, dict[str, int]]]
) -> dict[str, int]:
    async def main(_: object) -> dict[str, int]:
        return await work(Topics(Cluster(views)))

    return run_simulation(main)


def test_a_broker_that_has_not_heard_of_a_topic_does_not_make_it_missing() -> None:
    assert counted(lambda _: {1: 0, 2: 4, 3: 4}) == {"t": 4}


def test_a_topic_that_no_broker_knows_is_missing() -> None:
    assert counted(lambda _: {1: 0, 2: 0, 3: 0}) == {}


def test_a_broker_that_lags_behind_is_waited_for() -> None:
    assert counted(lambda now: {1: 2 if now < 3 else 4, 2: 4, 3: 4}) == {"t": 4}


def test_brokers_that_do_not_agree_are_named() -> None:
    with pytest.raises(TransportError, match=r"do not agree.*'t'.*2, 4"):
        counted(lambda _: {1: 2, 2: 4, 3: 4})


def test_brokers_that_are_away_are_not_asked_for_their_consent() -> None:
    assert counted(lambda _: {2: 4}) == {"t": 4}


def test_a_topic_is_created_when_every_broker_shows_it() -> None:
    async def create_and_ask_the_slowest(topics: Topics) -> dict[str, int]:
        await topics.create([TopicSpec("t", 4)])
        return {"t": views(LoopClock(0).monotonic_ms() / 1_000)[1]}

    def views(now: float) -> Views:
        return {1: 4 if now > 4 else 0, 2: 4 if now > 1 else 0, 3: 4 if now > 2 else 0}

    assert run(views, create_and_ask_the_slowest) == {"t": 4}
