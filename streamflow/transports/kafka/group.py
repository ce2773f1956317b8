"""Membership of the group: joins, hears of its partitions, reads them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition as KafkaPartition

from streamflow.clock import Clock
from streamflow.errors import ConfigurationError, TransportError
from streamflow.transports.base import Assignment, Batch, Member, RebalanceListener, TopicPartition
from streamflow.transports.kafka import faults, fetcher, protocol
from streamflow.transports.kafka.broker_states import BrokerStates
from streamflow.transports.kafka.client import ClusterClient
from streamflow.transports.kafka.connection import meaning
from streamflow.transports.kafka.fallback_fetcher import FallbackFetcher
from streamflow.transports.kafka.fetcher import ColumnFetcher, replace_fetcher
from streamflow.transports.kafka.heart import GroupHeart
from streamflow.transports.kafka.member_metadata import CopartitionedAssignor
from streamflow.transports.kafka.settings import KafkaSettings
from streamflow.transports.keep_alive import KeepAlive

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0
# aiokafka leaves the group of a consumer that does not fetch for so long; a recovery may take its time,
# and a worker that hangs misses its heartbeats anyway.
IDLE_MAX_MS = 2**31 - 1
# Joining waits for the other members: a request must outlast a rebalance.
JOIN_MARGIN_MS = 10_000
# Behind the end of another member's session: the group removes it a little later.
SESSION_MARGIN_MS = 1_000


def new_consumer(
    settings: KafkaSettings, clock: Clock, states: BrokerStates, joining_ms: int = 0, **options: Any
) -> Any:
    """aiokafka's consumer with what all of ours have in common; not started."""
    consumer = AIOKafkaConsumer(
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        fetch_max_wait_ms=settings.fetch_wait_ms,
        max_partition_fetch_bytes=settings.fetch_bytes,
        fetch_max_bytes=settings.fetch_bytes_max,
        **options,
        **settings.client_options(),
    )
    consumer._client = ClusterClient(settings, clock, states, joining_ms)
    return consumer


async def start_consumer(
    consumer: Any, settings: KafkaSettings, clock: Clock
) -> ColumnFetcher | FallbackFetcher:
    """Starts it, with our reading side where aiokafka allows. Raises TransportError."""
    try:
        await asyncio.wait_for(consumer.start(), settings.start_timeout_ms / 1_000.0)
        if fetcher.supported():
            return await replace_fetcher(consumer, clock)
    except (KafkaError, OSError, TimeoutError) as exc:
        await stop_consumer(consumer)
        raise TransportError(f"no broker of {', '.join(settings.bootstrap)} answers") from exc
    except asyncio.CancelledError:
        await stop_consumer(consumer)  # a rebalance calls off what restores
        raise
    log.warning("aiokafka is not the version that fast reading was written for: reading by getmany")
    return FallbackFetcher(consumer, clock)


async def stop_consumer(consumer: Any) -> None:
    """Stops it, leaving the group; gives up after a while, for a broker that is gone can't be told."""
    try:
        await asyncio.wait_for(consumer.stop(), STOP_TIMEOUT_S)
    except (KafkaError, OSError, TimeoutError) as exc:
        log.warning("Stopping a consumer: %r", exc)


class PausedAtFirst(SubscriptionState):  # type: ignore[misc]  # aiokafka ships no types
    """Every partition is paused from the moment in which it is assigned.

    It has a position, too, so that the Fetcher does not go and ask for the committed offset: it asks
    in a version that does not see commits under way. The engine seeks before it resumes.
    """

    def assign_from_subscribed(self, assignment: Any) -> None:
        super().assign_from_subscribed(assignment)
        current = self.subscription.assignment
        for tp in current.tps:
            state = current.state_value(tp)
            state.pause()
            state.seek(0)


@dataclass(frozen=True, slots=True)
class GroupFence:
    """The proof that an assignment was ours, taken in the moment of the assignment.

    Never the coordinator's live values: after the next rebalance those are good again, and what is
    being committed belongs to the old assignment.

    Attributes:
        live_ids: transactional ids of all members of that generation.
    """

    generation: int
    member_id: str
    instance_id: str | None
    live_ids: frozenset[str] = frozenset()


class SlotClaim:
    """Whether a member that has our transactional id is alive.

    A worker that is killed after it has asked to join, and started again, meets its former life in the new
    generation. The group removes that one when its session ends, and tells us to join again; one that has
    outlived its session is another live worker. ``is_stable`` asks the group whether a generation stands.
    """

    def __init__(
        self, clock: Clock, transactional_id: str, is_stable: Callable[[GroupFence], Awaitable[bool]]
    ) -> None:
        self._clock = clock
        self._transactional_id = transactional_id
        self._is_stable = is_stable
        self._fence: GroupFence | None = None
        self._ask_ms = 0.0

    def granted(self) -> None:
        """In this generation nobody else has it, or we have left the generation."""
        self._fence = None

    def refused(self, fence: GroupFence, session_ms: float) -> None:
        """In this generation another member has it, whose session is so long."""
        self._fence = fence
        self._ask_ms = self._clock.monotonic_ms() + session_ms + SESSION_MARGIN_MS
        log.warning(
            "The group has another member with the id %s: if it is this worker's former life, its session"
            " ends within %.0f s, and work begins then",
            self._transactional_id,
            session_ms / 1_000,
        )

    async def check(self) -> None:
        """Raises ConfigurationError when the other one has outlived its session."""
        fence, now_ms = self._fence, self._clock.monotonic_ms()
        if fence is None or now_ms < self._ask_ms:
            return
        self._ask_ms = now_ms + SESSION_MARGIN_MS
        if await self._is_stable(fence) and self._fence is fence:
            raise ConfigurationError(
                f"transactional_slot: another live worker has the id {self._transactional_id};"
                " give each worker a slot of its own"
            )


class Group(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka ships no types
    """One worker's membership. `assignment` is the newest, None before the first and while it goes."""

    def __init__(
        self,
        settings: KafkaSettings,
        clock: Clock,
        listener: RebalanceListener,
        url: str,
        is_stable: Callable[[GroupFence], Awaitable[bool]],
        states: BrokerStates,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._states = states
        self._listener = listener
        self._assignor = CopartitionedAssignor(
            url,
            settings.transactional_id if settings.transactions else None,
            settings.standby_replicas,
            settings.session_timeout_ms,
        )
        self._slot = SlotClaim(clock, settings.transactional_id, is_stable)
        self.assignment: Assignment | None = None
        # Transactional ids of members that we knew and that have gone, until what they left is ended.
        self.gone_ids: set[str] = set()
        self._known_ids: frozenset[str] = frozenset()
        self._failure: Exception | None = None
        self._fetcher: ColumnFetcher | FallbackFetcher | None = None
        self._stalled: faults.Stall | None = None
        self._consumer: Any = None
        self._keep_alive = KeepAlive(
            lambda: GroupHeart(settings, clock, self._member),
            clock,
            heartbeat_ms=settings.heartbeat_ms,
            limit_ms=settings.max_poll_interval_ms,
        )

    def _member(self) -> tuple[int, str]:
        """Generation and member id as they are now; another thread asks."""
        coordinator = None if self._consumer is None else self._consumer._coordinator
        return (-1, "") if coordinator is None else (coordinator.generation, coordinator.member_id)

    async def join(self, counts: Mapping[str, int]) -> None:
        """Returns when the request to join is on its way. Raises TransportError."""
        settings = self._settings
        consumer = new_consumer(
            settings,
            self._clock,
            self._states,
            settings.rebalance_timeout_ms + JOIN_MARGIN_MS,
            group_id=settings.group_id,
            group_instance_id=settings.group_instance_id,
            partition_assignment_strategy=(self._assignor,),
            session_timeout_ms=settings.session_timeout_ms,
            rebalance_timeout_ms=settings.rebalance_timeout_ms,
            heartbeat_interval_ms=settings.heartbeat_ms,
            max_poll_interval_ms=IDLE_MAX_MS,
        )
        consumer._subscription = PausedAtFirst()
        self._fetcher = await start_consumer(consumer, settings, self._clock)
        self._consumer = consumer
        consumer.subscribe(list(counts), listener=self)
        self._keep_alive.start()

    async def resubscribe(self, counts: Mapping[str, int]) -> None:
        """Joins anew, for these topics."""
        self._joined().subscribe(list(counts), listener=self)

    async def leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._keep_alive.stop()
        if consumer is not None:
            await stop_consumer(consumer)

    def lost(self, fence: GroupFence, code: int) -> None:
        """The group has answered that it does not know this generation, or this member: joins anew at once.

        A heartbeat would hear of it too, but may be under way to a coordinator that does not answer.
        """
        if self._consumer is None or self._stalled is not None:
            return
        coordinator = self._consumer._coordinator
        if (coordinator.generation, coordinator.member_id) != (fence.generation, fence.member_id):
            return  # it has joined anew meanwhile
        if code == protocol.UNKNOWN_MEMBER:
            coordinator.reset_generation()
        else:
            # With its id: the group would wait for the end of the session that has it.
            coordinator.request_rejoin()

    def stall(self) -> None:
        """For tests: no heartbeat any more."""
        self._stalled = faults.Stall(self._joined()._coordinator)
        self._keep_alive.hush(silent=True)

    def wake(self) -> None:
        """For tests, after `stall`."""
        if self._stalled is not None:
            self._stalled.end()
            self._keep_alive.hush(silent=False)

    def kill(self) -> None:
        """For tests: no heartbeat, and no connection."""
        self.stall()
        faults.cut_off(self._joined()._client)

    def read_only(self, ids: Mapping[str, str]) -> None:
        """As `KnowsTopicIds.read_only`; what can't be told from one answer is in `take_doubts`."""
        if self._fetcher is not None:
            self._fetcher.read_only(ids)

    def has_heard_of(self, topic: str) -> bool:
        """Do the newest metadata have this topic?"""
        return self._consumer is None or bool(self._consumer.partitions_for_topic(topic))

    def take_doubts(self) -> dict[TopicPartition, int]:
        """Partitions whose log may be another by now -> where they were to be read. Asked for once."""
        if self._fetcher is None or not self._fetcher.doubted:
            return {}
        found = {(tp.topic, tp.partition): offset for tp, offset in self._fetcher.doubted.items()}
        self._fetcher.doubted.clear()
        return found

    async def fetch(self, wait_ms: float) -> list[Batch]:
        """Raises TransportError; ConfigurationError when another live worker has our slot."""
        if self._fetcher is None or self._consumer is None:
            await self._clock.sleep_ms(wait_ms)
            return []
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        await self._slot.check()
        try:
            self._consumer._coordinator.check_errors()
        except KafkaError as exc:
            raise meaning(f"the group {self._settings.group_id}", exc) from exc
        return await self._fetcher.batches(wait_ms)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        tp = KafkaPartition(*partition)
        try:
            self._joined().seek(tp, offset)
        except IllegalStateError as exc:
            raise TransportError(f"{partition[0]}[{partition[1]}] is not assigned") from exc
        if self._fetcher is not None:
            self._fetcher.forget(tp)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Those that are not assigned (any more) are paused already."""
        consumer = self._joined()
        consumer.pause(*self._assigned(partitions))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        consumer = self._joined()
        consumer.resume(*self._assigned(partitions))
        if self._fetcher is not None:
            self._fetcher.wake()

    def _assigned(self, partitions: Iterable[TopicPartition]) -> list[KafkaPartition]:
        assigned = self._joined().assignment()
        return [tp for tp in (KafkaPartition(*partition) for partition in partitions) if tp in assigned]

    def _joined(self) -> Any:
        if self._consumer is None:
            raise TransportError("not subscribed")
        return self._consumer

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """aiokafka calls this before the first join too, when there is nothing to revoke."""
        self._slot.granted()
        if self.assignment is None:
            return
        try:
            await self._listener.on_revoked()
        except Exception as exc:  # noqa: BLE001 - the next fetch raises it
            self._fail(exc)
        self.assignment = None

    async def on_partitions_assigned(self, assigned: Any) -> None:
        coordinator = self._consumer._coordinator
        everything = self._assignor.group_assignment
        live_ids = frozenset(
            member.transactional_id for member in everything.members if member.transactional_id
        )
        self.gone_ids = (self.gone_ids | self._known_ids) - live_ids
        self._known_ids = live_ids
        # Snapshot: these values change under us with the next rebalance, and this assignment is then void.
        fence = GroupFence(
            coordinator.generation,
            coordinator.member_id,
            coordinator._group_instance_id,
            live_ids,
        )
        if coordinator.member_id in everything.refused:
            session_ms = everything.session_ms_of(self._settings.transactional_id)
            self._slot.refused(fence, max(session_ms, self._settings.session_timeout_ms))
        else:
            self._slot.granted()
        self.assignment = Assignment(
            generation=coordinator.generation,
            partitions=frozenset((tp.topic, tp.partition) for tp in assigned),
            members=tuple(Member(m.member_id, m.url, m.partitions()) for m in everything.members),
            fence=fence,
            standbys=everything.stands_by_for(),
        )
        try:
            await self._listener.on_assigned(self.assignment)
        except Exception as exc:  # noqa: BLE001 - the next fetch raises it
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        """The next fetch raises it: aiokafka would only log what a listener raises."""
        log.error("The group %s: %r", self._settings.group_id, exc)
        self._failure = exc
        if isinstance(self._fetcher, ColumnFetcher):
            self._fetcher.wake()
