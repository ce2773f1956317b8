"""What a live table and a live topic have in common: states, waiting until it is live, ending."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from streamflow.client.connection import Connection
from streamflow.client.errors import ClientError
from streamflow.client.messages import Position, Reason, Said, State

CLOSED = Reason("closed", "closed by this side")


class Subscription:
    """``async with`` waits until it is live, and ends it.

    Attributes:
        state: ``connecting``, ``live``, ``stale`` (it was right `age_s` ago and comes back) or ``closed``.
        reason: why it is stale or closed.
        position: source partition -> the next offset to be taken, as of what is shown.
        cursor: where to resume from.
    """

    def __init__(self, connection: Connection, name: str, wanted: dict[str, Any]) -> None:
        self.id = connection.next_id(name)
        self.state: State = "connecting"
        self.reason: Reason | None = None
        self.position: Position = {}
        self.cursor: str | None = None
        self._connection = connection
        self._wanted = wanted
        self._is_subscribed = False
        self._was_live = False
        self._current_at: float | None = None
        self._changed = asyncio.Event()  # replaced each time

    @property
    def age_s(self) -> float | None:
        """How long ago it was known to be current; ``None`` if it never was."""
        if self.state == "live":
            return self._connection.age_s
        return None if self._current_at is None else asyncio.get_running_loop().time() - self._current_at

    async def ready(self, timeout_s: float | None = None) -> Self:
        """Returns when it is live. Raises ClientError when it can't be, TimeoutError after ``timeout_s``."""
        async with asyncio.timeout(timeout_s):
            while self.state != "live":
                self.check()
                await self.changed()
        return self

    async def changed(self) -> None:
        """Returns when something is told of it, or its state changes."""
        await self._changed.wait()

    def check(self) -> None:
        """Raises ClientError when it has ended."""
        if self.state == "closed":
            assert self.reason is not None
            raise ClientError(self.reason.code, f"{self.id}: {self.reason.message}")

    async def close(self) -> None:
        self._connection.remove(self)
        self.end(CLOSED)

    async def __aenter__(self) -> Self:
        try:
            return await self.ready()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- told by the connection ----------------------------------------------------------------

    def wanted(self) -> dict[str, Any]:
        return self._wanted if self.cursor is None else {**self._wanted, "since": self.cursor}

    def refused_by(self, features: frozenset[str]) -> Reason | None:
        return None

    def hear(self, said: Said) -> None:
        raise NotImplementedError

    def lost(self, reason: Reason) -> None:
        self._is_subscribed = False
        self._become("stale" if self._was_live else "connecting", reason)

    def end(self, reason: Reason) -> None:
        self._is_subscribed = False
        self._become("closed", reason)

    def _become(self, state: State, reason: Reason | None = None) -> None:
        if self.state == "live" != state:
            self._current_at = asyncio.get_running_loop().time()
        self._was_live = self._was_live or state == "live"
        self.state, self.reason = state, reason
        self._tell()

    def _tell(self) -> None:
        told, self._changed = self._changed, asyncio.Event()
        told.set()
