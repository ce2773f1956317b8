"""The late-event store over HTTP: of all partitions, page by page, and applied by their owners."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jsonschema
import pytest

from streamflow.query.rows import LateRow
from tests.support.web_fakes import SIZE_MS, Cluster
from tests.unit.web.http.test_api import Client

PATH = "/v1/tables/by_type/late"


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster()
    cluster.data["by_type"].kind = "aggregate"
    for partition in range(3):
        cluster.data["by_type"].late[partition] = [
            LateRow("click", ((0, SIZE_MS),), 5, 10 * offset, offset, True) for offset in (9, 10, 2**60)
        ]
    return cluster


@pytest.fixture
async def clients(cluster: Cluster) -> AsyncIterator[list[Client]]:
    async with cluster.run([0], [1, 2]) as workers, aiohttp.ClientSession() as session:
        yield [Client(session, worker) for worker in workers]


async def post(client: Client, path: str, **headers: str) -> tuple[int, Any]:
    async with client.session.post(client.url(path), headers=headers) as response:
        return response.status, await response.json(content_type=None)


async def test_any_worker_lists_what_came_too_late_in_all_partitions(clients: list[Client]) -> None:
    for client in clients:
        body = await client.ok(PATH)
        assert len(body["late"]) == 9
        assert body["late"][0] == {
            "key": "click",
            "windows": [{"start": "1970-01-01T00:00:00Z", "end": "1970-01-01T00:00:10Z"}],
            "time": "1970-01-01T00:00:00.005Z",
            "behind_ms": 90,
            "topic": "events",
            "partition": 0,
            "offset": "9",
            "applies": True,
        }
        assert body["totals"] == {str(p): {"came": 3, "lost": 0, "applied": 0} for p in range(3)}
        assert (body["partial"], body["next"]) == (False, None)


async def test_pages_follow_one_another_without_gap_or_repeat(clients: list[Client]) -> None:
    for client in clients:
        places: list[tuple[int, str]] = []
        cursor: str | None = ""
        while cursor is not None:
            tail = f"&cursor={cursor}" if cursor else ""
            body = await client.ok(f"{PATH}?limit=2{tail}")
            assert len(body["late"]) <= 2
            places += [(event["partition"], event["offset"]) for event in body["late"]]
            cursor = body["next"]
        assert places == [(p, offset) for p in range(3) for offset in ("9", "10", str(2**60))]


async def test_applying_reaches_every_owner_and_says_what_it_did(
    cluster: Cluster, clients: list[Client]
) -> None:
    expected = {"applied": 9, "expired": 0, "unsupported": 0, "partial": False, "missing_partitions": []}
    assert await post(clients[0], PATH) == (200, {**expected, "partitions": [0, 1, 2]})
    assert await post(clients[1], PATH) == (200, {**expected, "applied": 0, "partitions": [0, 1, 2]})
    assert (await clients[0].ok(PATH))["late"] == []


async def test_what_a_worker_could_not_apply_is_said_to_be_missing(
    cluster: Cluster, clients: list[Client]
) -> None:
    clients[1].served.error = "partitions moved"
    status, body = await post(clients[0], PATH)
    assert (status, body["applied"], body["partial"], body["missing_partitions"]) == (200, 3, True, [1, 2])
    status, body = await post(clients[1], PATH)
    assert (status, body["code"]) == (503, "owner-unavailable")


async def test_wrong_questions_are_refused(clients: list[Client]) -> None:
    client = clients[0]
    await client.problem(f"{PATH}?limit=0", 400, "bad-parameter")
    await client.problem(f"{PATH}?limit=x", 400, "bad-parameter")
    await client.problem(f"{PATH}?cursor=abc", 400, "bad-cursor")
    await client.problem(f"{PATH}?state=open", 400, "bad-parameter")
    await client.problem("/v1/tables/none/late", 404, "no-such-table")
    assert (await post(client, "/v1/tables/users/late"))[0] == 409
    assert (await client.ok("/v1/tables/users/late"))["late"] == []
    assert (await post(client, PATH, Origin="https://elsewhere.example"))[0] == 403
    assert len((await client.ok(PATH))["late"]) == 9, "nothing was applied"


async def test_answers_are_what_the_openapi_document_says(clients: list[Client]) -> None:
    document = await clients[0].ok("/v1/openapi.json")
    operations = document["paths"]["/v1/tables/{table}/late"]
    answers = {"get": await clients[0].ok(PATH), "post": (await post(clients[0], PATH))[1]}
    for method, body in answers.items():
        schema = operations[method]["responses"]["200"]["content"]["application/json"]["schema"]
        whole = {**schema, "components": document["components"]}
        jsonschema.Draft202012Validator.check_schema(whole)
        jsonschema.validate(body, whole, cls=jsonschema.Draft202012Validator)
