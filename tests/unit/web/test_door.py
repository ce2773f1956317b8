"""Sockets: silent ones, idle ones, too many of them; what is no HTTP, and headers that are not ASCII."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from urllib.parse import urlsplit

import aiohttp
import pytest

from streamflow.web import door
from streamflow.web.security import PEER_HEADER, peer_proof
from tests.support.web_fakes import SETTINGS, Cluster, FakeServed
from tests.unit.web.live.test_hub import connect

Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LIMIT_S = 10.0


async def opened(served: FakeServed) -> Socket:
    parts = urlsplit(served.url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def answered(socket: Socket, raw: bytes) -> bytes:
    """The first line and all else that comes before the connection ends."""
    socket[1].write(raw)
    try:
        async with asyncio.timeout(LIMIT_S):
            return await socket[0].read()
    finally:
        socket[1].close()


def request(*headers: bytes, path: bytes = b"/v1/tables", close: bool = True) -> bytes:
    lines = [b"GET " + path + b" HTTP/1.1", b"Host: localhost", *headers]
    return b"\r\n".join([*lines, *([b"Connection: close"] if close else []), b"", b""])


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x"])
async def test_a_socket_without_a_whole_request_is_closed(said: bytes) -> None:
    async with Cluster(replace(SETTINGS, header_timeout_s=0.1)).run() as (served,):
        assert await answered(await opened(served), said) == b""


async def test_a_connection_that_is_idle_between_two_requests_is_closed() -> None:
    settings = replace(SETTINGS, header_timeout_s=60, idle_timeout_s=0.1)
    async with Cluster(settings).run() as (served,):
        said = await answered(await opened(served), request(close=False))
        assert said.startswith(b"HTTP/1.1 200")


async def test_silent_sockets_make_room_for_who_asks() -> None:
    async with Cluster(replace(SETTINGS, connections_max=5)).run() as (served,):
        silent = [await opened(served) for _ in range(30)]
        assert (await answered(await opened(served), request())).startswith(b"HTTP/1.1 200")
        for _, writer in silent:
            writer.close()


async def test_where_all_connections_are_at_work_the_next_is_told_to_come_later() -> None:
    async with Cluster(replace(SETTINGS, connections_max=1)).run() as (served,), connect(served) as live:
        said = await answered(await opened(served), b"")
        assert said.startswith(b"HTTP/1.1 503")
        assert b"Retry-After" in said
        await live.say("ping")  # who was there stays
        await live.hear_until("pong")


async def test_one_address_has_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own silent ones make room for it; where all are at work it has to come later, and others not."""
    monkeypatch.setattr(door, "is_loopback", lambda _: False)
    monkeypatch.setattr(door, "network", lambda address: places.get(address, address))
    places: dict[str, str] = {}
    settings = replace(SETTINGS, connections_per_address_max=2)
    async with Cluster(settings).run() as (served,):
        silent = [await opened(served) for _ in range(9)]
        async with connect(served) as one, connect(served) as two:
            said = await answered(await opened(served), request())
            assert said.startswith(b"HTTP/1.1 503")
            places["127.0.0.1"] = "another network"
            assert (await answered(await opened(served), request())).startswith(b"HTTP/1.1 200")
            for live in (one, two):
                await live.say("ping")
                await live.hear_until("pong")
        places.clear()
        for _ in range(9):  # who has gone counts no longer
            assert (await answered(await opened(served), request())).startswith(b"HTTP/1.1 200")
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize("name", [b"Authorization", b"Origin", b"If-None-Match", b"Last-Event-ID", b"Accept"])
@pytest.mark.parametrize("value", ["ü".encode(), b"\xff\xfe"])
@pytest.mark.parametrize("path", [b"/v1/tables", b"/v1/ws", b"/v1/tables/counts/changes"])
async def test_a_header_that_is_not_ascii_is_a_bad_request(name: bytes, value: bytes, path: bytes) -> None:
    upgrade = [
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Connection: Upgrade",
    ]
    async with Cluster(replace(SETTINGS, tokens=("right",))).run() as (served,):
        more = upgrade if path == b"/v1/ws" else []
        raw = request(name + b": Bearer " + value, *more, path=path, close=not more)
        socket = await opened(served)
        socket[1].write(raw)
        async with asyncio.timeout(LIMIT_S):
            assert (await socket[0].readline()).startswith(b"HTTP/1.1 400"), raw
        socket[1].close()


@pytest.mark.parametrize("cursor", ["²", "1.²", "9" * 5_000])
async def test_a_cursor_of_other_digits_is_no_error_of_the_worker(cursor: str) -> None:
    async with Cluster().run() as (served,), aiohttp.ClientSession() as session:
        for path, statuses in (
            ("/v1/tables/counts/rows?cursor=", {400}),
            ("/v1/tables/by_type/late?cursor=", {400}),
            ("/v1/tables/counts/rows?limit=", {400}),
            ("/v1/tables/counts/rows?partitions=", {400}),
        ):
            async with session.get(served.url + path + cursor) as response:
                assert response.status in statuses, path
        async with connect(served) as live:
            await live.subscribe("x", "users")
            feed = next(iter(served.cluster.hubs[0].feeds.values()))
            view = next(iter(feed.subscriptions)).filter
            await live.say("unsubscribe", id="x")
            since = f"{feed.history.id}.{cursor}.{view.fingerprint}"
            await live.subscribe("x", "users", since=since)


async def test_what_fails_in_an_upgraded_stream_closes_it_and_writes_no_http(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Cluster().run() as (served,), connect(served) as live:
        del served.tables  # whatever may go wrong
        await live.say("subscribe", id="x", table="users")
        assert await live.closed() == 1011
        assert "a WebSocket failed" in caplog.text


async def test_a_malformed_header_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster().run() as (served,):
        with caplog.at_level(logging.DEBUG):
            said = await answered(await opened(served), request(b"Authorization: Bearer sec\x01ret"))
            assert b" 400 " in said.splitlines()[0]
            said = await answered(await opened(served), request(b"Authorization sec\x01ret"))
            assert b" 400 " in said.splitlines()[0]
        assert "ret" not in caplog.text.replace("retr", "")


@pytest.mark.parametrize("tokens", [(), ("right",)])
async def test_who_only_says_to_be_a_worker_has_the_limits_of_a_client(tokens: tuple[str, ...]) -> None:
    secret = "what-workers-know-of-each-other"
    settings = replace(SETTINGS, tokens=tokens, peer_secret=secret)
    cluster = Cluster(replace(settings, ws_subscriptions_max=2, ws_messages_per_s_max=5))
    bearer = {"Authorization": "Bearer right"} if tokens else {}
    async with cluster.run([0], [1, 2]) as (served, other):
        wrong = peer_proof("another secret", "demo", served.url)
        others = peer_proof(secret, "demo", other.url)
        for url, more, is_refused in (
            ("x", bearer, True),
            (served.url, bearer, True),
            (other.url, bearer, True),
            (other.url, {"Authorization": f"{PEER_HEADER} {wrong}"}, True),
            (other.url, {"Authorization": f"{PEER_HEADER} {others}"}, True),
            (other.url, {"Authorization": f"{PEER_HEADER} {peer_proof(secret, 'demo', served.url)}"}, False),
        ):
            if tokens and more is not bearer and is_refused:
                async with connect(served, init=False, headers={PEER_HEADER: url, **more}) as live:
                    await live.say("init")
                    assert await live.closed() == 4401
                continue
            async with connect(served, headers={PEER_HEADER: url, **more}) as live:
                for number in range(3):
                    await live.say("subscribe", id=str(number), table="users", snapshot=False)
                await live.say("ping")
                refused = []
                while (said := await live.hear())["t"] != "pong":
                    refused += [said["code"]] if said["t"] == "error" else []
                assert (refused == ["too-many-subscriptions"]) is is_refused
        async with connect(served, headers={PEER_HEADER: "x", **bearer}) as live:
            for _ in range(40):
                await live.say("ping")
            assert await live.closed() == 4429
