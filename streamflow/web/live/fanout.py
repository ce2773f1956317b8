"""What a checkpoint changed, to everybody who watches: one task for all clients, off the checkpoint's path.

A feed notes its changes in its log and says so; everything else is done here, a stretch at a time. Whoever
comes while a message is on its way to many has it in his snapshot, and whoever has gone does not get it:
messages and subscriptions are numbered for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final, Protocol

from streamflow.metrics import Metrics
from streamflow.web.live.channel import Channel, Outgoing

log = logging.getLogger(__name__)

CLIENTS_AT_ONCE: Final = 200
"""After so many others have their turn."""


class Watched(Protocol):
    """A feed, as far as the fan-out goes."""

    name: str

    def stir(self) -> list[Channel]:
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
                at, end = 0, len(outgoing.subscriptions)
                while at < end:
                    stretch = min(left, end - at)
                    self._send(outgoing, at, at + stretch)
                    at += stretch
                    left -= stretch
                    if not left:
                        left = CLIENTS_AT_ONCE
                        await asyncio.sleep(0)

    def _send(self, outgoing: Outgoing, begin: int, end: int) -> None:
        """HOT PATH: a look, and a write, for each client."""
        number, message = outgoing.number, outgoing.message
        sent = 0
        id_json, wire = b"", b""
        for sub in outgoing.subscriptions[begin:end]:
            if sub.live_from >= number:
                continue  # it has gone, or has begun anew, with this in its snapshot
            write = sub.session.direct
            if write is None:
                message.offer_to(sub)
                continue
            if sub.id_json != id_json:
                id_json, wire = sub.id_json, message.wire(sub.id_json)
            write(wire)
            sent += 1
        self._metrics.ws_frames_total.inc(sent)
