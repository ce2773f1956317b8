"""What a test does to one client: takes its heartbeats and its connections away. Nothing else comes here.

aiokafka offers no hook for either, so its objects are changed here, and nowhere else for this.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.conn import CloseReason

REFUSED_S = 0.05  # how long a refused connection takes, so that who tries again lets others run


class Stall:
    """From now until `end` no heartbeat leaves the group's coordinator of a consumer."""

    def __init__(self, coordinator: Any) -> None:
        self._awake = asyncio.Event()
        self._heartbeat = coordinator._do_heartbeat
        coordinator._do_heartbeat = self._later

    def end(self) -> None:
        self._awake.set()

    async def _later(self) -> bool:
        await self._awake.wait()
        return bool(await self._heartbeat())


def cut_off(client: Any) -> None:
    """All sockets of an aiokafka client closed and none opened again, as for a process that was killed."""
    client._get_conn = _no_connection
    for connection in client._conns.values():
        connection.close(reason=CloseReason.CONNECTION_BROKEN)


async def _no_connection(*_: Any, **__: Any) -> None:
    await asyncio.sleep(REFUSED_S)
