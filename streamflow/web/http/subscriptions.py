"""Who listens live: how many connections, and to which rows of which tables, or to which topics."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from aiohttp import web

from streamflow.query.slices import Slices
from streamflow.web.http.api import Api, answer, only
from streamflow.web.http.completeness import UNUSABLE
from streamflow.web.http.everyone import Everyone
from streamflow.web.live.filters import Filter
from streamflow.web.live.hub import Hub
from streamflow.web.messages import Mode
from streamflow.web.peers import is_peer
from streamflow.web.rights import caller_of

ENTRIES_MAX: Final = 1_000
"""Of one worker: those with most subscribers."""
_LOOK_EVERY: Final = 200

Kind = tuple[str, bool, Filter, Mode]
"""Table, whether another worker subscribes, which rows, mode"""


class Subscriptions:
    """The handler of ``/v1/subscriptions``. Keys that somebody listens to are counted, and told to nobody."""

    def __init__(self, api: Api, hub: Hub, everyone: Everyone) -> None:
        self._served = api.served
        self._hub = hub
        self._everyone = everyone

    async def subscriptions(self, request: web.Request) -> web.StreamResponse:
        """Those of all workers; what has the same rows and mode on one worker is one entry."""
        caller_of(request).require("read", "app", self._served.app_id)
        only(request, ())
        found = await self._own()
        connections, missing = len(self._hub.sessions), list[str]()
        if not is_peer(request):
            for url, said in (await self._everyone.ask("/v1/subscriptions")).items():
                try:
                    if said is None:
                        raise ValueError("no answer")
                    theirs = [{**dict(each), "worker": url} for each in said["subscriptions"]]
                    connections += int(said["connections"])
                except UNUSABLE:
                    missing.append(url)
                    continue
                found += theirs
        body = {
            "connections": connections,
            "subscriptions": found,
            "partial": bool(missing),
            "missing": missing,
        }
        return answer(request, body)

    async def _own(self) -> list[dict[str, Any]]:
        """In slices: a thousand connections may have 64,000 of them."""
        slices = Slices(self._served.clock)
        counts: Counter[Kind] = Counter()
        for (table, is_worker), feed in list(self._hub.feeds.items()):
            for index, sub in enumerate(list(feed.subscriptions)):
                counts[table, is_worker, sub.filter, sub.mode] += 1
                if index % _LOOK_EVERY == 0 and slices.over():
                    await slices.rest()
        rows: list[dict[str, Any]] = [
            {
                "worker": self._served.url,
                "table": table,
                "topic": None,
                "of_worker": is_worker,
                "keys": None if view.keys is None else len(view.keys),
                "by_prefix": view.prefix is not None,
                "by_test": False,
                "window": view.window,
                "mode": mode,
                "subscribers": count,
            }
            for (table, is_worker, view, mode), count in counts.most_common(ENTRIES_MAX)
        ]
        return [*rows, *await self._own_of_topics(slices)]

    async def _own_of_topics(self, slices: Slices) -> list[dict[str, Any]]:
        topics: Counter[tuple[str, bool]] = Counter()
        for topic, feed in list(self._hub.topic_feeds.items()):
            for index, sub in enumerate(feed.subscriptions):
                topics[topic, sub.filter.test is not None] += 1
                if index % _LOOK_EVERY == 0 and slices.over():
                    await slices.rest()
        return [
            {
                "worker": self._served.url,
                "table": None,
                "topic": topic,
                "of_worker": False,
                "keys": None,
                "by_prefix": False,
                "by_test": by_test,
                "window": "all",
                "mode": "all",
                "subscribers": count,
            }
            for (topic, by_test), count in topics.most_common(ENTRIES_MAX)
        ]
