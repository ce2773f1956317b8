"""Workers, agents and topics as any worker tells of them: sums over all, and who did not answer is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import jsonschema
import pytest

from tests.support.web_fakes import SETTINGS, Cluster
from tests.unit.web.http.test_api import Client


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def clients(cluster: Cluster) -> AsyncIterator[list[Client]]:
    async with cluster.run([0], [1, 2]) as workers, aiohttp.ClientSession() as session:
        yield [Client(session, worker) for worker in workers]


async def test_every_worker_tells_of_all_and_which_one_it_is(clients: list[Client]) -> None:
    for client in clients:
        body = await client.ok("/v1/workers")
        assert (body["partial"], body["missing"]) == (False, [])
        assert {w["worker"]: w["self"] for w in body["workers"]} == {
            each.served.url: each is client for each in clients
        }
        assert [len(w["partitions"]) for w in body["workers"] if w["worker"] == clients[1].served.url] == [2]
        assert all(w["breakers"] == [{"name": "payments", "state": "half-open"}] for w in body["workers"])
        assert all("lags" not in w for w in body["workers"])
        assert sum(w["lag_records"] for w in body["workers"]) == 9


async def test_a_worker_that_does_not_answer_is_named_with_what_the_group_knows(
    cluster: Cluster, clients: list[Client]
) -> None:
    await cluster.kill(1)
    gone = clients[1].served.url
    body = await clients[0].ok("/v1/workers")
    assert (body["partial"], body["missing"]) == (True, [gone])
    (dead,) = [w for w in body["workers"] if w["worker"] == gone]
    assert (dead["state"], dead["self"], dead["lag_records"]) == ("unreachable", False, None)
    assert dead["partitions"] == [{"topic": "events", "partition": 1}, {"topic": "events", "partition": 2}]


async def test_agents_are_summed_over_all_workers(cluster: Cluster, clients: list[Client]) -> None:
    (agent,) = (await clients[0].ok("/v1/agents"))["agents"]
    assert (agent["agent"], agent["workers"], agent["concurrency"]) == ("reader", 2, 1)
    assert (agent["processed"], agent["failed"], agent["retries"], agent["waiting"]) == (20, 4, 2, 6)
    assert agent["rate_per_s"] == 10.0
    # All eight lie between 1 and 2.5 ms: the middle one in the middle.
    assert agent["latency_ms"] == {"p50": 1.75, "p99": 2.485}
    assert [event["offset"] for event in agent["in_hand"]] == ["7", "7"]
    assert "buckets" not in agent
    await cluster.kill(1)
    body = await Client(clients[0].session, clients[0].served).ok("/v1/agents?")
    if body["agents"][0]["workers"] == 2:  # what was asked a moment ago is still told
        await clients[0].served.clock.sleep_ms(600)
        body = await clients[0].ok("/v1/agents")
    assert (body["partial"], body["missing"]) == (True, [clients[1].served.url])
    assert (body["agents"][0]["workers"], body["agents"][0]["processed"]) == (1, 10)


async def test_topics_have_owners_and_lags_from_all_workers(cluster: Cluster, clients: list[Client]) -> None:
    body = await clients[0].ok("/v1/topics")
    assert (body["partial"], body["missing"]) == (False, [])
    (topic,) = body["topics"]
    assert (topic["topic"], topic["internal"], topic["agents"], topic["tables"]) == (
        "events",
        False,
        ["reader"],
        ["counts"],
    )
    urls = [client.served.url for client in clients]
    assert topic["partitions"] == [
        {"partition": p, "owner": urls[p > 0], "start": "0", "end": "10", "position": "7", "lag": 3}
        for p in range(3)
    ]
    await cluster.kill(1)
    await clients[0].served.clock.sleep_ms(600)
    body = await clients[0].ok("/v1/topics")
    assert (body["partial"], body["missing"]) == (True, [urls[1]])
    assert [part["lag"] for part in body["topics"][0]["partitions"]] == [3, None, None]


@pytest.mark.parametrize("path", ["/v1/workers", "/v1/agents", "/v1/topics"])
async def test_answers_are_what_the_openapi_document_says(clients: list[Client], path: str) -> None:
    document = await clients[0].ok("/v1/openapi.json")
    schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": document["components"]}
    jsonschema.Draft202012Validator.check_schema(whole)
    jsonschema.validate(await clients[0].ok(path), whole, cls=jsonschema.Draft202012Validator)
    await clients[0].problem(f"{path}?limit=3", 400, "bad-parameter")


async def test_the_old_way_to_ask_for_workers_is_marked(clients: list[Client]) -> None:
    document = await clients[0].ok("/v1/openapi.json")
    assert document["paths"]["/v1/status"]["get"]["deprecated"] is True


async def test_who_may_read_a_topic_alone_sees_its_lag_everywhere_and_nobody_misses_anything_for_it() -> None:
    rights = ("* read:topic:events", "* read:table")
    settings, token = replace(SETTINGS, rights=rights, tokens=("s3cret",)), {"Authorization": "Bearer s3cret"}
    async with Cluster(settings).run([0], [1, 2]) as workers, aiohttp.ClientSession() as session:
        client = Client(session, workers[0])
        body = await client.ok("/v1/topics", **token)
        assert (body["partial"], body["missing"]) == (False, [])
        assert [part["lag"] for part in body["topics"][0]["partitions"]] == [3, 3, 3]
        await client.problem("/v1/workers", 403, "forbidden", **token)
