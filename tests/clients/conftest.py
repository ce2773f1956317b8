"""Where the clients run, and workers with real rows behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import pytest
from aiohttp import web

from tests.browser.chrome import Chromium, browser, find_chromium
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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium on this machine")
    with browser(path) as chromium:
        yield chromium


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
    chromium: Chromium = request.getfixturevalue("chromium")
    async with site() as origin, chromium.page() as page:
        cluster.settings = replace(cluster.settings, allowed_origins=(origin,))
        await page.open(origin)
        await page.ask(f"import('{origin}/{MODULE.name}').then((lib) => {{ window.lib = lib; }})")
        yield page


@asynccontextmanager
async def answering(*answers: tuple[int, dict[str, Any]]) -> AsyncIterator[tuple[str, list[str]]]:
    """A worker that gives these answers, one after the other; its address, and the keys that it was sent."""
    left, keys = list(answers), list[str]()

    async def publish(request: web.Request) -> web.Response:
        keys.append(request.headers["Idempotency-Key"])
        status, body = left.pop(0)
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_post("/v1/topics/{topic}", publish)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", keys
    finally:
        await runner.cleanup()


PUBLISHED: Final = 200, {"positions": [{"partition": 2, "offset": "7"}]}
NOT_READY: Final = 503, {"code": "not-ready", "detail": "starting", "retry": True}
BROKER_AWAY: Final = (
    503,
    {"code": "broker-unavailable", "detail": "some may be written", "retry": True},
)


@asynccontextmanager
async def site(text: str = "<!doctype html><title>site</title>") -> AsyncIterator[str]:
    """A web site with one page and our module; its origin."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/html")

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
