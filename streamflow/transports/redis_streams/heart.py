"""Renews the worker's lease from the thread that stands in for a blocked event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from streamflow.transports.redis_streams.connection import GROUP, Arg, Connection
from streamflow.transports.redis_streams.settings import RedisSettings


class GroupHeart:
    """``poll``: keys and arguments of the script for the membership as it is now; ``None``: there is none.

    What the script answers (a rebalance, say) the event loop hears for itself when it runs again.
    """

    def __init__(
        self, settings: RedisSettings, poll: Callable[[], tuple[Sequence[Arg], Sequence[Arg]] | None]
    ) -> None:
        self._factory = settings.connection_factory()
        limit_s = settings.request_timeout_ms / 1_000
        self._connection = Connection(self._factory.make, settings.where, limit_s)
        self._poll = poll

    async def beat(self) -> None:
        """Raises TransportError, ConfigurationError."""
        asked = self._poll()
        if asked is not None:
            await self._connection.call(GROUP, *asked)

    async def close(self) -> None:
        await self._connection.close()
        await self._factory.close()
