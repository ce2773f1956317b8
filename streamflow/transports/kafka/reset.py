"""Deletes what an app has made on a broker: the group's offsets, and topics of its own."""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka.protocol.admin import DeleteGroupsRequest, DeleteTopicsRequest, DescribeGroupsRequest

from streamflow.errors import ConfigurationError, TransportError
from streamflow.transports.kafka import protocol
from streamflow.transports.kafka.connection import Connection, Coordinator, Deadline

RESET_TIMEOUT_MS = 30_000
GROUP_ID_NOT_FOUND = 69
NON_EMPTY_GROUP = 68
NOBODY = ("Empty", "Dead")
"""States of a group without members"""


async def reset(connection: Connection, group_id: str, topics: Iterable[str], *, group: bool) -> None:
    """The group first: while a worker is in it, nothing is deleted. ``group``: its offsets are.

    Raises ConfigurationError while workers run, TransportError for what the broker refuses.
    """
    deadline = connection.deadline(RESET_TIMEOUT_MS)
    await (_delete_group if group else _require_nobody)(connection, group_id, deadline)
    names = sorted(set(topics))
    if not names:
        return
    answer = await connection.ask_any(DeleteTopicsRequest(names, RESET_TIMEOUT_MS), deadline)
    for name, code in answer.topic_error_codes:
        if code not in (protocol.NONE, 3):  # 3: there is no such topic
            raise TransportError(f"deleting topic {name}: {protocol.error_name(code)}")


async def _delete_group(connection: Connection, group_id: str, deadline: Deadline) -> None:
    answer = await connection.ask_coordinator(
        (Coordinator.GROUP, group_id),
        DeleteGroupsRequest([group_id]),
        lambda told: [code for _, code in told.results],
        deadline,
    )
    for _, code in answer.results:
        if code == NON_EMPTY_GROUP:
            raise _running(group_id)
        if code not in (protocol.NONE, GROUP_ID_NOT_FOUND):
            raise TransportError(f"deleting group {group_id}: {protocol.error_name(code)}")


async def _require_nobody(connection: Connection, group_id: str, deadline: Deadline) -> None:
    answer = await connection.ask_coordinator(
        (Coordinator.GROUP, group_id),
        DescribeGroupsRequest([group_id]),
        lambda told: [code for code, *_ in told.groups],
        deadline,
    )
    for code, _, state, *_ in answer.groups:
        if code != protocol.NONE:
            raise TransportError(f"asking for group {group_id}: {protocol.error_name(code)}")
        if state not in NOBODY:
            raise _running(group_id)


def _running(group_id: str) -> ConfigurationError:
    return ConfigurationError(f"workers of {group_id!r} are running: stop them first")
