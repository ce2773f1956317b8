"""One client of the cluster for requests and their answers; knows coordinators and leaders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any

from aiokafka.client import ConnectionGroup
from aiokafka.errors import (
    BrokerResponseError,
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAuthorizationFailedError,
    UnsupportedVersionError,
)
from aiokafka.protocol.api import RequestStruct
from aiokafka.structs import TopicPartition as KafkaPartition

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError, StreamflowError, TransportError
from streamflow.transports.base import TopicPartition
from streamflow.transports.kafka import faults, protocol
from streamflow.transports.kafka.broker_states import BrokerStates
from streamflow.transports.kafka.client import ClusterClient
from streamflow.transports.kafka.client_logs import lower_client_logs, reasons
from streamflow.transports.kafka.outcomes import Next, asked_by, verdict
from streamflow.transports.kafka.settings import KafkaSettings

BACKOFF_MIN_MS = 5.0
BACKOFF_MAX_MS = 200.0
METADATA_WAIT_S = 1.0
NO_TRANSACTIONS = (
    "; if that stays so, the broker can't make its topic __transaction_state: let"
    " transaction.state.log.replication.factor not be above the number of brokers. Where there are no"
    " transactions, set processing_guarantee to 'at_least_once'"
)
# Requests of transactions, by the beginning of their names.
TRANSACTIONAL = ("InitProducerId", "AddPartitionsToTxn", "AddOffsetsToTxn", "EndTxn")


def meaning(doing: str, exc: Exception) -> StreamflowError:
    """What a client's error means: ConfigurationError where only somebody's hand can help."""
    unknown = isinstance(exc, IncompatibleBrokerVersion | UnsupportedVersionError)
    if unknown and doing.startswith(TRANSACTIONAL):
        return ConfigurationError(
            f"{doing}: the broker does not know this request ({exc}); where it has no transactions, set"
            " processing_guarantee to 'at_least_once'"
        )
    if isinstance(exc, TopicAuthorizationFailedError):
        return ConfigurationError(f"{doing}: {exc!r}: this user may not use the topic; allow it Read, Write")
    code = int(exc.errno) if isinstance(exc, BrokerResponseError) else protocol.NONE
    if code in protocol.DENIALS:
        return ConfigurationError(f"{doing}: {protocol.error_name(code)}: {protocol.DENIALS[code]}")
    return TransportError(f"{doing}: {exc!r}")


def _is_away(exc: Exception) -> bool:
    """Does a broker answer that there is no coordinator, for now?"""
    return isinstance(exc, BrokerResponseError) and int(exc.errno) in protocol.COORDINATOR_MOVED


class Coordinator(IntEnum):
    """Which coordinator; the numbers are the protocol's."""

    GROUP = 0
    TRANSACTION = 1


class Deadline:
    """A moment of the monotonic clock that bounds several waits together."""

    def __init__(self, clock: Clock, limit_ms: float) -> None:
        self._clock = clock
        self._limit_ms = limit_ms
        self._end_ms = clock.monotonic_ms() + limit_ms

    def left_s(self) -> float:
        """Seconds until then, never negative."""
        return max(0.0, self._end_ms - self._clock.monotonic_ms()) / 1_000.0

    def check(self, doing: str) -> None:
        """Raises TransportError when it has passed."""
        if self.left_s() <= 0:
            raise TransportError(f"{doing}: not done within {self._limit_ms:.0f} ms")

    async def back_off(self, attempt: int) -> None:
        """Waits a little, longer with each attempt (from 0), and not past the deadline."""
        wait_ms = min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** min(attempt, 8), self.left_s() * 1_000.0)
        await self._clock.sleep_ms(wait_ms)


class Connection:
    """Asks brokers. Methods raise TransportError when no answer came in time, and only then.

    ConfigurationError for what this user may not do, or this broker does not have.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock, states: BrokerStates | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._states = states or BrokerStates(clock)
        self._client: Any = None
        self._coordinators: dict[tuple[Coordinator, str], int] = {}

    async def start(self) -> None:
        """Finds the cluster. Raises TransportError."""
        lower_client_logs()
        client = ClusterClient(self._settings, self._clock, self._states)
        with reasons() as why:
            try:
                await asyncio.wait_for(client.bootstrap(), self._settings.start_timeout_ms / 1_000.0)
            except (KafkaError, OSError, TimeoutError) as exc:
                await client.close()
                told = "; ".join(dict.fromkeys(why)) or str(exc) or "no answer"
                servers = ", ".join(self._settings.bootstrap)
                raise TransportError(f"no broker of {servers} answers: {told}") from exc
        self._client = client

    async def stop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def cut_off(self) -> None:
        """For tests: no broker can be reached any more."""
        if self._client is not None:
            faults.cut_off(self._client)

    def deadline(self, limit_ms: float) -> Deadline:
        return Deadline(self._clock, limit_ms)

    async def ask(self, node_id: int, request: Any, deadline: Deadline, *, coordinator: bool = False) -> Any:
        """One request, one answer. ``request``: a builder of aiokafka's, or a structure of `protocol`."""
        if self._client is None:
            raise TransportError("the transport is not started")
        if isinstance(request, RequestStruct):
            request = protocol.Exactly(request)
        group = ConnectionGroup.COORDINATION if coordinator else ConnectionGroup.DEFAULT
        try:
            async with asyncio.timeout(deadline.left_s()):
                return await self._client.send(node_id, request, group=group)
        except (KafkaError, OSError, TimeoutError) as exc:
            raise meaning(f"{type(request).__name__} to broker {node_id}", exc) from exc

    async def ask_any(self, request: Any, deadline: Deadline) -> Any:
        """Asks whichever broker, once."""
        return await self.ask(await self._any_node(deadline), request, deadline)

    async def ask_all(self, request: Any, deadline: Deadline, each_ms: float) -> list[Any]:
        """The answers of all brokers that give one within ``each_ms``. Raises TransportError if none does."""
        nodes = self.nodes() or [await self._any_node(deadline)]
        limit = self.deadline(min(each_ms, deadline.left_s() * 1_000))
        told = await asyncio.gather(
            *(self.ask(node_id, request, limit) for node_id in nodes), return_exceptions=True
        )
        failures = [each for each in told if isinstance(each, BaseException)]
        for failure in failures:
            if not isinstance(failure, TransportError):
                raise failure
        answers = [each for each in told if not isinstance(each, BaseException)]
        if not answers:
            raise failures[0]
        return answers

    def nodes(self) -> list[int]:
        """The brokers that are known."""
        if self._client is None:
            raise TransportError("the transport is not started")
        return sorted(int(broker.nodeId) for broker in self._client.cluster.brokers())

    async def ask_coordinator(
        self,
        place: tuple[Coordinator, str] | None,
        request: Any,
        codes: Callable[[Any], Iterable[int]],
        deadline: Deadline,
    ) -> Any:
        """Asks until there is an answer that is not "not now"; for requests that may be repeated.

        ``place``: which coordinator of which group or transactional id; None: any broker will do.
        ``codes`` takes the error codes out of the answer.
        """
        asked = asked_by(request)
        attempt, what = 0, f"{type(request).__name__} to {place[1] if place else 'any broker'}"
        while True:
            try:
                if place is None:
                    answer = await self.ask_any(request, deadline)
                else:
                    node_id = await self.coordinator(*place, deadline)
                    answer = await self.ask(node_id, request, deadline, coordinator=True)
            except TransportError as exc:
                self.forget(place)
                if deadline.left_s() <= 0:
                    raise
                why = str(exc)
            else:
                found = set(codes(answer))
                then = {verdict(asked, code).next for code in found}
                if Next.FIND_COORDINATOR in then:
                    self.forget(place)
                elif Next.ASK_AGAIN not in then:
                    return answer
                why = ", ".join(map(protocol.error_name, sorted(found)))
            await deadline.back_off(attempt)
            deadline.check(f"{what} ({why})")
            attempt += 1

    async def coordinator(self, kind: Coordinator, key: str, deadline: Deadline) -> int:
        """The broker that coordinates the group or the transactional id ``key``."""
        known = self._coordinators.get((kind, key))
        if known is not None:
            return known
        if self._client is None:
            raise TransportError("the transport is not started")
        try:
            async with asyncio.timeout(deadline.left_s()):
                found = int(await self._client.coordinator_lookup(int(kind), key))
        except (KafkaError, OSError, TimeoutError, AssertionError) as exc:
            hint = NO_TRANSACTIONS if _is_away(exc) and kind is Coordinator.TRANSACTION else ""
            raise meaning(f"no coordinator for {key}{hint}", exc) from exc
        if self._client.cluster.broker_metadata(found) is None:
            self._refresh()
        self._coordinators[kind, key] = found
        return found

    def forget(self, place: tuple[Coordinator, str] | None) -> None:
        """The next use looks the coordinator up again."""
        if place is not None:
            self._coordinators.pop(place, None)

    async def leaders(
        self, partitions: Iterable[TopicPartition], deadline: Deadline
    ) -> dict[int, list[TopicPartition]]:
        """The partitions by the broker that leads them. Waits for those that have none yet."""
        wanted = list(partitions)
        attempt = 0
        while True:
            if self._client is None:
                raise TransportError("the transport is not started")
            found: dict[int, list[TopicPartition]] = {}
            missing = None
            for topic, partition in wanted:
                node_id = self._client.cluster.leader_for_partition(KafkaPartition(topic, partition))
                if node_id is None or node_id < 0:
                    missing = (topic, partition)
                    self._client.add_topic(topic)
                else:
                    found.setdefault(node_id, []).append((topic, partition))
            if missing is None:
                return found
            await self.refresh(deadline)
            await deadline.back_off(attempt)
            deadline.check(f"{missing[0]}[{missing[1]}] has no leader")
            attempt += 1

    async def refresh(self, deadline: Deadline) -> None:
        """Asks for the metadata anew and waits for it for a moment; its failure shows elsewhere."""
        future = self._refresh()
        await asyncio.wait([future], timeout=min(METADATA_WAIT_S, deadline.left_s()))

    def _refresh(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._client.force_metadata_update()
        return future

    async def _any_node(self, deadline: Deadline) -> int:
        attempt = 0
        while True:
            if self._client is None:
                raise TransportError("the transport is not started")
            node_id = self._client.get_random_node()
            if node_id is not None:
                return int(node_id)
            await self.refresh(deadline)
            await deadline.back_off(attempt)
            deadline.check("no broker is known")
            attempt += 1
