"""The pending lists hold failures only: events that an agent has failed on and has still to try again.

They are for those who look (``XPENDING``): which entry, which worker, how many attempts. What is done
with an event is the engine's matter, and its position says so. An entry is put there and taken out by
the checkpoint; the one who takes a partition over claims what a dead worker left there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from redis.exceptions import ResponseError

from streamflow.transports.base import Commit, TopicPartition
from streamflow.transports.redis_streams.connection import Connection
from streamflow.transports.redis_streams.names import id_of, offset_after
from streamflow.transports.redis_streams.settings import RedisSettings

CLAIM_COUNT = 100  # entries of one command


class Changes(NamedTuple):
    """What a checkpoint does to the pending lists: (stream, id, attempts) and (stream, id)."""

    failures: list[tuple[str, str, int]]
    settled: list[tuple[str, str]]


class Pending:
    """The entries that stand in our name. partition -> offset -> attempts of those before us."""

    def __init__(self, settings: RedisSettings) -> None:
        self._names = settings.names
        self._group = settings.group_id
        self._consumer = settings.slot
        self._ours: dict[TopicPartition, dict[int, int]] = {}

    async def take_over(self, connection: Connection, spots: Iterable[TopicPartition]) -> None:
        """Claims what stands there in whoever's name: a partition has one owner, and that is us.

        Raises TransportError.
        """
        for spot in spots:
            stream, cursor = self._names.stream(spot), b"0-0"
            claim = ("XAUTOCLAIM", stream, self._group, self._consumer, 0)
            self._ours[spot] = {}
            while True:
                (reply,) = await connection.ask((*claim, cursor, "COUNT", CLAIM_COUNT, "JUSTID"))
                if isinstance(reply, ResponseError):
                    break  # no stream or no group yet: nothing has failed
                cursor = reply[0]
                if cursor == b"0-0":
                    self._ours[spot] = await self._shown(connection, stream)
                    break

    async def _shown(self, connection: Connection, stream: str) -> dict[int, int]:
        """offset -> attempts of all that stands in our name."""
        found: dict[int, int] = {}
        start = b"-"
        while True:
            shown = await connection.one(
                "XPENDING", stream, self._group, start, "+", CLAIM_COUNT, self._consumer
            )
            found |= {offset_after(entry[0]) - 1: int(entry[3]) for entry in shown}
            if len(shown) < CLAIM_COUNT:
                return found
            start = b"(" + shown[-1][0]

    def changes(self, commit: Commit) -> Changes:
        """What this checkpoint says of failures. An entry that is committed, or fails no more, is settled."""
        failures = [
            (
                self._names.stream((topic, p)),
                id_of(offset).decode(),
                self._before((topic, p), offset) + attempts,
            )
            for (topic, p, offset), attempts in commit.failing.items()
        ]
        settled = [
            (self._names.stream(spot), id_of(offset).decode())
            for spot, end in commit.offsets.items()
            for offset in self._ours.get(spot, ())
            if offset < end and (*spot, offset) not in commit.failing
        ]
        return Changes(failures, settled)

    def committed(
        self, offsets: Mapping[TopicPartition, int], failing: Iterable[tuple[str, int, int]]
    ) -> None:
        """The checkpoint is durable."""
        still = set(failing)
        for spot, end in offsets.items():
            mine = self._ours.setdefault(spot, {})
            for offset in [o for o in mine if o < end and (*spot, o) not in still]:
                del mine[offset]
        for topic, partition, offset in still:
            self._ours.setdefault((topic, partition), {}).setdefault(offset, 0)

    def _before(self, spot: TopicPartition, offset: int) -> int:
        return self._ours.get(spot, {}).get(offset, 0)
