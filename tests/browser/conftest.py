"""One Chromium for each test, and a worker with real rows behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.browser.chrome import Page, browser, find_chromium
from tests.support.web_fakes import SIZE_MS, Cluster

NOW_MS = 1_800_000_000_000 // SIZE_MS * SIZE_MS


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no chromium on this machine")
    async with browser(chromium) as page:
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
