"""The same question to every other worker of the app: what each says, and who did not answer.

It is this worker's own, and not that of who asks it: the answers serve all who ask at the same time, whatever
their rights. What they may see is checked by who shows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from streamflow.web.peers import PeerAnswer, Peers, PeerUnavailable
from streamflow.web.rights import as_worker
from streamflow.web.served import Served

KEPT_MS: Final = 500.0
"""All who ask within this time get what was asked of the peers once."""


class Everyone:
    """Asks all peers at once. An answer that is no JSON object counts as none."""

    def __init__(self, served: Served, peers: Peers) -> None:
        self.served = served
        self._peers = peers
        self._kept: dict[str, tuple[float, dict[str, dict[str, Any] | None]]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def ask(self, path: str) -> Mapping[str, dict[str, Any] | None]:
        """Address of each other worker -> its answer, or ``None`` where there is none that can be used."""
        clock = self.served.clock
        async with self._locks.setdefault(path, asyncio.Lock()):
            kept = self._kept.get(path)
            if kept is not None and clock.monotonic_ms() - kept[0] < KEPT_MS:
                return kept[1]
            urls = self._peers.others()
            with as_worker():
                answers = await asyncio.gather(*(self._one(url, path) for url in urls))
            found = dict(zip(urls, answers, strict=True))
            self._kept[path] = clock.monotonic_ms(), found
            return found

    async def _one(self, url: str, path: str) -> dict[str, Any] | None:
        try:
            answer: PeerAnswer = await self._peers.get(url, path)
        except PeerUnavailable:
            return None
        return answer.body if answer.status == 200 and isinstance(answer.body, dict) else None
