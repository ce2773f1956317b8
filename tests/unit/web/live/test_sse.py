"""Server-sent events: the live view for clients without WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.support.web_fakes import SIZE_MS, Cluster, until
from tests.unit.web.http.test_api import Client


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    for index in range(6):
        cluster.put("counts", f"k{index}", index, start_ms=SIZE_MS)
    return cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with cluster.run([0], [1, 2]) as (served, _), aiohttp.ClientSession() as session:
        yield Client(session, served)


class Events:
    """The events of one answer."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def hear(self) -> dict[str, str]:
        """The next event: its fields."""
        async with asyncio.timeout(5):
            fields: dict[str, str] = {}
            while line := (await self.response.content.readline()).decode().rstrip("\n"):
                name, _, value = line.partition(": ")
                fields[name] = value
        return fields

    async def hear_until(self, name: str) -> tuple[dict[str, Any], str | None]:
        while True:
            fields = await self.hear()
            if fields.get("event") == name:
                return json.loads(fields["data"]), fields.get("id")


async def test_a_snapshot_and_then_changes_with_cursors_as_ids(cluster: Cluster, client: Client) -> None:
    async with client.session.get(client.url("/v1/tables/counts/changes")) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        events = Events(response)
        assert await events.hear() == {"retry": "1000"}
        said, _ = await events.hear_until("snapshot")
        assert {row["key"] for row in said["rows"]} == {f"k{index}" for index in range(6)}
        said, cursor = await events.hear_until("synced")
        assert said["cursor"] == cursor
        cluster.put("counts", "k1", "line\nbreak", start_ms=SIZE_MS)
        said, cursor = await events.hear_until("changes")
        assert said["rows"][0]["value"] == "line\nbreak"
        assert said["cursor"] == cursor
    cluster.put("counts", "k2", 22, start_ms=SIZE_MS)
    resumed = client.session.get(
        client.url("/v1/tables/counts/changes"), headers={"Last-Event-ID": cursor or ""}
    )
    async with resumed as response:
        events = Events(response)
        said, _ = await events.hear_until("subscribed")
        assert said["recovered"] is True
        said, _ = await events.hear_until("changes")
        assert [row["value"] for row in said["rows"]] == [22]
    cluster.put("counts", "k3", 1, start_ms=SIZE_MS)
    await until(lambda: client.served.metrics.ws_connections.value <= 1)


async def test_filters_come_from_the_url(cluster: Cluster, client: Client) -> None:
    path = "/v1/tables/counts/changes?key=k1&window=current&snapshot=true&max_hz=50&mode=all"
    async with client.session.get(client.url(path)) as response:
        said, _ = await Events(response).hear_until("snapshot")
        assert [row["key"] for row in said["rows"]] == ["k1"]
    async with client.session.get(client.url("/v1/tables/counts/changes?snapshot=false")) as response:
        events = Events(response)
        await events.hear()
        names = [(await events.hear())["event"] for _ in range(2)]
        assert names == ["subscribed", "synced"]


@pytest.mark.parametrize(
    "parameters", ["window=old", "mode=some", "max_hz=0", "max_hz=x", "snapshot=yes", "what=1"]
)
async def test_a_wrong_parameter_is_named(client: Client, parameters: str) -> None:
    body = await client.problem(f"/v1/tables/counts/changes?{parameters}", 400, "bad-parameter")
    assert body["parameter"] == parameters.split("=", maxsplit=1)[0]


async def test_what_is_no_key_or_no_table_is_a_problem(client: Client) -> None:
    await client.problem("/v1/tables/nothing/changes", 404, "no-such-table")
    await client.problem("/v1/tables/counts/changes?key=!x", 400, "bad-key")
    await client.problem("/v1/tables/counts/changes?key=a&prefix=b", 400, "bad-request")


async def test_a_worker_that_stops_ends_the_stream(cluster: Cluster, client: Client) -> None:
    async with client.session.get(client.url("/v1/tables/counts/changes")) as response:
        events = Events(response)
        await events.hear_until("synced")
        stopping = asyncio.create_task(cluster.kill(0))
        await events.hear_until("draining")
        assert await response.content.read() == b""
        await stopping
