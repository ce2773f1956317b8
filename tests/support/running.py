"""An app in this process and this event loop, on memory."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

from streamflow import App, Event
from streamflow.clock import EPOCH
from streamflow.transports.base import Batch

POLL_S = 0.005
LIMIT_S = 10.0
T0_MS = 1_760_000_000_000

_numbers = itertools.count()


def make_app(**options: Any) -> App:
    """An app of its own that commits at once and has no web view, unless told so."""
    options = {"commit_interval": 0.02, "fetch_wait_ms": 5, "web_enabled": False, "env": {}, **options}
    return App(f"app-{next(_numbers)}", **options)


@asynccontextmanager
async def running(app: App) -> AsyncIterator[App]:
    """Starts the app as a worker does; its partitions are live inside."""
    async with asyncio.timeout(LIMIT_S):
        await app.start()
    try:
        yield app
    finally:
        async with asyncio.timeout(LIMIT_S):
            await app.stop()
    if app.crashed:
        raise AssertionError(f"the app crashed: {app.crash_reason!r}")


def end_engine() -> None:
    """A worker dies: nothing of the engine that runs in this loop goes on."""
    for task in asyncio.all_tasks():
        if task.get_name().startswith("streamflow-"):
            task.cancel()


async def until(check: Callable[[], Any]) -> Any:
    """The first true answer of ``check``, which may be async."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            answer = check()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(POLL_S)


def event(kind: str = "click", at_ms: int = T0_MS, **data: Any) -> Event:
    return Event(id="1", type=kind, timestamp=moment(at_ms), data=data)


def moment(at_ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=at_ms)


async def log(app: App, topic: str) -> list[tuple[bytes | None, bytes | None, Mapping[str, bytes | None]]]:
    """Key, value and headers of everything committed in a topic, partition by partition."""
    engine = app.engine
    counts = await engine.transport.partition_counts([topic])
    reader = engine.transport.log_reader()
    await reader.assign({(topic, partition): 0 for partition in range(counts.get(topic, 0))})
    records: list[tuple[bytes | None, bytes | None, Mapping[str, bytes | None]]] = []
    try:
        for batch in await reader.read(1):
            records.extend(_records(batch))
    finally:
        await reader.close()
    return records


async def logged(app: App, topic: str, count: int) -> list[Any]:
    """`log`, as soon as it has so many records."""

    async def enough() -> list[Any]:
        records = await log(app, topic)
        return records if len(records) >= count else []

    found: list[Any] = await until(enough)
    return found


def _records(batch: Batch) -> list[tuple[bytes | None, bytes | None, Mapping[str, bytes | None]]]:
    headers = batch.headers or [()] * len(batch.offsets)
    return [(k, v, dict(h)) for k, v, h in zip(batch.keys, batch.values, headers, strict=True)]
