"""What an app says of itself across its workers: its tables and who runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from math import isfinite
from typing import Any
from urllib.parse import quote

from streamflow.metrics import resident_bytes
from streamflow.query.table_reader import TableReader
from streamflow.web import encoding
from streamflow.web.http.completeness import UNUSABLE, Completeness
from streamflow.web.http.scatter_gather import ScatterGather
from streamflow.web.peers import PeerAnswer, peers_of, same_url
from streamflow.web.served import Served

STATUS_KEPT_MS = 500.0
"""All dashboards get what was asked of the peers within this time."""


class Describing:
    """Tables and workers as JSON-able objects, merged from all workers."""

    def __init__(self, served: Served, scatter_gather: ScatterGather) -> None:
        self.served = served
        self.scatter_gather = scatter_gather
        self._others: list[dict[str, Any]] = []
        self._others_at_ms: float | None = None
        self._lock = asyncio.Lock()

    async def table(self, reader: TableReader, *, local_only: bool) -> dict[str, Any]:
        """One table with what all owners say of it; ``local_only``: what we alone know."""
        whole = Completeness()
        status = reader.status()
        owned = reader.owned
        rows, counters = await reader.count_rows(), dict(status.counters)
        watermarks: list[int | None] = [status.watermark_ms]
        if owned:
            whole.add_local(reader)
        rest = frozenset(range(reader.partitions)) - owned
        if local_only:
            whole.missing.update(rest)
            others = []
        else:
            others = await self._ask_owners(reader, rest, whole)
        for other in others:
            rows += other["rows"]
            if other["watermark"] is not None:
                watermarks.append(encoding.parse_time(other["watermark"]))
            for name, count in other["counters"].items():
                counters[name] = counters.get(name, 0) + count
        return {
            "name": reader.name,
            "kind": reader.kind,
            "keyed": reader.keyed,
            "window": _window(reader),
            "source_topic": reader.source_topic,
            "partitions": reader.partitions,
            "description": dict(reader.description),
            "rows": rows,
            "watermark": encoding.time_text(encoding.least_watermark(watermarks)),
            "counters": counters,
            **whole.members(),
        }

    async def _ask_owners(
        self, reader: TableReader, rest: frozenset[int], whole: Completeness
    ) -> list[dict[str, Any]]:
        """What each other owner says of the table; what nobody could say goes into ``whole.missing``."""
        by_url, nobody = peers_of(self.served, reader, rest)
        whole.missing.update(nobody)
        said: list[dict[str, Any]] = []
        path = f"/v1/tables/{quote(reader.name, safe='')}"
        urls = list(by_url)
        for url, answer in zip(urls, await self.scatter_gather.ask_each(urls, path), strict=True):
            try:
                if not isinstance(answer, PeerAnswer) or answer.status != 200:
                    raise ValueError(f"{url} has not answered")
                missing = by_url[url] & set(answer.body["missing_partitions"])
                checked = {
                    "rows": int(answer.body["rows"]),
                    "watermark": answer.body["watermark"],
                    "counters": dict(answer.body["counters"]),
                }
                whole.add_peer({**answer.body, "missing_partitions": missing}, by_url[url])
            except UNUSABLE:
                whole.missing.update(by_url[url])
            else:
                said.append(checked)
        return said

    def worker(self) -> dict[str, Any]:
        """This worker alone."""
        served = self.served
        checkpoint = served.metrics.checkpoint_seconds
        p99_s = checkpoint.quantile(0.99)
        own = [
            pair
            for member in served.members()
            if same_url(member.url, served.url)
            for pair in member.partitions
        ]
        return {
            "url": served.url,
            "reachable": True,
            "ready": served.ready(),
            "health": dict(served.health()),
            "partitions": _by_topic(own),
            "stats": dict(served.stats()),
            "checkpoint": {
                "count": checkpoint.count,
                "last_s": checkpoint.last,
                "p99_s": p99_s if p99_s is not None and isfinite(p99_s) else None,
            },
            "memory_bytes": resident_bytes() or None,
        }

    async def workers(self) -> dict[str, Any]:
        """All workers; one that does not answer has only what the group knows of it."""
        local = self.worker()
        workers = sorted([local, *await self._other_workers()], key=lambda worker: str(worker["url"]))
        return {
            "app_id": self.served.app_id,
            "url": self.served.url,
            "now": encoding.time_text(self.served.clock.now_ms()),
            "workers": workers,
            "partial": not all(worker["reachable"] for worker in workers),
        }

    async def _other_workers(self) -> list[dict[str, Any]]:
        async with self._lock:
            clock = self.served.clock
            if self._others_at_ms is not None and clock.monotonic_ms() - self._others_at_ms < STATUS_KEPT_MS:
                return self._others
            partitions = {member.url: member.partitions for member in self.served.members()}
            urls = self.scatter_gather.peers.others()
            others: list[dict[str, Any]] = []
            for url, answer in zip(urls, await self.scatter_gather.ask_each(urls, "/v1/status"), strict=True):
                try:
                    if not isinstance(answer, PeerAnswer) or answer.status != 200:
                        raise ValueError(f"{url} has not answered")
                    worker = dict(answer.body["workers"][0])
                except UNUSABLE:
                    worker = {}
                known = {"reachable": bool(worker), "partitions": _by_topic(partitions.get(url, ()))}
                others.append({**worker, **known, "url": url})
            self._others = others
            self._others_at_ms = clock.monotonic_ms()
            return others


def _window(reader: TableReader) -> dict[str, Any] | None:
    """Kind and times of the table's windows."""
    window = reader.window
    if window is None:
        return None
    own = {name: getattr(window, name) for name in ("step_ms", "gap_ms") if hasattr(window, name)}
    return {
        "kind": window.kind,
        "size_ms": window.size_ms,
        **own,
        "grace_ms": window.grace_ms,
        "retain_ms": window.retain_ms,
    }


def _by_topic(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """Topic -> its partitions, in order."""
    topics: dict[str, list[int]] = {}
    for topic, partition in sorted(pairs):
        topics.setdefault(topic, []).append(partition)
    return topics
