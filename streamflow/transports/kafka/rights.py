"""Which rights a user lacks: asked of the broker, without changing anything that a worker has.

A transaction is begun under an id of our own beside the workers': whoever may use any id that begins with
the app's, as workers need it, may use that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Final

from aiokafka.protocol.admin import DescribeGroupsRequest_v3
from aiokafka.protocol.api import Response
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.protocol.types import Array, Bytes, Int16, Int32, Schema, String

from streamflow.errors import ConfigurationError
from streamflow.transports.kafka import protocol
from streamflow.transports.kafka.connection import Connection, Coordinator, Deadline
from streamflow.transports.kafka.topic_ids import NO_ID, MetadataRequest_v10

LIMIT_MS: Final = 20_000
TOPIC_DENIED: Final = 29
GROUP_DENIED: Final = 30
CLUSTER_DENIED: Final = 31
UNKNOWN_OPERATIONS: Final = -(2**31)
"""Of a broker without an authorizer, or too old to tell."""
BITS: Final = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
DOCTOR: Final = "doctor"


class DescribeGroupsResponse(Response):  # type: ignore[misc]  # aiokafka ships no types
    """Version 3, whose rights aiokafka does not read."""

    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String("utf-8")),
                ("state", String("utf-8")),
                ("protocol_type", String("utf-8")),
                ("protocol", String("utf-8")),
                (
                    "members",
                    Array(
                        ("member_id", String("utf-8")),
                        ("client_id", String("utf-8")),
                        ("client_host", String("utf-8")),
                        ("member_metadata", Bytes),
                        ("member_assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class DescribeGroupsRequest(DescribeGroupsRequest_v3):  # type: ignore[misc]  # aiokafka ships no types
    RESPONSE_TYPE = DescribeGroupsResponse


class Rights:
    """What this user may do, over one connection. Methods raise TransportError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def missing(
        self,
        *,
        reads: Collection[str],
        writes: Collection[str],
        makes: Iterable[str],
        group: str,
        transactional_id: str | None,
    ) -> list[str]:
        """Sentences, each a right that is missing and of what; empty where there is no lack.

        ``makes``: topics that the app makes when they are not there.
        """
        deadline = self._connection.deadline(LIMIT_MS)
        lacks: list[str] = []
        names = sorted({*reads, *writes, *makes})
        there: set[str] = set()
        for code, name, operations in await self._topics(names, deadline):
            if code == TOPIC_DENIED:
                wanted = ["Read"] * (name in reads) + ["Write"] * (name in writes)
                lacks += [f"{right} on topic {name}" for right in wanted or ["Describe"]]
                there.add(name)
            elif code == protocol.NONE:
                there.add(name)
                lacks += [f"Read on topic {name}"] * (name in reads and _lacks("Read", operations))
                lacks += [f"Write on topic {name}"] * (name in writes and _lacks("Write", operations))
        lacks += await self._creating(sorted(set(makes) - there), deadline)
        lacks += await self._group(group, deadline)
        if transactional_id is not None:
            lacks += await self._transactions(transactional_id, deadline)
        return lacks

    async def _topics(self, names: list[str], deadline: Deadline) -> list[tuple[int, str, int]]:
        rows = [(NO_ID, name, protocol.NO_TAGS) for name in names]
        request = MetadataRequest_v10(rows, False, False, True, protocol.NO_TAGS)
        answer = await self._connection.ask_any(request, deadline)
        return [(row[0], row[1], row[5]) for row in answer.topics]

    async def _creating(self, names: list[str], deadline: Deadline) -> list[str]:
        """The broker is asked whether it would, and does not."""
        if not names:
            return []
        topics: list[Any] = [(name, 1, -1, [], []) for name in names]
        request = protocol.CreateTopicsRequest(topics, LIMIT_MS, True)
        answer = await self._connection.ask_any(request, deadline)
        denied = {name for name, code, _ in answer.topic_errors if code in (TOPIC_DENIED, CLUSTER_DENIED)}
        return [f"Create on topic {name}" for name in names if name in denied]

    async def _group(self, group: str, deadline: Deadline) -> list[str]:
        lack = [f"Read on group {group}"]
        place = (Coordinator.GROUP, group)
        request = DescribeGroupsRequest([group], True)
        try:
            answer = await self._connection.ask_coordinator(
                place, request, lambda answer: [row[0] for row in answer.groups], deadline
            )
        except ConfigurationError:
            return lack
        ((code, *_, operations),) = answer.groups
        return lack if code == GROUP_DENIED or _lacks("Read", operations) else []

    async def _transactions(self, transactional_id: str, deadline: Deadline) -> list[str]:
        request = InitProducerIdRequest(transactional_id=transactional_id, transaction_timeout_ms=1_000)
        place = (Coordinator.TRANSACTION, transactional_id)
        try:
            answer = await self._connection.ask_coordinator(
                place, request, lambda answer: [answer.error_code], deadline
            )
        except ConfigurationError:
            answer = None
        if answer is not None and answer.error_code == protocol.NONE:
            return []
        return [f"Write on transactional id {transactional_id} (workers' begin with the app's id)"]


def _lacks(right: str, operations: int) -> bool:
    return operations != UNKNOWN_OPERATIONS and not operations >> BITS[right] & 1
