"""Deletes what an app has made on a broker: the group's offsets, and topics of its own."""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka.protocol.admin import DeleteGroupsRequest, DeleteTopicsRequest

from streamflow.errors import ConfigurationError, TransportError
from streamflow.transports.kafka import protocol
from streamflow.transports.kafka.connection import Connection, Coordinator

RESET_TIMEOUT_MS = 30_000
GROUP_ID_NOT_FOUND = 69
NON_EMPTY_GROUP = 68


async def reset(connection: Connection, group_id: str, topics: Iterable[str]) -> None:
    """The group first: while a worker is in it, nothing is deleted.

    Raises ConfigurationError while workers run, TransportError for what the broker refuses.
    """
    deadline = connection.deadline(RESET_TIMEOUT_MS)
    answer = await connection.ask_coordinator(
        (Coordinator.GROUP, group_id),
        DeleteGroupsRequest([group_id]),
        lambda told: [code for _, code in told.results],
        deadline,
    )
    for _, code in answer.results:
        if code == NON_EMPTY_GROUP:
            raise ConfigurationError(f"workers of {group_id!r} are running: stop them first")
        if code not in (protocol.NONE, GROUP_ID_NOT_FOUND):
            raise TransportError(f"deleting group {group_id}: {protocol.error_name(code)}")
    names = sorted(set(topics))
    if not names:
        return
    answer = await connection.ask_any(DeleteTopicsRequest(names, RESET_TIMEOUT_MS), deadline)
    for name, code in answer.topic_error_codes:
        if code not in (protocol.NONE, 3):  # 3: there is no such topic
            raise TransportError(f"deleting topic {name}: {protocol.error_name(code)}")
