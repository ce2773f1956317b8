"""Counts of large tables: in slices, and by what has changed since."""

from __future__ import annotations

from functools import partial
from typing import Any

import aiohttp
import pytest

from streamflow.query import sliding_rows
from tests.support.running import T0_MS, make_app, running, until


async def test_windows_of_many_panes_are_counted_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliding_rows, "FEW_PANES", 10)
    app = make_app(web_enabled=True, web_port=0)
    topic = app.topic("in", key_type=str, value_type=int, partitions=2)
    table = app.Table("sums", default=int, partitions=2).sliding(10)

    @app.agent(topic)
    async def counting(stream: Any) -> None:
        async for key, value in stream.items():
            table[key] += value

    async with running(app), aiohttp.ClientSession() as http:
        assert app.engine_service.watcher is not None
        base = app.engine_service.watcher.url

        async def told(path: str, count: int) -> bool:
            async with http.get(base + path) as response:
                text = await response.text()
            return f'"rows":{count},' in text or f'table_rows{{table="sums"}} {count}.0\n' in text

        for round_ in (1, 2):
            for n in range(30):
                at = (T0_MS + round_ * 1_000_000 + n * 20_000) / 1_000  # each in a window of its own
                await topic.send(key=f"k{n % 7}", value=1, timestamp=at)
            for path in ("/v1/tables/sums", "/metrics"):
                await until(partial(told, path, 30 * round_))
