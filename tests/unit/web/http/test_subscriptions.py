"""Who listens live, over HTTP: of all workers, in few entries, and without the keys."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import jsonschema

from streamflow.web.http.stream_routes import SCHEMAS
from streamflow.web.messages import SUBPROTOCOL
from tests.support.web_fakes import Cluster
from tests.unit.web.http.test_api import Client

PATH = "/v1/subscriptions"
A_TEST = {"where": "value > 1"}


async def subscribe(session: aiohttp.ClientSession, url: str, *wanted: dict[str, Any]) -> Any:
    socket = await session.ws_connect(f"{url}/v1/ws", protocols=[SUBPROTOCOL])
    await socket.send_json({"t": "init"})
    for index, each in enumerate(wanted):
        await socket.send_json({"t": "subscribe", "id": str(index), "snapshot": False, **each})
    synced = 0
    async with asyncio.timeout(5):
        while synced < len(wanted):
            synced += (await socket.receive_json())["t"] == "synced"
    return socket


async def test_any_worker_tells_of_the_subscriptions_to_all() -> None:
    cluster = Cluster()
    async with cluster.run([0], [1, 2]) as (first, second), aiohttp.ClientSession() as session:
        all_rows, two_keys = {"table": "counts"}, {"table": "counts", "keys": ["secret-1", "secret-2"]}
        sockets = [
            await subscribe(session, first.url, all_rows, two_keys),
            await subscribe(session, first.url, all_rows),
            await subscribe(session, second.url, {"table": "users", "prefix": "secret", "mode": "all"}),
            await subscribe(session, first.url, *({"topic": "events", **more} for more in ({}, A_TEST))),
        ]
        for client in (Client(session, first), Client(session, second)):
            async with asyncio.timeout(10):
                while True:
                    body = await client.ok(PATH)
                    told = {
                        (each["worker"], each["table"], each["keys"], each["by_prefix"]): each["subscribers"]
                        for each in body["subscriptions"]
                        if not each["of_worker"] and each["table"] is not None
                    }
                    if len(told) == 3:
                        break
            assert told == {
                (first.url, "counts", None, False): 2,
                (first.url, "counts", 2, False): 1,
                (second.url, "users", None, True): 1,
            }
            topics = [each for each in body["subscriptions"] if each["table"] is None]
            assert sorted((each["worker"], each["topic"], each["by_test"]) for each in topics) == [
                (first.url, "events", False),
                (first.url, "events", True),
            ]
            assert body["connections"] >= 4
            assert "secret" not in str(body)
            jsonschema.validate(body, dict(SCHEMAS["Subscriptions"]), cls=jsonschema.Draft202012Validator)
        await cluster.kill(1)
        async with asyncio.timeout(10):
            while True:
                body = await Client(session, first).ok(PATH)
                if body["partial"]:
                    break
        assert body["missing"] == [second.url]
        for socket in sockets:
            await socket.close()
