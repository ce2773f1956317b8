"""What a log line tells of requests that fail in every way: never a header, never a token."""

from __future__ import annotations

import logging
from dataclasses import replace
from urllib.parse import urlsplit

import aiohttp
import pytest

from streamflow.web.http.routes import ROUTES
from tests.support.web_fakes import SETTINGS, Cluster
from tests.unit.web.conftest import Heard
from tests.unit.web.http.test_api import Client
from tests.unit.web.live.test_hub import connect
from tests.unit.web.test_door import answered, opened

TOKEN = "token-canary-7c2f90aa"
WRONG = "wrong-canary-11d0b7c3"
COOKIE = "cookie-canary-5520ef61"


def test_the_check_finds_what_is_told() -> None:
    heard = Heard()
    heard.note(f"Bearer {TOKEN}")
    record = logging.LogRecord("x", logging.INFO, "x", 1, "asked with %s", (TOKEN,), None)
    heard.emit(record)
    with pytest.raises(AssertionError, match="a log line tells"):
        heard.check()


async def test_requests_that_fail_tell_nothing_of_their_headers(
    heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(replace(SETTINGS, tokens=(TOKEN,), peer_timeout_s=0.2))
    heard.secrets |= {TOKEN, WRONG, COOKIE}
    async with cluster.run([0], [1, 2]) as (served, _), aiohttp.ClientSession() as session:
        client = Client(session, served)
        right = {"Authorization": f"Bearer {TOKEN}", "Cookie": f"a={COOKIE}", "Last-Event-ID": COOKIE}
        wrong = {**right, "Authorization": f"Bearer {WRONG}"}
        for route in ROUTES:
            path = route.path.format(table="users", key="k", topic="events", id="x:0:0")
            if route.group != "changes":  # they have no end
                await client.get(path, **right)
            for headers in (wrong, {**wrong, "Authorization": f"Basic {WRONG}"}):
                await client.get(path, **headers)
        async with connect(served, init=False) as live:
            await live.say("init", token=WRONG)
            assert await live.closed() in (4401, 4429)
        for raw in (
            f"GET /v1/tables HTTP/1.1\r\nAuthorization: Bearer {WRONG}\r\nX y: {COOKIE}\r\n\r\n",
            f"GET /v1/tables HTTP/9.7\r\nCookie: {COOKIE}\r\n\r\n",
            f"GET /{'x' * 9_000} HTTP/1.1\r\nCookie: {COOKIE}\r\n\r\n",
            f"{COOKIE} {WRONG}\r\n\r\n",
            f"POST /v1/tables/users/late HTTP/1.1\r\nContent-Length: no\r\nCookie: {COOKIE}\r\n\r\n",
        ):
            await answered(await opened(served), raw.encode())
        await cluster.kill(1)
        await client.get("/v1/tables/users/rows", **right)
        monkeypatch.delattr(type(served), "members")  # whatever may go wrong
        status, _, _ = await client.get("/v1/tables/users/rows", **right)
        assert status == 500
        async with connect(served, headers=right) as live:
            await live.say("subscribe", id="x", table="users")
            await live.say("subscribe", id="x", table="users")
            await live.closed()
    assert any("failed" in line for line in heard.lines)
    assert urlsplit(served.url).port
