"""Where the clients run, and workers with real rows behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from tests.browser.chrome import browser, find_chromium
from tests.clients import MODULE
from tests.clients.node import Script, find_node, node
from tests.support.web_fakes import SIZE_MS, Cluster


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    for index in range(12):
        cluster.put("users", f"k{index}", index)
        for window in range(3):
            cluster.put("counts", f"k{index}", 100 * window + index, start_ms=window * SIZE_MS)
    return cluster


@pytest.fixture(params=["node", "chromium"])
async def script(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Script]:
    """Node, or a page of somebody else's that the workers allow; the client's module is ``lib`` in it."""
    if request.param == "node":
        command = find_node()
        if command is None:
            pytest.skip("no node of version 20 or newer on this machine")
        async with node(command) as made:
            yield made
        return
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with browser(chromium) as opened:
        async with site() as origin, opened.page() as page:
            cluster.settings = replace(cluster.settings, allowed_origins=(origin,))
            await page.open(origin)
            await page.ask(f"import('{origin}/{MODULE.name}').then((lib) => {{ window.lib = lib; }})")
            yield page


@asynccontextmanager
async def site() -> AsyncIterator[str]:
    """A web site with an empty page and our module; its origin."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>site</title>", content_type="text/html")

    async def module(_: web.Request) -> web.Response:
        return web.Response(text=MODULE.read_text(encoding="utf-8"), content_type="text/javascript")

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get(f"/{MODULE.name}", module)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
