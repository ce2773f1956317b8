"""What lists over HTTP cost: ``python -m tests.bench.lists [--rows N] [--windows N]``.

One worker on memory, its tables filled as a checkpoint fills them. Each list is asked for over HTTP in the
worker's own event loop, and beside its time stands the longest time that the loop did nothing else. The first
page makes what later pages have, so both are told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp

from streamflow import App
from streamflow.app.worker.process import QuietCollector
from tests.support.running import T0_MS, make_app, running

PARTITIONS = 4
ROWS = (400_000, 4_000_000)
WINDOWS = 100
SIZE_MS = 10_000
PAGES = 5

LISTS = {
    "by window": "/v1/tables/{table}/rows?limit=100",
    "newest windows": "/v1/tables/{table}/rows?limit=100&sort=-window",
    "by key": "/v1/tables/{table}/rows?limit=100&sort=key",
    "prefix": "/v1/tables/{table}/rows?limit=100&prefix=user-77",
    "open": "/v1/tables/{table}/rows?limit=100&state=open",
    "by value": "/v1/tables/{table}/rows?limit=100&sort=-value",
    "key range": "/v1/tables/{table}/rows?limit=100&sort=key&key_from=user-77&key_to=user-78",
    "three keys": "/v1/tables/{table}/rows?limit=100&keys=user-7&keys=user-8&keys=user-9",
}
ONCE = {
    "few by a test": "/v1/tables/{table}/rows?limit=100&where=value+%3D%3D+77",
    "count": "/v1/tables/{table}/rows?count=only",
    "count by a test": "/v1/tables/{table}/rows?count=only&where=value+%3D%3D+77",
    "a page of 1,000": "/v1/tables/{table}/rows?limit=1000",
    "windows of a key": "/v1/tables/{table}/keys/user-7/windows?limit=100",
    "a key that is not there": "/v1/tables/{table}/keys/nobody",
    "metrics": "/metrics",
}


class LoopMeter:
    """The longest time for which the event loop did not come round: of this thread, not of its neighbours."""

    def __init__(self) -> None:
        self._longest_s = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self._longest_s = max(self._longest_s, now - before)
            before = now

    def begin(self) -> None:
        self._longest_s = 0.0

    def longest_ms(self) -> float:
        return self._longest_s * 1_000


def fill(app: App, name: str, rows: int, windows: int) -> None:
    """``rows`` rows in ``windows`` windows (0: a table without windows), as checkpoints leave them."""
    per_window = rows // max(1, windows)
    for partition, part in app.engine.topology.tables[name].parts.items():
        own = {f"user-{n}": n for n in range(per_window) if n % PARTITIONS == partition}
        for start in starts(windows):
            part.store.apply({start: dict(own)})


def starts(windows: int) -> Iterator[int]:
    yield from (T0_MS + n * SIZE_MS for n in range(windows)) if windows else (0,)


async def ask(http: aiohttp.ClientSession, url: str, meter: LoopMeter) -> tuple[Any, dict[str, float]]:
    meter.begin()
    began = time.perf_counter()
    async with http.get(url) as response:
        raw = await response.read()
    took = (time.perf_counter() - began) * 1_000
    body = json.loads(raw) if response.content_type == "application/json" else None
    return body, {"ms": round(took, 1), "longest_stop_ms": round(meter.longest_ms(), 1)}


async def pages(http: aiohttp.ClientSession, url: str, meter: LoopMeter) -> dict[str, Any]:
    """The first page, and the slowest of the next ones."""
    body, first = await ask(http, url, meter)
    rest: list[dict[str, float]] = []
    while body.get("next") and len(rest) < PAGES:
        body, cost = await ask(http, f"{url}&cursor={body['next']}", meter)
        rest.append(cost)
    return {"first": first, "next": {k: max(c[k] for c in rest) for k in first} if rest else None}


async def measure(rows: int, windows: int) -> dict[str, Any]:
    app = make_app(web_enabled=True, web_port=0, commit_interval=0.5)
    topic = app.topic("in", key_type=str, value_type=int, partitions=PARTITIONS)
    table = app.Table("rows", default=int, partitions=PARTITIONS)
    if windows:
        table = table.tumbling(SIZE_MS / 1_000, expires=1e9)

    @app.agent(topic)
    async def counting(stream: Any) -> None:
        async for key in stream:
            table[key] += 1

    found: dict[str, Any] = {}
    async with running(app), aiohttp.ClientSession() as http:
        fill(app, "rows", rows, windows)
        assert app.engine_service.watcher is not None
        base, meter = app.engine_service.watcher.url, LoopMeter()
        collector = QuietCollector()
        collector.begin()  # as in a worker
        task = asyncio.create_task(meter.run())
        for name, path in LISTS.items():
            if windows or name != "open":
                found[name] = await pages(http, base + path.format(table="rows"), meter)
        for name, path in ONCE.items():
            twice = [(await ask(http, base + path.format(table="rows"), meter))[1] for _ in range(2)]
            found[name] = dict(zip(("first", "next"), twice, strict=True))
        task.cancel()
        collector.end()
    return found


async def every(rows: Sequence[int], windows: int = WINDOWS) -> list[dict[str, Any]]:
    """Each list at each number of rows, without windows and with so many."""
    return [
        {"rows": count, "windows": of, "list": name, **cost}
        for count in rows
        for of in (0, windows)
        for name, cost in (await measure(count, of)).items()
    ]


def table(costs: list[dict[str, Any]]) -> str:
    lines = [
        "| a page of 100 rows | rows | windows | first, ms | next, ms | longest stop of the loop, ms |",
        "|---|---|---|---|---|---|",
    ]
    for cost in costs:
        first, later = cost["first"], cost["next"] or cost["first"]
        lines.append(
            f"| {cost['list']} | {cost['rows']:,} | {cost['windows']} | {first['ms']} | {later['ms']} |"
            f" {first['longest_stop_ms']}, then {later['longest_stop_ms']} |"
        )
    return "\n".join(lines)


async def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tests.bench.lists", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROWS))
    parser.add_argument("--windows", type=int, default=WINDOWS)
    options = parser.parse_args(arguments)
    for cost in await every(options.rows, options.windows):
        sys.stdout.write(json.dumps(cost) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
