"""Topics: which exist, with how many partitions, from where to where; and their creation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.protocol.admin import CreatePartitionsRequest, DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from streamflow.errors import ConfigurationError, TransportError
from streamflow.transports.assignor import by_topic
from streamflow.transports.base import Replication, TopicPartition, TopicSpec
from streamflow.transports.kafka import protocol
from streamflow.transports.kafka.connection import Connection, Deadline
from streamflow.transports.kafka.topic_ids import MetadataRequest as DescribeRequest
from streamflow.transports.kafka.topic_ids import TopicDescription, described

TOPICS_TIMEOUT_MS = 30_000
OFFSETS_TIMEOUT_MS = 15_000
# How long brokers that know different things of a topic are asked again, and how long one of them may take.
AGREE_MS = 10_000
ANSWER_MS = 2_000
NO_LEADER = -1
EARLIEST = -2
LATEST = -1
READ_UNCOMMITTED = 0
READ_COMMITTED = 1
BROKER_CHOOSES = -1
TOPIC_RESOURCE = 2
BROKER_RESOURCE = 4
AUTO_CREATE = "auto.create.topics.enable"
HAS_THEM = 37  # INVALID_PARTITIONS: of a topic that has as many, or more
CREATE_AGAIN = protocol.COORDINATOR_MOVED | protocol.COORDINATOR_BUSY | {protocol.NOT_CONTROLLER}
# What a broker won't create, however often it is asked -> what asked for it.
REFUSED = {
    38: "setting topic_replication_factor, or replicas= of the topic; 0 takes that of the source topics",
    40: "config= of the topic",
}
IN_SYNC_MIN = "min.insync.replicas"
RECORD_LIMIT = "max.message.bytes"
CLEANUP_POLICY = "cleanup.policy"


class Topics:
    """Asks for topics and makes them, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def counts(self, topics: Iterable[str]) -> dict[str, int]:
        """topic -> number of partitions; missing ones are left out."""
        deadline = self._connection.deadline(TOPICS_TIMEOUT_MS)
        return {topic: len(leaders) for topic, leaders in (await self._leaders(topics, deadline)).items()}

    async def create(self, specs: Iterable[TopicSpec]) -> None:
        """Creates what is missing; returns when each partition of it has a leader. Raises TransportError."""
        deadline = self._connection.deadline(TOPICS_TIMEOUT_MS)
        wanted = {spec.name: spec for spec in specs}
        existing = await self._leaders(wanted, deadline)
        missing = [spec for name, spec in wanted.items() if name not in existing]
        if not missing:
            return
        attempt = 0
        while missing := await self._create(missing, deadline):
            await deadline.back_off(attempt)
            deadline.check(f"creating topic {missing[0].name}")
            attempt += 1
        await self._wait_visible(wanted, deadline)

    async def grow(self, counts: Mapping[str, int]) -> None:
        """Gives topics more partitions; returns when each has a leader. Raises TransportError."""
        deadline = self._connection.deadline(TOPICS_TIMEOUT_MS)
        attempt = 0
        while True:
            leaders = await self._leaders(counts, deadline)
            fewer = {name: count for name, count in counts.items() if len(leaders.get(name, ())) < count}
            if not fewer and all(min(leaders[name]) > NO_LEADER for name in counts):
                return
            if fewer:
                await self._grow(fewer, deadline)
            await deadline.back_off(attempt)
            deadline.check(f"topic {min(fewer or counts)} gets more partitions and does not show them")
            attempt += 1

    async def _grow(self, counts: Mapping[str, int], deadline: Deadline) -> None:
        """Asks once. One that has them by now is as good as one that gets them."""
        wanted: list[Any] = [(name, (count, None)) for name, count in sorted(counts.items())]
        request = CreatePartitionsRequest(wanted, TOPICS_TIMEOUT_MS, False)
        try:
            answer = await self._connection.ask_any(request, deadline)
        except TransportError:
            await self._connection.refresh(deadline)
            return
        for name, code, message in answer.topic_errors:
            if code not in CREATE_AGAIN | {protocol.NONE, HAS_THEM}:
                raise TransportError(f"partitions of {name}: {protocol.error_name(code)}: {message}")

    async def describe(self, topics: Iterable[str]) -> dict[str, TopicDescription]:
        """What all brokers that answer say of these topics; missing ones are left out. Raises TransportError.

        All are asked until they say the same, for a while: one that lags behind still knows a topic that was
        deleted and made again by its former id.
        """
        names = sorted(set(topics))
        deadline = self._connection.deadline(AGREE_MS)
        attempt = 0
        while names:
            answers = await self._connection.ask_all(DescribeRequest(names), deadline, ANSWER_MS)
            views = [described(answer) for answer in answers]
            if all(view == views[0] for view in views):
                return views[0]
            await deadline.back_off(attempt)
            deadline.check(f"the brokers do not agree on topics {', '.join(names)}")
            attempt += 1
        return {}

    async def replication(self, topics: Iterable[str]) -> dict[str, Replication]:
        """topic -> its copies, of those that are there. Raises TransportError."""
        found = await self.describe(topics)
        least = await self._setting(found, IN_SYNC_MIN)
        return {
            name: Replication(topic.copies, int(least[name]) if name in least else None)
            for name, topic in found.items()
        }

    async def ids(self, topics: Iterable[str]) -> dict[str, str]:
        """topic -> its id, of those that are there and whose brokers tell. Raises TransportError."""
        found = await self.describe(topics)
        return {name: topic.topic_id for name, topic in found.items() if topic.topic_id}

    async def record_limits(self, topics: Iterable[str]) -> dict[str, int]:
        """topic -> its max.message.bytes, for those about which this user may ask. Raises TransportError."""
        return {name: int(value) for name, value in (await self._setting(topics, RECORD_LIMIT)).items()}

    async def cleanup_policies(self, topics: Iterable[str]) -> dict[str, str]:
        """topic -> its cleanup.policy, likewise."""
        return await self._setting(topics, CLEANUP_POLICY)

    async def created_by_name(self) -> bool:
        """Does the broker make topics that are named to it, as far as it tells? Raises TransportError."""
        deadline = self._connection.deadline(TOPICS_TIMEOUT_MS)
        for node_id in self._connection.nodes():  # its own settings each broker tells alone
            request = DescribeConfigsRequest([(BROKER_RESOURCE, str(node_id), [AUTO_CREATE])])
            try:
                answer = await self._connection.ask(node_id, request, self._connection.deadline(ANSWER_MS))
            except TransportError:
                deadline.check("asking brokers whether they make topics")
                continue
            for code, _, _, _, entries in answer.resources:
                if code == protocol.NONE:
                    return any(name == AUTO_CREATE and value == "true" for name, value, *_ in entries)
        return True

    async def _setting(self, topics: Iterable[str], setting: str) -> dict[str, str]:
        names = sorted(set(topics))
        if not names:
            return {}
        request = DescribeConfigsRequest([(TOPIC_RESOURCE, name, [setting]) for name in names])
        deadline = self._connection.deadline(TOPICS_TIMEOUT_MS)
        answer = await self._connection.ask_coordinator(None, request, lambda _: (), deadline)
        # Each resource: error code, message, kind, name, entries (name, value, ...)
        return {
            name: str(value)
            for code, _, _, name, entries in answer.resources
            if code == protocol.NONE
            for entry, value, *_ in entries
            if entry == setting and value
        }

    async def earliest(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return await self._offsets(partitions, EARLIEST)

    async def at_time(self, partitions: Iterable[TopicPartition], time_ms: int) -> dict[TopicPartition, int]:
        found = await self._offsets(partitions, max(0, time_ms))
        none = [at for at, offset in found.items() if offset < 0]
        return {**found, **(await self._offsets(none, LATEST))}

    async def high_watermarks(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        # Uncommitted: under read committed the broker would name the last stable offset.
        return await self._offsets(partitions, LATEST)

    async def committed_ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The last stable offsets."""
        return await self._offsets(partitions, LATEST, READ_COMMITTED)

    async def _leaders(self, topics: Iterable[str], deadline: Deadline) -> dict[str, list[int]]:
        """topic -> the leader of each of its partitions (-1: none), for those that exist.

        A broker that has not heard of a topic yet does not say that there is none: all are asked until they
        say the same, for a while. Then a topic is there if one of them knows it. Raises TransportError where
        they have different numbers of its partitions.
        """
        names = sorted(set(topics))
        limit = self._connection.deadline(AGREE_MS)
        attempt = 0
        while names:
            views = await self._views(names, deadline)
            merged = {name: max((view.get(name, []) for view in views), key=len) for name in names}
            counts = {name: {len(view.get(name, ())) for view in views} for name in names}
            apart = [name for name in names if len(counts[name]) > 1]
            if not apart or limit.left_s() <= 0:
                _refuse_to_guess({name: counts[name] - {0} for name in apart})
                return {name: leaders for name, leaders in merged.items() if leaders}
            await limit.back_off(attempt)
            attempt += 1
        return {}

    async def _views(self, names: list[str], deadline: Deadline) -> list[dict[str, list[int]]]:
        """What each broker that answers knows: topic -> the leader of each of its partitions."""
        # Asking must not create: a broker may make whatever topic is named to it.
        request = MetadataRequest(names, allow_auto_topic_creation=False)
        attempt = 0
        while True:
            try:
                answers = await self._connection.ask_all(request, deadline, ANSWER_MS)
            except TransportError:
                await deadline.back_off(attempt)
                if deadline.left_s() <= 0:
                    raise
                attempt += 1
            else:
                # Each topic: error code, name, internal, partitions (error code, partition, leader, ...)
                return [
                    {
                        name: [leader for _, _, leader, *_ in partitions]
                        for code, name, _, partitions in answer.topics
                        if code == protocol.NONE
                    }
                    for answer in answers
                ]

    async def _create(self, specs: list[TopicSpec], deadline: Deadline) -> list[TopicSpec]:
        """Asks once; returns those that have to be asked for again."""
        topics: list[Any] = [
            (spec.name, spec.partitions, spec.copies or BROKER_CHOOSES, [], _configs(spec)) for spec in specs
        ]
        request = protocol.CreateTopicsRequest(topics, TOPICS_TIMEOUT_MS, False)
        try:
            answer = await self._connection.ask_any(request, deadline)
        except TransportError:
            if deadline.left_s() <= 0:
                raise
            await self._connection.refresh(deadline)
            return specs
        again = set()
        for name, code, message in answer.topic_errors:
            if (
                code in protocol.COORDINATOR_MOVED | protocol.COORDINATOR_BUSY
                or code == protocol.NOT_CONTROLLER
            ):
                again.add(name)
            elif code in REFUSED:
                raise ConfigurationError(
                    f"creating topic {name}: {protocol.error_name(code)}: {message} ({REFUSED[code]})"
                )
            elif code not in (protocol.NONE, protocol.TOPIC_ALREADY_EXISTS):
                raise TransportError(f"creating topic {name}: {protocol.error_name(code)}: {message}")
        return [spec for spec in specs if spec.name in again]

    async def _wait_visible(self, wanted: Iterable[str], deadline: Deadline) -> None:
        """Until every broker that answers shows them with their leaders; for long, one of them will do."""
        names = sorted(set(wanted))
        limit = self._connection.deadline(AGREE_MS)
        attempt = 0
        while True:
            views = await self._views(names, deadline)
            enough = any if limit.left_s() <= 0 else all
            pending = [
                name
                for name in names
                if not enough(min(view.get(name, ()), default=NO_LEADER) > NO_LEADER for view in views)
            ]
            if not pending:
                return
            await deadline.back_off(attempt)
            deadline.check(f"topic {pending[0]} was created and does not show")
            attempt += 1

    async def _offsets(
        self, partitions: Iterable[TopicPartition], which: int, isolation: int = READ_UNCOMMITTED
    ) -> dict[TopicPartition, int]:
        deadline = self._connection.deadline(OFFSETS_TIMEOUT_MS)
        missing = set(partitions)
        found: dict[TopicPartition, int] = {}
        attempt = 0
        while missing:
            for node_id, mine in (await self._connection.leaders(missing, deadline)).items():
                request = OffsetRequest(
                    -1,
                    isolation,
                    [(topic, [(p, which) for p in ps]) for topic, ps in by_topic(mine)],
                )
                try:
                    answer = await self._connection.ask(node_id, request, deadline)
                except TransportError:
                    if deadline.left_s() <= 0:
                        raise
                else:
                    found |= _found_offsets(answer)
            missing -= found.keys()
            if missing:
                await self._connection.refresh(deadline)
                await deadline.back_off(attempt)
                deadline.check(f"the offsets of {min(missing)}")
                attempt += 1
        return found


def _refuse_to_guess(counts: Mapping[str, set[int]]) -> None:
    """``counts``: topic -> the numbers of partitions that brokers tell. Raises TransportError."""
    for name, told in counts.items():
        if len(told) > 1:
            found = ", ".join(map(str, sorted(told)))
            raise TransportError(f"the brokers do not agree on the partitions of topic {name!r}: {found}")


def _configs(spec: TopicSpec) -> list[tuple[str, str]]:
    configs = {}
    if spec.compacted:
        configs["cleanup.policy"] = "compact"
    if spec.retention_ms is not None:
        configs["retention.ms"] = str(spec.retention_ms)
    if spec.record_bytes_max is not None:
        configs[RECORD_LIMIT] = str(spec.record_bytes_max)
    return list({**configs, **dict(spec.config)}.items())


def _found_offsets(answer: Any) -> dict[TopicPartition, int]:
    """What the answer holds; raises TransportError for what asking again won't cure."""
    found: dict[TopicPartition, int] = {}
    for topic, rows in answer.topics:
        for partition, code, _, offset, *_ in rows:
            if code == protocol.NONE:
                found[topic, partition] = offset
            elif code not in protocol.LEADER_MOVED | protocol.LEADER_BUSY:
                raise TransportError(f"the offsets of {topic}[{partition}]: {protocol.error_name(code)}")
    return found
