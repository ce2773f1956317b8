"""One Chromium for all tests, a fresh page for each, and a worker with real rows behind it."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.browser.chrome import Chromium, Page, browser, find_chromium
from tests.support.web_fakes import SIZE_MS, Cluster

AXE = pathlib.Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
NOW_MS = 1_800_000_000_000 // SIZE_MS * SIZE_MS


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium on this machine")
    with browser(path) as chromium:
        yield chromium


@pytest.fixture
async def page(chromium: Chromium) -> AsyncIterator[Page]:
    async with chromium.page() as page:
        yield page


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    for index, name in enumerate(["ann", "bob", "cyd"]):
        cluster.put("counts", name, 10 * (index + 1), start_ms=NOW_MS)
        cluster.put("counts", name, index + 1, start_ms=NOW_MS - SIZE_MS, state="closed")
    totals = {"total_events": 60, "event_types": {"click": 40, "view": 20}}
    cluster.put("totals", None, totals, start_ms=NOW_MS)
    return cluster


def row(key: str, window: int = 0) -> str:
    """JavaScript for the line of a key, the ``window``-th from the top that has it."""
    return (
        "[...document.querySelectorAll('.vrow')].sort((a, b) => a.dataset.index - b.dataset.index)"
        f".filter(r => r.querySelector('.text').textContent === '{key}')[{window}]"
    )


def number(key: str, window: int = 0) -> str:
    """JavaScript for the number in that line."""
    return f"({row(key, window)})?.querySelector('.number .text').textContent"


def keys() -> str:
    """JavaScript for the keys of all lines, in their order."""
    return (
        "[...document.querySelectorAll('.vrow')].sort((a, b) => a.dataset.index - b.dataset.index)"
        ".map(r => r.querySelector('.text').textContent).join()"
    )


def text(element: str) -> str:
    return f"(document.getElementById('{element}')?.textContent ?? '')"


async def send_events(cluster: Cluster) -> None:
    for count in range(2_000):
        cluster.put("counts", "ann", count, start_ms=NOW_MS)
        await asyncio.sleep(0.02)


async def axe(page: Page) -> list[str]:
    """Which rules of axe-core the page breaks, and where; from outside of the page's own policy."""
    if not await page.ask("typeof window.axe === 'object'"):
        await page.ask(f"{AXE.read_text(encoding='utf-8')}; 0")
    found = await page.ask(
        "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map("
        "v => `${v.id}: ${v.nodes.map(n => n.target.join(' ')).slice(0, 3).join('; ')}`))"
    )
    return list(found)
