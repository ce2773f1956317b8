"""Heartbeats to the group's coordinator from the thread that stands in for a blocked event loop."""

from __future__ import annotations

from collections.abc import Callable

from aiokafka.protocol.group import HeartbeatRequest

from streamflow.clock import Clock
from streamflow.errors import TransportError
from streamflow.transports.kafka import protocol
from streamflow.transports.kafka.connection import Connection, Coordinator
from streamflow.transports.kafka.settings import KafkaSettings


class GroupHeart:
    """``who``: generation and member id as they are now; an empty id: no member yet, or no more.

    What else a coordinator answers (a rebalance, a generation that has passed) the event loop hears for
    itself when it runs again: in a rebalance a heartbeat keeps the member in the group all the same.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock, who: Callable[[], tuple[int, str]]) -> None:
        self._settings = settings
        self._connection = Connection(settings, clock)
        self._who = who
        self._started = False

    async def beat(self) -> None:
        """Raises TransportError, ConfigurationError."""
        if not self._started:
            await self._connection.start()
            self._started = True
        generation, member_id = self._who()
        if not member_id:
            return
        connection, place = self._connection, (Coordinator.GROUP, self._settings.group_id)
        deadline = connection.deadline(self._settings.heartbeat_ms)
        try:
            node_id = await connection.coordinator(*place, deadline)
            request = HeartbeatRequest(self._settings.group_id, generation, member_id)
            answer = await connection.ask(node_id, request, deadline, coordinator=True)
        except TransportError:
            connection.forget(place)
            raise
        if answer.error_code in protocol.COORDINATOR_MOVED:
            connection.forget(place)
            raise TransportError(f"Heartbeat: {protocol.error_name(answer.error_code)}")

    async def close(self) -> None:
        await self._connection.stop()
