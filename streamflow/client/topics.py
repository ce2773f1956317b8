"""The events of a topic as they are committed, and which were lost, if any."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from streamflow.client.connection import Connection
from streamflow.client.errors import ClientError
from streamflow.client.messages import Reason, Said, TopicRecord
from streamflow.client.subscription import CLOSED, Subscription

RECORDS_MAX: Final = 100_000
"""So many events may wait to be taken."""


class LiveTopic(Subscription):
    """``async for record in topic``, by one reader.

    Raises ClientError ``records-lost`` where some are gone that came while it was away, and goes on after
    them if it is iterated again; ``too-slow`` when `RECORDS_MAX` wait.
    """

    def __init__(self, connection: Connection, topic: str, wanted: dict[str, Any], since: str | None) -> None:
        super().__init__(connection, topic, {"topic": topic, **wanted})
        self.topic = topic
        self.cursor = since
        self._records: deque[TopicRecord | ClientError] = deque()

    def refused_by(self, features: frozenset[str]) -> Reason | None:
        # A worker that does not know a message ends the connection: it is asked only where it offers this.
        if "topics" in features:
            return None
        return Reason("not-supported", "this worker tells no topics over the WebSocket")

    def hear(self, said: Said) -> None:
        if said.t == "subscribed":
            self._is_subscribed = True
            self._become("live")
        elif said.t == "events":
            self.cursor = said.cursor
            if len(self._records) + len(said.records) > RECORDS_MAX:
                self._connection.remove(self)
                self.end(Reason("too-slow", f"more than {RECORDS_MAX} events wait: take them faster"))
                return
            self._records.extend(said.records)
            self._tell()
        elif said.t == "synced":
            self.cursor = said.cursor
            self.position = said.position
            self._become("live")
        elif said.t == "reset":
            self.cursor = said.cursor
            text = f"events of {self.topic} are lost: {said.reason}"
            self._records.append(ClientError("records-lost", text, details={"partitions": said.partitions}))
            self._tell()
        elif said.t == "rebalancing":
            text = f"partitions are moving: {', '.join(map(str, said.partitions or ()))}"
            self._become("stale", Reason("rebalancing", text))

    def __aiter__(self) -> AsyncIterator[TopicRecord]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[TopicRecord]:
        while True:
            while self._records:
                record = self._records.popleft()
                if isinstance(record, ClientError):
                    raise record
                yield record
            if self.reason == CLOSED:
                return
            self.check()
            await self.changed()
