"""What a checkpoint changed, to everybody who watches: one task for all clients, off the checkpoint's path.

A feed notes its changes in its log and says so; everything else is done here, a stretch at a time. Whoever
comes while a message is on its way to many has it in his snapshot, and whoever has gone does not get it:
messages and subscriptions are numbered for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from streamflow.metrics import Metrics

log = logging.getLogger(__name__)

CLIENTS_AT_ONCE: Final = 200
"""After so many others have their turn."""


class Sendable(Protocol):
    """A message, and those who get it."""

    def __len__(self) -> int: ...

    def send(self, begin: int, end: int) -> int:
        """To these of them; returns to how many it was written."""
        ...


class Speaks(Protocol):
    """Has messages for many."""

    def next(self) -> Sendable | None: ...


class Watched(Protocol):
    """A feed, as far as the fan-out goes."""

    name: str

    def stir(self) -> Sequence[Speaks]:
        """Lets every channel see what is new; those that have something to say."""
        ...

    def void(self) -> None: ...


class Fanout:
    """`start` and `stop` it; `wake` it when a feed has something."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._feeds: deque[Watched] = deque()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="streamflow-live-fanout")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def wake(self, feed: Watched) -> None:
        if feed not in self._feeds:
            self._feeds.append(feed)
        self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._feeds:
                feed = self._feeds.popleft()
                try:
                    await self._serve(feed)
                except Exception:  # one broken table must not stop the others
                    log.exception("live changes of table %s", feed.name)
                    feed.void()

    async def _serve(self, feed: Watched) -> None:
        left = CLIENTS_AT_ONCE
        for channel in feed.stir():
            while (outgoing := channel.next()) is not None:
                at, end = 0, len(outgoing)
                while at < end:
                    stretch = min(left, end - at)
                    self._metrics.ws_frames_total.inc(outgoing.send(at, at + stretch))
                    at += stretch
                    left -= stretch
                    if not left:
                        left = CLIENTS_AT_ONCE
                        await asyncio.sleep(0)
